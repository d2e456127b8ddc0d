"""What a run would cost, from its first steps."""
from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy

from .. import backend
from ..datasets.dataset import Dataset
from ..datasets.loader import training_batches
from ..distributed import SINGLE_PROCESS, Group
from ..fast import memory_kept
from ..nn import Module
from ..optim import Optimizer
from .curves import Metrics
from .loop import Compute, loss_and_error, training_step

STEPS, BEFORE, BEFORE_ON_GPU = 3, 1, 4  # timed; before, when memory is allocated and a GPU records a step


def dry_run(model: Module, optimizer: Optimizer, schedule: Callable[[int], float], dataset: Dataset,
            steps: int, batch_size: int, group: Group = SINGLE_PROCESS,
            compute: Compute = loss_and_error) -> Metrics:
    """Take a few steps of a run, print the time and memory of one and the hours of all, and write nothing.

    steps, batch_size: of the whole run. group: the processes that share it. schedule, compute: as in `train`.
    Returns no lines of metrics.
    The hours are an estimate: of steps on this machine, as busy as it is now, without evaluations.
    """
    seconds, before = [], BEFORE if backend.current() is numpy else BEFORE_ON_GPU
    with memory_kept():
        batches = training_batches(dataset.train, batch_size, 0, 0, min(steps, before + STEPS), group.shard)
        for number, (images, labels) in enumerate(batches):
            optimizer.lr = schedule(number)  # the full rate could diverge where a run warms up
            start = time.perf_counter()
            loss, _ = training_step(model, optimizer, images, labels, group, compute)
            float(loss)  # waits for a GPU
            seconds.append(time.perf_counter() - start)
    seconds = seconds[before:] or seconds
    step = min(seconds)
    print(f"Dry run: {model.num_parameters():,} trainable weights, batches of {batch_size}\n"
          f"  a step        {step:.3g} seconds, the fastest of {len(seconds)}\n"
          f"  peak memory   {peak_memory()}{' in each process' * (group.size > 1)}\n"
          f"  {steps:,} steps  about {steps * step / 3600:.1f} hours on this machine: an estimate, without "
          "evaluations")
    return []


def peak_memory() -> str:
    """The most memory that this process has held so far; on a GPU, what all programs hold there."""
    if (xp := backend.current()) is not numpy:
        free, total = xp.cuda.runtime.memGetInfo()  # since a captured step has a pool of its own
        return f"{(total - free) / 2**30:.2f} GiB in use on the GPU"
    try:
        import resource
    except ImportError:  # Windows
        return "unknown on this system"
    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.2f} GiB"
