"""How a GPU multiplies matrices: exactly, with rounded factors, or in 16 bits.

"float32": as it is. "tf32": factors rounded to 10 bits after the point, sums in float32. "float16": a network
wrapped in `Float16` keeps images and activations in float16, half the memory traffic; weights and their sums
stay float32. NumPy knows "float32" only.

Gradients of pixels are about 1e-6; the smallest number that float16 holds is 6e-8, the largest 65504. So
gradients inside the network are multiplied by a scale, as large as possible (Micikevicius et al., 2018): a
step in which a gradient overflows is skipped and the scale halved; after GROWTH_STEPS good steps the scale is
doubled.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy
from numpy.random import Generator

from ... import backend
from ...backend import Array, xp_of
from ...models import ResidualNetwork
from ...module import Module, unchanged
from ...nn import BatchNorm2d, Conv2d, ResidualBlock
from ...ops import relu
from ...optim import Optimizer
from ...support.diverged import Diverged
from ...tensor import Tensor, no_grad
from .uncopied_gradients import unshared

PRECISIONS = "float32", "tf32", "float16"
LOSS_SCALE = 4096.0  # to begin with; powers of two only, so that scaling rounds nothing
MAX_LOSS_SCALE = 2.0**24
GROWTH_STEPS = 2000
SCALE_STATE = "loss_scale", "good_steps"  # names in an optimizer's state

_tf32 = False


def use(precision: str) -> None:
    """Choose how a GPU multiplies float32 matrices from here on. For "float16", also wrap the network.

    Raises ValueError for another precision, or for one that needs a GPU while NumPy is in use.
    """
    global _tf32
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown: expected one of {', '.join(PRECISIONS)}")
    if backend.current() is numpy and precision != "float32":
        raise ValueError(f"precision {precision!r} needs a GPU: NumPy computes in 'float32'")
    _tf32 = precision == "tf32"


def tf32() -> bool:
    """Whether float32 matrices are multiplied as TF32."""
    return _tf32


class Float16(Module):
    """A network whose convolutions compute in float16, with float32 weights, logits and gradients of weights.

    Inside, gradients are `loss_scale` times too large: they are scaled where they enter float16 and scaled
    back where they leave it, so that no code outside need know. Names and parameters are the network's.
    """

    def __init__(self, network: ResidualNetwork) -> None:
        self.network = network
        self.residual_ratios = network.residual_ratios
        self.loss_scale = Tensor(backend.current().full((), LOSS_SCALE, "float32"))
        self.last_images: Tensor | None = None

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Those of the network."""
        return self.network.named_tensors()

    def named_generators(self) -> Iterator[tuple[str, Generator]]:
        """Those of the network."""
        return self.network.named_generators()

    def __call__(self, x: Tensor) -> Tensor:
        self.last_images = x
        with self._float16_weights():
            features = self.network.features(_inside(x, self.loss_scale))
        return self.network.classify(_to_float32(features, self.loss_scale))

    def overflowing_layer(self) -> str | None:
        """The name of the first layer whose output for the last images is not finite, if there is one."""
        with no_grad(), unchanged(self), self._float16_weights():
            for name, x in self._layers(_inside(self.last_images.detach(), self.loss_scale)):
                if not bool(xp_of(x.data).isfinite(x.data).all()):
                    return name
        return None

    def _layers(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        for name, block, x, out in self.network.steps(images):
            if isinstance(block, ResidualBlock) and block.is_papers():
                inner = block.conv1(x)
                yield f"{name}.conv1", inner
                yield f"{name}.conv2", block.conv2(relu(inner))
            yield name, out

    @contextmanager
    def _float16_weights(self) -> Iterator[None]:
        """Within this context the convolutions have float16 copies of their weights, and normalizations
        float32 copies."""
        masters = [(module, name, getattr(module, name)) for _, module in self.network.named_modules()
                   if isinstance(module, (Conv2d, BatchNorm2d)) for name in ("weight", "bias")
                   if getattr(module, name) is not None]
        try:
            for module, name, master in masters:
                dtype = "float32" if isinstance(module, BatchNorm2d) else "float16"
                setattr(module, name, _inside(master, self.loss_scale, dtype))
            yield
        finally:
            for module, name, master in masters:
                setattr(module, name, master)


class ScaledOptimizer(Optimizer):
    """An optimizer of a `Float16` network that adapts its scale: a step whose gradients are not all finite is
    skipped.

    Its state is that of the optimizer and the scale. On a GPU it waits for the gradients at every step.
    """

    def __init__(self, optimizer: Optimizer, model: Float16) -> None:
        super().__init__(optimizer.parameters, optimizer.lr)
        self.optimizer, self.model = optimizer, model
        self.good_steps: Array = xp_of(model.loss_scale.data).zeros((), "float32")
        scale_state = model.loss_scale.data, self.good_steps
        self.state = optimizer.state | dict(zip(SCALE_STATE, scale_state, strict=True))

    def step(self) -> None:
        """Move the parameters or, if a gradient is not finite, halve the scale.

        Raises Diverged, naming the layer, if activations overflow, which no scale can prevent.
        """
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if bool(numpy.isfinite(float(sum(gradient.sum() for gradient in gradients)))):
            self.optimizer.lr = self.lr
            self.optimizer.step()
            self.good_steps += 1
            if float(self.good_steps) >= GROWTH_STEPS and float(self.model.loss_scale) < MAX_LOSS_SCALE:
                self._set_scale(2.0)
        elif name := self.model.overflowing_layer():
            raise Diverged(f"the output of {name}, in float16,", "Start another run with a lower learning "
                           "rate, or go on with --precision tf32, whose numbers may be larger")
        elif float(self.model.loss_scale) <= 1:
            raise Diverged("a gradient, in float16 and unscaled,", "Go on with --precision tf32")
        else:
            self._set_scale(0.5)

    def load_state_dict(self, state: Mapping[str, numpy.ndarray]) -> None:
        """Set the state, in place; the scale stays as it is if the state comes from another precision."""
        super().load_state_dict({name: self.state[name] for name in SCALE_STATE} | dict(state))

    def _set_scale(self, factor: float) -> None:
        scale = self.model.loss_scale.data
        scale *= numpy.float32(factor)
        self.good_steps.fill(0)


def _inside(x: Tensor, scale: Tensor, dtype: str = "float16") -> Tensor:
    """x where gradients are `scale` times too large, in a dtype."""
    xp = xp_of(x.data)
    return Tensor(x.data.astype(dtype), parents=(x,),
                  vjp=lambda g: (unshared(xp.divide(g, scale.data, dtype=x.dtype)),))


def _to_float32(x: Tensor, scale: Tensor) -> Tensor:
    return Tensor(x.data.astype("float32"), parents=(x,), vjp=lambda g: ((g * scale.data).astype(x.dtype),))
