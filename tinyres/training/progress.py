"""Figures of a run in progress: their means since the last line of metrics, the clock, the progress line."""
from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from ..backend import Array, to_numpy
from ..distributed import SINGLE_PROCESS, Group
from ..support.diverged import Diverged

DISPLAY_SECONDS = 0.5, 15.0  # between progress lines: on a terminal, elsewhere


def say(text: str, **options: Any) -> None:
    """Print if possible: a closed pipe, or a log on a full disk, must not end a run."""
    with suppress(OSError, ValueError):  # ValueError: the stream was closed
        print(printable(text, options.get("file") or sys.stdout), flush=True, **options)


def printable(text: str, stream: TextIO) -> str:
    """The text with escapes such as \\xe4 for what a terminal, or the like, cannot encode."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


class Progress:
    """Losses and errors since the last line of metrics, the clock, and the progress line.

    Figures are added as arrays, where they were computed, and fetched only when they are shown, so that a GPU
    need not wait for Python after each step. look: called then, with whether a loss is not finite, and the
    step; an optimizer may know more of it, and raise.
    """

    def __init__(self, first_step: int, steps: int, batch_size: int,
                 look: Callable[[bool, int], None] | None = None) -> None:
        self.step, self.first_step, self.steps, self.batch_size = first_step, first_step, steps, batch_size
        self.look = look or (lambda overflowed, step: None)
        self.terminal = sys.stdout is not None and sys.stdout.isatty()
        self.test = ""
        self.line: dict[str, float] = {}
        self.started = time.perf_counter()
        self.last_shown = -math.inf
        self.pending: list[tuple[int, Array, Array]] = []
        self.figures: list[tuple[float, float]] = []
        self.since = self.started

    def add(self, step: int, loss: Array, error: Array) -> None:
        """The figures of a step, the first of which is 1."""
        self.step = step
        self.pending.append((step, loss, error))

    def fetch(self) -> None:
        """Turn pending figures into numbers. Raises Diverged, naming the step, if a loss is not finite."""
        for step, loss, error in self.pending:
            self.figures.append((float(to_numpy(loss)), float(to_numpy(error))))
            if not math.isfinite(self.figures[-1][0]):
                self.look(True, step)
                raise Diverged(f"the loss ({self.figures[-1][0]})", step=step)
        self.look(False, self.step)
        self.pending = []

    def summary(self, group: Group = SINGLE_PROCESS) -> dict[str, float]:
        """Means since the last line, over the processes of the group."""
        self.fetch()
        loss, error = (sum(column) / len(self.figures) for column in zip(*self.figures, strict=True))
        speed = len(self.figures) * self.batch_size / (time.perf_counter() - self.since)
        figures = {"train_loss": loss, "train_error": error, "images_per_second": round(speed, 1)}
        totals = group.all_reduce_sum(*figures.values())
        return dict(zip(figures, (total / group.size for total in totals), strict=True))

    def restart(self, line: Mapping[str, float]) -> None:
        """Begin new means and a new clock after a line of metrics."""
        if "test_error" in line:
            self.test = f"  test error {100 * line['test_error']:.2f} % (step {line['step']})"
        self.line, self.figures, self.since = dict(line), [], time.perf_counter()

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Within this context, while a checkpoint is saved, time does not count towards images per second."""
        start = time.perf_counter()
        yield
        self.since += time.perf_counter() - start

    def show(self, always: bool) -> None:
        """Print the progress line if it is time for it, or always."""
        now = time.perf_counter()
        if not always and now - self.last_shown < DISPLAY_SECONDS[not self.terminal]:
            return
        self.last_shown = now
        figures = self.summary() if self.pending or self.figures else self.line
        left = (now - self.started) / (self.step - self.first_step) * (self.steps - self.step)
        text = (f"step {self.step}/{self.steps}  loss {figures['train_loss']:.3f}  "
                f"error {100 * figures['train_error']:.1f} %{self.test}  {figures['images_per_second']:.0f} "
                f"images/s  {int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02} left")
        if self.terminal:
            say(f"\r{text:<100}", end="\n" if always else "")
        else:
            say(text)
