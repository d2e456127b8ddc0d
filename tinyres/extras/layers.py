"""Layers that the paper does without: for networks of your own, and to see what it left out.

They are `tr.nn.Sequential`, `tr.nn.Dropout` and `tr.nn.BatchNorm2d`.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy
from numpy.random import Generator, default_rng

from .. import backend
from ..backend import Array, xp_of
from ..module import Module
from ..support import layer_checks
from ..support import operation_checks as checks
from ..support.numerics import total
from ..tensor import Tensor
from .functions import astype, sqrt


class Sequential(Module):
    """Layers one after the other: modules, or functions such as `tr.relu`."""

    def __init__(self, *layers: Callable[[Tensor], Tensor]) -> None:
        self.layers = layer_checks.layers("Sequential", layers)

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Dropout(Module):
    """In training, sets each value to 0 with probability p and multiplies the others by 1 / (1 - p); in
    evaluation, returns x (Srivastava et al., 2014).

    rng: what the masks are drawn from. Its state is part of the module's state, so a run that is resumed
    draws the masks of one that was never interrupted; `training_step` gives each of several processes masks
    of its own. Raises ValueError for p outside [0, 1).
    """

    def __init__(self, p: float = 0.5, *, rng: Generator | None = None) -> None:
        self.p, self.rng = layer_checks.fraction("Dropout: p", p), rng or default_rng()

    def __call__(self, x: Tensor) -> Tensor:
        checks.tensor("Dropout", x)
        if not self.training or self.p == 0:
            return x
        kept = self.rng.random(x.shape) >= self.p
        return x * xp_of(x.data).asarray(kept / (1 - self.p), x.dtype)


class BatchNorm2d(Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias for each channel: (N, H, W, C) (Ioffe and Szegedy,
    2015).

    In training, mean and variance are those of the batch, over images and pixels, and the running ones move
    toward them by the fraction `momentum`; evaluation uses the running ones. As in PyTorch, the running
    variance is the unbiased one. Where several processes share a batch, each normalizes its shard, and
    `training_step` averages the running statistics. Raises ValueError in training for fewer than two values
    per channel.
    """

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        layer_checks.sizes((channels,))
        xp = backend.current()
        self.weight = Tensor(xp.ones(channels, numpy.float32), requires_grad=True)
        self.bias = Tensor(xp.zeros(channels, numpy.float32), requires_grad=True)
        self.running_mean = Tensor(xp.zeros(channels, numpy.float32))
        self.running_variance = Tensor(xp.ones(channels, numpy.float32))
        self.eps, self.momentum = eps, momentum

    def __call__(self, x: Tensor) -> Tensor:
        layer_checks.channels("BatchNorm2d", x, self.weight.shape[0])
        if x.dtype == "float16" and self.weight.dtype == "float32":
            return astype(self(astype(x, "float32")), "float16")  # whose sums would overflow
        if not self.training or x.size == 0:  # of no images there are no statistics
            return (x - self.running_mean) / sqrt(self.running_variance + self.eps) * self.weight + self.bias
        count = layer_checks.several("BatchNorm2d", x)
        axes, weight = (0, 1, 2), self.weight.data
        mu = total(x.data, axes, 1 / count)
        centered = x.data - mu
        variance = total(centered * centered, axes, 1 / count)
        unbiased = variance * (count / (count - 1))
        for running, new in (self.running_mean, mu), (self.running_variance, unbiased):
            running.data += self.momentum * (new.reshape(-1) - running.data)
        inverse = (variance + self.eps) ** -0.5
        normalized = centered * inverse

        def vjp(g: Array) -> tuple[Array, ...]:
            """In one piece, which takes half the time: mu and the variance depend on x, too."""
            of_bias, of_weight = total(g, axes), total(g * normalized, axes)
            of_x = (g - of_bias / count - normalized * (of_weight / count)) * (inverse * weight)
            return of_x, of_weight.reshape(-1), of_bias.reshape(-1)

        return Tensor(normalized * weight + self.bias.data, parents=(x, self.weight, self.bias), vjp=vjp)
