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
