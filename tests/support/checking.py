"""How the tests of differentiable functions look at one."""
from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy

import tinyres as tr

POOLED = [((2, 4, 6, 3), 2), ((1, 5, 7, 2), 2), ((1, 9, 9, 1), 3), ((2, 3, 4, 2), 1)]  # shapes, window sizes


def random(xp: ModuleType, *shape: int, seed: int = 0, requires_grad: bool = True) -> tr.Tensor:
    """A float64 tensor of normally distributed values."""
    return tr.Tensor(xp.asarray(numpy.random.default_rng(seed).standard_normal(shape)), requires_grad)


def check(fn: Callable[..., tr.Tensor], expected: numpy.ndarray, *tensors: tr.Tensor) -> None:
    """The forward pass against NumPy's own, the backward pass against central differences."""
    numpy.testing.assert_allclose(fn(*tensors).numpy(), expected, rtol=1e-12, atol=1e-14)
    assert tr.gradcheck(fn, *tensors) < 1e-6


def check_pooling(pool: Callable[[tr.Tensor, int], tr.Tensor],
                  reduce: Callable[[numpy.ndarray], numpy.ndarray], x: tr.Tensor, size: int) -> None:
    """A pooling of x (N, H, W, C) against a loop; reduce: from a window (N, size, size, C) to (N, C)."""
    N, H, W, C = x.shape
    expected = numpy.empty((N, H // size, W // size, C))
    for i in range(H // size):
        for j in range(W // size):
            window = x.numpy()[:, i * size:(i + 1) * size, j * size:(j + 1) * size]
            expected[:, i, j] = reduce(window)
    check(lambda x: pool(x, size), expected, x)


def block_of(w1: tr.Tensor, w2: tr.Tensor, stride: int = 1) -> tr.nn.ResidualBlock:
    """A residual block with the weights w1 (3, 3, C, O) and w2 (3, 3, O, O)."""
    block = tr.nn.ResidualBlock(*w1.shape[2:], stride)
    block.conv1.weight, block.conv2.weight = w1, w2
    return block
