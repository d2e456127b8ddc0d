"""What is due after each step of a run."""
from __future__ import annotations

from typing import NamedTuple

import numpy

from .. import backend
from .run_folder import Run


class Due(NamedTuple):
    """What is due after a step."""
    metrics: bool  # a line of metrics.jsonl
    evaluation: bool
    checkpoint: bool
    end: bool  # of the run


class Timetable:
    """Tells what is due after which step of a run.

    steps: of the whole run. epoch: steps in one, the default distance of evaluations.
    """

    def __init__(self, run: Run, steps: int, epoch: int) -> None:
        self.run, self.steps = run, steps
        self.evaluate_every = run.evaluate_every or max(1, epoch)
        self.metrics_every = run.metrics_every or (10 if backend.current() is numpy else 100)

    def due(self, step: int, stopped: bool) -> Due:
        """step: steps done, so that 1 is the first. stopped: whether a signal has asked the run to end.

        An evaluation is due at every multiple of its distance and after the last step, but not where a signal
        ends the run. A line and a checkpoint are due with each evaluation and at the end, besides their own
        times.
        """
        finished = step == self.steps
        evaluation, end = finished or step % self.evaluate_every == 0, finished or stopped
        return Due(metrics=evaluation or end or step % self.metrics_every == 0, evaluation=evaluation,
                   checkpoint=evaluation or end or self.run.checkpoint_due(), end=end)
