"""The folder of a run: what lies in it, who may write there, and how a run goes on after it was stopped.

    config.json      the settings it was started with
    metrics.jsonl    one JSON object per line: step, lr, train_loss, train_error, images_per_second; at
                     evaluations also test_loss, test_error, test_top5_error (for more than five classes) and
                     residual_ratios, ||h(x)|| / ||x|| of each residual block. Errors are fractions from 0 to
                     1; training figures are means over the steps since the line before, on augmented images.
    checkpoint.npz   weights, momentum, step and settings: all that is needed to go on bit for bit. The random
                     streams are functions of seed and step (see datasets/loader.py), so these two are their
                     state.
    curve.png        loss and error against step
    identity.png     ||h(x)|| / ||x|| of each residual block against depth
    .lock            empty; held while a run writes here, so that a second one is refused
"""
from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from ..distributed import SINGLE_PROCESS, Group
from ..nn import Module
from ..optim import Optimizer
from ..support.files import locked, read_npz, write_atomically
from .curves import Metrics, draw_curves, draw_identity
from .progress import say

RUN_FILES = "config.json", "metrics.jsonl", "checkpoint.npz", "curve.png", "identity.png"
LOWER_RATE = "Start another run with a lower learning rate"
CHECKPOINT_SECONDS = 300  # besides those at evaluations and at the end


class Run:
    """A training run and its folder, to be given to `train`, which enters it as a context.

    folder: made if absent. config: settings to save, for JSON. seed: of the batches. step: steps already
    done, when model and optimizer come from the checkpoint in the folder.
    evaluate_every: steps between evaluations (and checkpoints); default: one epoch.
    metrics_every: steps between lines; default: 10, on a GPU, which waits for each line's figures, 100.
    group: the processes that share the run. Only process 0 writes; the others make the same calls.
    """

    def __init__(self, folder: str | Path, config: Mapping[str, Any], *, seed: int = 0, step: int = 0,
                 evaluate_every: int | None = None, metrics_every: int | None = None,
                 group: Group = SINGLE_PROCESS) -> None:
        self.folder, self.config, self.seed, self.step = Path(folder), dict(config), seed, step
        self.evaluate_every, self.metrics_every, self.group = evaluate_every, metrics_every, group
        self.checkpoint, self.metrics_file = self.folder / "checkpoint.npz", self.folder / "metrics.jsonl"
        self.metrics: Metrics = []
        self.lines_written = 0
        self.last_saved = time.perf_counter()

    def __enter__(self) -> Run:
        """Lock the folder. Raises RuntimeError if another process trains there, OSError if it cannot be
        written."""
        with ExitStack() as stack:
            if self.group.rank == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.folder, RUN_FILES))
            self.metrics = [line for line in read_metrics(self.metrics_file) if 0 < self.step >= line["step"]]
            if self.group.rank == 0:
                write_atomically(self.folder / "config.json",
                                 lambda file: file.write(json.dumps(self.config, indent=2).encode()))
                write_atomically(self.metrics_file,
                                 lambda file: file.writelines(map(_json_line, self.metrics)))
            self.lines_written, self.last_saved = len(self.metrics), time.perf_counter()
            self._lock = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.close()

    def record(self, line: Mapping[str, Any]) -> None:
        """Add a line to the metrics. If it cannot be written, that is tried again with the next one."""
        self.metrics.append(dict(line))
        if self.group.rank == 0:
            with self._warn_if_unwritable(self.metrics_file):
                _append(self.metrics_file, self.metrics[self.lines_written:])
                self.lines_written = len(self.metrics)

    def checkpoint_due(self) -> bool:
        """Whether the last checkpoint is CHECKPOINT_SECONDS old."""
        return time.perf_counter() - self.last_saved > CHECKPOINT_SECONDS

    def save(self, model: Module, optimizer: Optimizer, step: int, last: bool) -> None:
        """Save a checkpoint and draw the curves. A file that cannot be written is reported on stderr.

        Raises OSError if that is the last checkpoint, FloatingPointError if a weight is not finite.
        """
        if self.group.rank == 0:
            with self._warn_if_unwritable(self.checkpoint, fatal=last):
                save_checkpoint(self.checkpoint, model, optimizer, step, self.config)
            with self._warn_if_unwritable(self.folder / "curve.png"):
                draw_curves(self.folder / "curve.png", {"": self.metrics})
            with self._warn_if_unwritable(self.folder / "identity.png"):
                draw_identity(self.folder / "identity.png", self.metrics)
        self.last_saved = time.perf_counter()

    def last_good(self) -> str:
        """Which checkpoint there is to go back to, in words."""
        return _last_good(self.checkpoint)

    @contextmanager
    def _warn_if_unwritable(self, path: Path, fatal: bool = False) -> Iterator[None]:
        """Say that a file could not be written, and go on: the disk may have room the next time."""
        try:
            yield
        except OSError as error:
            trouble = f"could not write {path} ({error}); {self.last_good()}"
            if fatal:
                raise OSError(f"{trouble}. Make room, and resume") from error
            say(f"\n{trouble}. Training goes on", file=sys.stderr)


class Checkpoint(NamedTuple):
    """What `save_checkpoint` wrote: give model and optimizer to their `load_state_dict`."""
    model: dict[str, numpy.ndarray]
    optimizer: dict[str, numpy.ndarray]
    step: int
    config: dict[str, Any]


def save_checkpoint(path: str | Path, model: Module, optimizer: Optimizer, step: int,
                    config: Mapping[str, Any]) -> None:
    """Write a checkpoint as one .npz file of plain arrays; an older one is replaced only once this one is
    whole.

    Raises FloatingPointError, and writes nothing, if a weight or velocity is not finite.
    """
    write_checkpoint(Path(path), Checkpoint(model.state_dict(), optimizer.state_dict(), step, dict(config)))


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """`save_checkpoint` of what is in memory already."""
    step, config = checkpoint.step, checkpoint.config
    arrays = {f"{part}/{name}": value for part in ("model", "optimizer")
              for name, value in getattr(checkpoint, part).items()}
    for name, value in arrays.items():
        if not numpy.isfinite(value).all():
            raise FloatingPointError(f"{name} is not finite after step {step}: the run has diverged. Nothing "
                                     f"was saved; {_last_good(path)}. {LOWER_RATE}")
    arrays |= {"step": numpy.int64(step), "config": numpy.array(json.dumps(config))}
    write_atomically(path, lambda file: numpy.savez(file, **arrays))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, which may come from anywhere: nothing in it is executed, no more memory taken than
    it is long.

    Raises FileNotFoundError if there is none, ValueError if the file is not a whole checkpoint.
    """
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder: expected a file, such as the checkpoint.npz of a run")
    parts: dict[str, dict[str, numpy.ndarray]] = {"model": {}, "optimizer": {}}
    try:
        arrays = read_npz(path)
        step, config = arrays.pop("step"), arrays.pop("config")
        for name, value in arrays.items():
            part, _, key = name.partition("/")
            if value.dtype.kind != "f" or value.itemsize > 8 or not numpy.isfinite(value).all():
                raise ValueError(f"{name!r:.60} is {value.dtype}, expected finite floats")
            parts[part][key] = value
        settings = json.loads(config.item())
        if step.dtype.kind != "i" or step.item() < 0 or not isinstance(settings, dict):
            raise ValueError("its step is no number >= 0, or its config no object")
        return Checkpoint(parts["model"], parts["optimizer"], step.item(), settings)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {path}") from None
    except Exception as error:  # a damaged file can raise nearly any exception
        raise ValueError(f"{path} is not a whole checkpoint of tinyres ({type(error).__name__}: "
                         f"{' '.join(str(error).split())[:200]})") from error


def read_metrics(path: str | Path) -> Metrics:
    """The lines of a metrics.jsonl, none if the file is absent; a last line that was cut off is left out."""
    if not Path(path).exists():
        return []
    metrics = []
    for text in Path(path).read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            break
        if "h_over_x" in line:  # its name until version 0.1
            line["residual_ratios"] = line.pop("h_over_x")
        metrics.append(line)
    return metrics


def _append(path: Path, lines: Metrics) -> None:
    size = path.stat().st_size
    try:
        with open(path, "ab") as file:
            file.writelines(map(_json_line, lines))
    except OSError:
        os.truncate(path, size)  # or the next line would join a torn one
        raise


def _json_line(line: Mapping[str, float]) -> bytes:
    return json.dumps(dict(line), allow_nan=False).encode() + b"\n"


def _last_good(checkpoint: Path) -> str:
    if checkpoint.exists():
        return f"the last good checkpoint is {checkpoint}"
    return "no checkpoint had been saved yet"
