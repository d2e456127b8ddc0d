"""When a run writes a line of metrics, evaluates, saves and ends: asked in one place, after each step."""
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
    """Tells what is due after each step of a run.

    steps: of the whole run. epoch: steps of one, by default the distance between evaluations.
    """

    def __init__(self, run: Run, steps: int, epoch: int) -> None:
        self.run, self.steps = run, steps
        self.evaluate_every = run.evaluate_every or max(1, epoch)
        self.metrics_every = run.metrics_every or (10 if backend.current() is numpy else 100)

    def due(self, step: int, stopped: bool) -> Due:
        """What is due after a step, the first of which is 1. stopped: whether a signal asks the run to end.

        The last step is evaluated, the one after which a signal ends the run is not. A line and a checkpoint
        are due at their own times, with each evaluation and at the end.
        """
        finished = step == self.steps
        evaluation, end = finished or step % self.evaluate_every == 0, finished or stopped
        return Due(metrics=evaluation or end or step % self.metrics_every == 0, evaluation=evaluation,
                   checkpoint=evaluation or end or self.run.checkpoint_due(), end=end)
