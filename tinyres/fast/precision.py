"""How a GPU multiplies matrices: exactly, with rounded factors, or in 16 bits.

"float32": as it is. "tf32": factors rounded to 10 bits after the point, sums in float32. "float16": a network
wrapped in `Float16` keeps images and activations in float16, half the memory traffic; weights and their sums
stay float32. NumPy knows "float32" only.
"""
from __future__ import annotations

from collections.abc import Iterator

import numpy

from .. import backend
from ..models import ResidualNetwork
from ..nn import Conv2d, Module
from ..tensor import Tensor

PRECISIONS = "float32", "tf32", "float16"
LOSS_SCALE = 4096.0  # gradients of pixels are some 1e-6, and 6e-8 is the smallest number that float16 holds

_tf32 = False


def use(precision: str) -> None:
    """Choose how a GPU multiplies float32 matrices from here on; for "float16", also wrap the network.

    Raises ValueError for another precision, or one that NumPy, if it is in use, does not know.
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

    Inside, gradients are LOSS_SCALE times too large, so that small ones do not vanish: they are scaled where
    they enter float16 and scaled back where they leave it, and nobody outside needs to know. Names and
    parameters are those of the network.
    """

    def __init__(self, network: ResidualNetwork) -> None:
        self.network = network
        self.residual_ratios = network.residual_ratios

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """As of the network."""
        return self.network.named_tensors()

    def __call__(self, x: Tensor) -> Tensor:
        convolutions = [module for module in _modules(self.network) if isinstance(module, Conv2d)]
        masters = [convolution.weight for convolution in convolutions]
        try:
            for convolution, master in zip(convolutions, masters, strict=True):
                convolution.weight = _to_float16(master)
            features = self.network.features(_to_float16(x))
        finally:
            for convolution, master in zip(convolutions, masters, strict=True):
                convolution.weight = master
        return self.network.classify(_to_float32(features))


def _modules(module: Module) -> Iterator[Module]:
    yield module
    for value in vars(module).values():
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, Module):
                yield from _modules(child)


def _to_float16(x: Tensor) -> Tensor:
    return Tensor(x.data.astype("float16"), parents=(x,), vjp=lambda g: (g.astype(x.dtype) / LOSS_SCALE,))


def _to_float32(x: Tensor) -> Tensor:
    return Tensor(x.data.astype("float32"), parents=(x,), vjp=lambda g: ((g * LOSS_SCALE).astype(x.dtype),))
