"""How the tests of differentiable functions look at one."""
from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy

import tinyres as tr


def random(xp: ModuleType, *shape: int, seed: int = 0, requires_grad: bool = True) -> tr.Tensor:
    """A float64 tensor of normally distributed values."""
    return tr.Tensor(xp.asarray(numpy.random.default_rng(seed).standard_normal(shape)), requires_grad)


def check(fn: Callable[..., tr.Tensor], expected: numpy.ndarray, *tensors: tr.Tensor) -> None:
    """The forward pass against NumPy's own, the backward pass against central differences."""
    numpy.testing.assert_allclose(fn(*tensors).numpy(), expected, rtol=1e-12, atol=1e-14)
    assert tr.gradcheck(fn, *tensors) < 1e-6


def convolution_of(w: tr.Tensor, stride: int = 1) -> tr.nn.Conv2d:
    """A 3 x 3 convolution that keeps the image's size, with the weights w (3, 3, C, O)."""
    layer = tr.nn.Conv2d(*w.shape[2:], 3, stride, padding=1)
    layer.weight = w
    return layer
