"""How a GPU multiplies matrices: exactly, with rounded factors, or in 16 bits.

"float32": as it is. "tf32": factors rounded to 10 bits after the point, sums in float32. "float16": a network
wrapped in `Float16` keeps images and activations in float16, half the memory traffic; weights and their sums
stay float32. NumPy knows "float32" only.

Gradients of pixels are about 1e-6; the smallest number that float16 holds is 6e-8, the largest 65504. So
gradients inside the network are multiplied by a scale, as large as possible (Micikevicius et al., 2018);
loss_scale.py adapts it.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy
from numpy.random import Generator

from ... import backend
from ...backend import Array, xp_of
from ...kernel import kernel
from ...models import ResidualNetwork
from ...module import Module, unchanged
from ...nn import BatchNorm2d, Conv2d, ResidualBlock
from ...ops import relu
from ...support.context import recording
from ...tensor import Tensor, no_grad
from .uncopied_gradients import unshared

PRECISIONS = "float32", "tf32", "float16"
LOSS_SCALE = 4096.0  # to begin with; powers of two only, so that scaling rounds nothing

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


@kernel
def converted(arrays: list[Array], dtype: str, scale: Array | None) -> list[Array]:
    """Each array in another dtype, divided by the scale if there is one."""
    return [(array if scale is None else array / scale).astype(dtype) for array in arrays]


@kernel
def any_not_finite(arrays: list[Array]) -> Array:
    """1 if a number is infinite or not a number, else 0: of type uint32, without axes."""
    xp = xp_of(arrays[0])
    return 1 - xp.stack([xp.isfinite(array).all() for array in arrays]).all().astype("uint32")


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
        if recording.get():  # not those of an evaluation, for no Python is run where a step is replayed
            self.last_images = x
        with self._float16_weights():
            features = self.network.features(_to_float16(x, self.loss_scale))
        return self.network.classify(_to_float32(features, self.loss_scale))

    def overflowing_layer(self) -> str | None:
        """The name of the first layer whose output for the last images is not finite, if there is one."""
        with no_grad(), unchanged(self), self._float16_weights():
            for name, x in self._layers(_to_float16(self.last_images.detach(), self.loss_scale)):
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
            dtypes = ["float32" if isinstance(module, BatchNorm2d) else "float16" for module, *_ in masters]
            copies = _copies([master for *_, master in masters], dtypes, self.loss_scale)
            for (module, name, _), copy in zip(masters, copies, strict=True):
                setattr(module, name, copy)
            yield
        finally:
            for module, name, master in masters:
                setattr(module, name, master)


def _copies(weights: list[Tensor], dtypes: list[str], scale: Tensor) -> list[Tensor]:
    """Copies of weights in these dtypes. Their gradients are kept until the last one is there and then scaled
    back together: a launch for all, where one for each takes the GPU longer than the work."""
    scaled: dict[int, Array] = {}  # gradients, by the copy's place

    def vjp_of_all(_: Array) -> tuple[Array | None, ...]:
        gradients = converted(list(scaled.values()), "float32", scale.data)
        by_place = dict(zip(scaled, map(unshared, gradients), strict=True))
        scaled.clear()
        # a copy may be unused, as where one layer stands in two places
        return tuple(xp_of(weight.data).zeros_like(weight.data) if weight.requires_grad and i not in by_place
                     else by_place.get(i) for i, weight in enumerate(weights))

    def vjp_of(i: int) -> Callable[[Array], tuple[Array]]:
        def vjp(g: Array) -> tuple[Array]:
            scaled[i] = g
            return (nothing,)
        return vjp

    halves = iter(converted([weight.data for weight, dtype in zip(weights, dtypes, strict=True)
                             if dtype == "float16"], "float16", None))
    arrays = [next(halves) if dtype == "float16" else weight.data
              for weight, dtype in zip(weights, dtypes, strict=True)]
    nothing = xp_of(arrays[0]).empty(0, "float16")  # what passes from copies to weights beside `scaled`
    together = Tensor(nothing, parents=tuple(weights), vjp=vjp_of_all)
    return [Tensor(array, parents=(together,) if weight.requires_grad else (), vjp=vjp_of(i))
            for i, (array, weight) in enumerate(zip(arrays, weights, strict=True))]


def _to_float16(x: Tensor, scale: Tensor) -> Tensor:
    xp = xp_of(x.data)
    return Tensor(x.data.astype("float16"), parents=(x,),
                  vjp=lambda g: (unshared(xp.divide(g, scale.data, dtype=x.dtype)),))


def _to_float32(x: Tensor, scale: Tensor) -> Tensor:
    xp = xp_of(x.data)
    return Tensor(x.data.astype("float32"), parents=(x,), vjp=lambda g: (
        xp.multiply(g, scale.data, out=xp.empty(g.shape, x.dtype)),))
