"""A run's folder: who may write there, what is written when, and what happens if it cannot be written.

README.md beside this file lists the files of a run and what they promise.
"""
from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy

from .. import backend
from ..datasets.augment import PADDING
from ..distributed import SINGLE_PROCESS, Group
from ..nn import Module
from ..optim import Optimizer
from ..support.diverged import Diverged
from ..support.files import refusing, sync, user_path, write_atomically
from .checkpoint import last_good, load_checkpoint, save_checkpoint
from .curves import Metrics, draw_curves, draw_identity
from .folder_lock import FolderLock
from .json_lines import append_lines, are_numbers, json_line, read_lines
from .progress import say

RUN_FILES = "config.json", "metrics.jsonl", "checkpoint.npz", "curve.png", "identity.png"
CHECKPOINT_SECONDS = 300  # between checkpoints, besides those at evaluations and at the end


class Due(NamedTuple):
    """What is due after a step."""
    metrics: bool  # a line of metrics.jsonl
    evaluation: bool
    checkpoint: bool
    end: bool  # of the run


class Run:
    """A training run and its folder: the argument of `train`, which enters it as a context.

    folder: made if absent. config: settings to save, for JSON. seed, crop_padding: of the batches, as in
    `batch_of_step`. step: steps already done, if model and optimizer come from the checkpoint in the folder:
    `resume` sees to it.
    overwrite: whether a run that starts may replace the one in the folder.
    evaluate_every: steps between evaluations (and checkpoints); default: one epoch.
    metrics_every: steps between lines; default: 10, or 100 on a GPU, which has to wait for the figures of
    each line.
    group: the processes that share the run. Only process 0 writes; the others make the same calls.
    stopped_by: after `train`, the number of the signal that asked the run to stop, or None.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any], *, seed: int = 0, step: int = 0,
                 overwrite: bool = False, evaluate_every: int | None = None, metrics_every: int | None = None,
                 group: Group = SINGLE_PROCESS, crop_padding: int = PADDING) -> None:
        self.folder, self.config, self.seed, self.step = user_path(folder), dict(config), seed, step
        self.crop_padding = crop_padding
        self.evaluate_every, self.metrics_every, self.group = evaluate_every, metrics_every, group
        self.overwrite, self.stopped_by = overwrite, None
        self.checkpoint, self.metrics_file = self.folder / "checkpoint.npz", self.folder / "metrics.jsonl"
        self.metrics: Metrics = []
        self.lines_written = 0
        self.last_saved = time.perf_counter()

    def resume(self, model: Module, optimizer: Optimizer) -> Run:
        """Load the folder's checkpoint into model and optimizer, so that `train` goes on where it was saved.
        Returns the run itself.

        Raises FileNotFoundError if there is no checkpoint, ValueError if it is damaged or of another network
        or optimizer.
        """
        checkpoint = load_checkpoint(self.checkpoint)
        with refusing(f"{self.checkpoint} is of another network or optimizer"):
            model.load_state_dict(checkpoint.model)
            optimizer.load_state_dict(checkpoint.optimizer)
        self.step = checkpoint.step
        return self

    def __enter__(self) -> Run:
        """Lock the folder, and start its metrics over or, when resuming, cut them off at the checkpoint.

        Raises ValueError if a run that starts would replace another, RuntimeError if another process trains
        there, or has since the checkpoint was read, OSError if a file cannot be written.
        """
        if self.group.rank == 0:
            self._lock = FolderLock(self.folder, RUN_FILES)
        try:
            self._check_checkpoint()
            kept = read_metrics(self.metrics_file) if self.step else []
            self.metrics = [line for line in kept if line["step"] <= self.step]
            if self.group.rank == 0:
                self._begin()
        except BaseException:
            self._release()
            raise
        self.last_saved = time.perf_counter()
        return self

    def _check_checkpoint(self) -> None:
        """Nobody else writes it now, but a run that has ended since this one looked may have."""
        if self.overwrite or not self.checkpoint.is_file():
            return
        if not self.step:
            raise ValueError(f"{self.folder} already holds a run: give --resume to continue it, or another "
                             "--out; in Python, Run(...).resume(model, optimizer), another folder, or "
                             "Run(..., overwrite=True)")
        if (step := load_checkpoint(self.checkpoint).step) > self.step:
            raise RuntimeError(f"{self.folder} has come to step {step} since step {self.step} was read: "
                               "another run went on there and has ended; resume again")

    def _begin(self) -> None:
        """Write the settings, and all metrics so far."""
        write_atomically(self.folder / "config.json",
                         lambda file: file.write(json.dumps(self.config, indent=2).encode()))
        write_atomically(self.metrics_file, lambda file: file.writelines(map(json_line, self.metrics)))
        self.lines_written = len(self.metrics)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        """Give the lock back, and tell an error that ends the run which checkpoint is good."""
        self._release()
        if isinstance(error, Diverged) and not error.last_good:
            error.last_good = last_good(self.checkpoint)

    def _release(self) -> None:
        if self.group.rank == 0:
            self._lock.close()

    def record(self, line: Mapping[str, Any]) -> None:
        """Add a line to the metrics. A line that cannot be written is tried again with the next one, and
        before a checkpoint is saved.

        A folder that was removed is made again. Raises RuntimeError, as `save` does, if another run has begun
        there meanwhile.
        """
        self.metrics.append(dict(line))
        if self.group.rank == 0:
            self._write(self.metrics_file, self._append)

    def _append(self, path: Path) -> None:
        append_lines(path, self.metrics[self.lines_written:])
        self.lines_written = len(self.metrics)

    def due(self, step: int, steps: int, epoch: int, stopped: bool) -> Due:
        """What is due after a step, the first of which is 1.

        steps: of the whole run. epoch: steps of one. stopped: whether a signal asks the run to end.
        The last step is evaluated, the one after which a signal ends the run is not. A line and a checkpoint
        are due at their own times, with each evaluation and at the end.
        """
        evaluation = step == steps or step % (self.evaluate_every or max(1, epoch)) == 0
        line = step % (self.metrics_every or (10 if backend.current() is numpy else 100)) == 0
        checkpoint, end = time.perf_counter() - self.last_saved > CHECKPOINT_SECONDS, step == steps or stopped
        return Due(line or evaluation or end, evaluation, checkpoint or evaluation or end, end)

    def save(self, model: Module, optimizer: Optimizer, step: int, last: bool) -> None:
        """Save a checkpoint and draw the curves; report a file that cannot be written on stderr.

        Raises OSError if the last checkpoint of the run cannot be written, Diverged if a weight is not
        finite.
        """
        def save(path: Path) -> None:
            with suppress(OSError):  # which `record` has reported
                self._append(self.metrics_file)
            sync(self.metrics_file)  # first, so that no checkpoint is ahead of its metrics
            save_checkpoint(path, model, optimizer, step, self.config)

        if self.group.rank == 0:
            self._write(self.checkpoint, save, fatal=last)
            self._write(self.folder / "curve.png", lambda path: draw_curves(path, {"": self.metrics}))
            self._write(self.folder / "identity.png", lambda path: draw_identity(path, self.metrics))
        self.last_saved = time.perf_counter()

    def _write(self, path: Path, write: Callable[[Path], None], fatal: bool = False) -> None:
        """Make sure of the folder, and write a file. Report an OSError and go on: the disk may have room
        next time. Raise it if fatal."""
        try:
            if not (self._lock.keep() and self.metrics_file.exists()):
                say(f"\n{self.folder} was removed: it is made again", file=sys.stderr)
                self._begin()
            write(path)
        except OSError as error:
            trouble = f"could not write {path} ({error}); {last_good(self.checkpoint)}"
            if fatal:
                raise OSError(f"{trouble}. Make room, and resume") from error
            say(f"\n{trouble}. Training goes on", file=sys.stderr)


def read_metrics(path: str | Path) -> Metrics:
    """The lines of a metrics.jsonl: none if the file is absent, and without a last line that was cut off.
    Raises ValueError that names a line with anything but a step and numbers."""
    metrics = []
    for number, line in read_lines(path):
        if "h_over_x" in line:  # its name until version 0.1
            line["residual_ratios"] = line.pop("h_over_x")
        if not _is_metrics(line):
            raise ValueError(f"{path}, line {number} holds no metrics of a run: delete it")
        metrics.append(line)
    return metrics


def _is_metrics(line: dict[str, Any]) -> bool:
    """Whether a line has a step, and nothing but numbers besides."""
    step, numbers = line.get("step"), [value for name, value in line.items() if name != "residual_ratios"]
    return (type(step) is int and 0 <= step < 2**31 and are_numbers(numbers)
            and are_numbers(line.get("residual_ratios", [1])))
