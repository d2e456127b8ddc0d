"""The scale of a float16 network's gradients, adapted as it trains (Micikevicius et al., 2018).

A step in which a gradient overflows is skipped and the scale halved; after GROWTH_STEPS good steps the scale
is doubled.

Why it is faster: a GPU finds out by itself whether a step is to be skipped, and what becomes of the scale,
while Python launches the next step. Python looks at the first and at every LOOK_EVERY-th step only.
"""
from __future__ import annotations

from collections.abc import Mapping

import numpy

from ...backend import Array, xp_of
from ...kernel import kernel
from ...optim import Optimizer
from ...support.diverged import Diverged
from . import cuda, lists
from .precision import Float16, any_not_finite

MAX_LOSS_SCALE = 2.0**24
GROWTH_STEPS = 2000
LOOK_EVERY = 100  # and where losses are fetched: one that is no number names no layer
SCALE_STATE = "loss_scale", "good_steps"  # names in an optimizer's state


@kernel
def adapt(scale: Array, good_steps: Array, overflowed: Array) -> None:
    """Halve the scale after a step that overflowed, double it after GROWTH_STEPS others.

    All three are arrays without axes, so that nobody needs to look at them; the first two change in place.
    """
    where = xp_of(scale).where
    good_steps[...] = where(overflowed, 0, good_steps + 1)
    grows = (good_steps >= GROWTH_STEPS) & (scale < MAX_LOSS_SCALE)
    scale *= where(overflowed, 0.5, where(grows, 2, 1))
    good_steps *= ~grows


@adapt.variant(cuda.cupy_arrays)
def adapt_in_one_launch(scale: Array, good_steps: Array, overflowed: Array) -> None:
    """one launch instead of eleven"""
    cuda.elementwise_kernel(
        "uint32 overflowed, float32 growth_steps, float32 limit", "float32 scale, float32 good_steps",
        "good_steps = overflowed ? 0 : good_steps + 1;"
        "bool grows = good_steps >= growth_steps && scale < limit;"
        "scale = overflowed ? scale / 2 : grows ? scale * 2 : scale;"
        "good_steps = grows ? 0 : good_steps", "tinyres_adapt",
    )(overflowed, numpy.float32(GROWTH_STEPS), numpy.float32(MAX_LOSS_SCALE), scale, good_steps)


class ScaledOptimizer(Optimizer):
    """An optimizer of a `Float16` network that adapts its scale: a step whose gradients are not all finite is
    skipped.

    Its state is that of the optimizer and the scale. SGD on a GPU waits for nothing; other optimizers wait at
    every step for the flag that says whether it is skipped.
    """

    def __init__(self, optimizer: Optimizer, model: Float16) -> None:
        super().__init__(optimizer.parameters, optimizer.lr)
        self.optimizer, self.model, self.steps = optimizer, model, 0
        self.good_steps: Array = xp_of(model.loss_scale.data).zeros((), "float32")
        scale_state = model.loss_scale.data, self.good_steps
        self.state = optimizer.state | dict(zip(SCALE_STATE, scale_state, strict=True))

    def step(self) -> None:
        """Move the parameters or, if a gradient is not finite, halve the scale.

        Raises Diverged, naming the layer, if activations overflow, which no scale can prevent: on a GPU up to
        LOOK_EVERY steps later, none of which has moved a weight. Who fetches losses before may `look`.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        overflowed = any_not_finite(gradients) if gradients else numpy.uint32(0)
        self.steps, can_skip = self.steps + 1, lists.can_skip(self.optimizer)
        if self.steps == 1 or self.steps % LOOK_EVERY == 0 or not can_skip:
            self.look(bool(overflowed))
        self.optimizer.lr = self.lr
        with lists.skipped_if(overflowed):
            if can_skip or not overflowed:
                self.optimizer.step()
        adapt(self.model.loss_scale.data, self.good_steps, overflowed)

    def load_state_dict(self, state: Mapping[str, numpy.ndarray]) -> None:
        """Set the state, in place; the scale stays as it is if the state comes from another precision."""
        super().load_state_dict({name: self.state[name] for name in SCALE_STATE} | dict(state))

    def look(self, overflowed: bool, step: int | None = None) -> None:
        """Raise Diverged if no scale helps; overflowed: whether something is not finite at this step."""
        if overflowed and (name := self.model.overflowing_layer()):
            raise Diverged(f"the output of {name}, in float16,", "Start another run with a lower learning "
                           "rate, or go on with --precision tf32, whose numbers may be larger", step)
        scale = float(self.model.loss_scale)
        if scale < 1 or overflowed and scale == 1:
            raise Diverged("a gradient, in float16 and unscaled,", "Go on with --precision tf32", step)
