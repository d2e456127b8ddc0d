"""A few steps before a run on a GPU that move no weight: how long one takes, and whether it fits."""
from __future__ import annotations

import time
from collections.abc import Callable

import numpy

from .. import backend
from ..backend import Array
from ..module import Module, unchanged
from .loop import Compute, loss_and_error

cupy = backend.cupy

TRIAL_STEPS = 5  # the last is timed; in those before, kernels are compiled and a captured step is recorded
SMALL_BATCHES = 1, 8  # tried if the batch does not fit, to find one that would
GIB = 2**30


def describe(model: Module, compute: Compute, image_shape: tuple[int, ...], batch_size: int, steps: int,
             precision: str) -> str:
    """One line about what a run will need: device, precision, memory, time.

    image_shape: (H, W, C). batch_size: on this device. steps: of the run.
    Raises RuntimeError, naming the largest batch that would fit, if the device has too little memory.
    """
    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    free, total = cupy.cuda.runtime.memGetInfo()
    try:
        with unchanged(model):
            seconds = _seconds(model, compute, image_shape, batch_size)
    except cupy.cuda.memory.OutOfMemoryError:
        seconds = None  # go on outside: the exception keeps the arrays of the step
    if seconds is None:
        _forget_gradients(model)  # those that a backward pass has left half done
        largest = largest_batch(lambda size: _bytes(model, image_shape, size), free)
        remedy = (f"about --batch-size {largest} would" if largest
                  else "no batch would; choose fewer --blocks or smaller --widths")
        raise RuntimeError(f"a step of {batch_size} images does not fit into the {free / GIB:.1f} GiB "
                           f"that are free on {name}: {remedy}")
    used = free - cupy.cuda.runtime.memGetInfo()[0]
    return (f"{name}, {precision}: {used / GIB:.1f} of {total / GIB:.1f} GiB; {1000 * seconds:.1f} ms a "
            f"step, so that {steps:,} steps take about {steps * seconds:,.0f} s, evaluations aside")


def largest_batch(used: Callable[[int], float], free: float) -> int:
    """The largest batch that fits into `free` bytes, if memory grows in a line; 0 if none does.

    used: batch size -> bytes; asked for SMALL_BATCHES, through which the line is drawn.
    """
    try:
        small, large = map(used, SMALL_BATCHES)
    except MemoryError:
        return 0
    per_image = max(1.0, (large - small) / (SMALL_BATCHES[1] - SMALL_BATCHES[0]))
    return max(0, int(SMALL_BATCHES[0] + (0.95 * free - small) / per_image))


def _seconds(model: Module, compute: Compute, image_shape: tuple[int, ...], batch_size: int) -> float:
    batch = _batch(image_shape, batch_size)
    for _ in range(TRIAL_STEPS):
        cupy.cuda.runtime.deviceSynchronize()
        start = time.perf_counter()
        compute(model, *batch)
        cupy.cuda.runtime.deviceSynchronize()
        seconds = time.perf_counter() - start
        _forget_gradients(model)
    return seconds


def _forget_gradients(model: Module) -> None:
    """Or those of the trial would be added to those of the first step."""
    for parameter in model.parameters():
        parameter.grad = None


def _batch(image_shape: tuple[int, ...], batch_size: int) -> tuple[Array, Array]:
    return cupy.zeros((batch_size, *image_shape), "float32"), cupy.zeros(batch_size, numpy.int64)


def _bytes(model: Module, image_shape: tuple[int, ...], batch_size: int) -> float:
    """The free memory that a step uses."""
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    free = cupy.cuda.runtime.memGetInfo()[0]
    batch = _batch(image_shape, batch_size)
    with unchanged(model):
        loss_and_error(model, *batch)
    used = free - cupy.cuda.runtime.memGetInfo()[0]
    _forget_gradients(model)
    pool.free_all_blocks()
    return used
