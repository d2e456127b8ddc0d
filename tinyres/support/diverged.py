"""The one error of a computation whose numbers are no longer finite."""
from __future__ import annotations

LOWER_RATE = "The network has diverged: start another run with a lower learning rate"


class Diverged(FloatingPointError):
    """Something is infinite or not a number, so that training on would destroy the weights.

    what: its name, such as "the gradient of stem.weight". remedy: what to do, a sentence without its period.
    step: the step at which it was found, if known. last_good: which checkpoint to go back to, in words.
    Code that raises this may know neither step nor checkpoint; code that knows them sets them on its way up.
    """

    def __init__(self, what: str, remedy: str = LOWER_RATE, step: int | None = None,
                 last_good: str = "") -> None:
        super().__init__(what, remedy, step, last_good)
        self.what, self.remedy, self.step, self.last_good = what, remedy, step, last_good

    def __str__(self) -> str:
        step = "" if self.step is None else f" at step {self.step}: the run cannot go on"
        checkpoint = f"; {self.last_good}" if self.last_good else ""
        return f"{self.what} is not finite{step}{checkpoint}. {self.remedy}"
