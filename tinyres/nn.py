"""Layers: objects that hold weights and are called on tensors.

rng is the source of a layer's initial weights; without it they differ from run to run.
"""
from __future__ import annotations

import numpy
from numpy.random import Generator, default_rng

from . import backend
from .conv import Pair, conv2d
from .extras.layers import BatchNorm2d, Dropout, Sequential
from .extras.pooling import avg_pool2d
from .kernel import kernel
from .module import Module
from .ops import pad, relu
from .support import layer_checks as checks
from .support import names
from .support.operation_checks import pair
from .tensor import Tensor

__all__ = ["BatchNorm2d", "Conv2d", "Dropout", "Linear", "Module", "RandomProjection", "ResidualBlock",
           "Sequential"]
__getattr__, __dir__ = names.of_module("tinyres.nn", __all__)


def _normal(shape: tuple[int, ...], std: float, rng: Generator | None,
            requires_grad: bool = True) -> Tensor:
    """Gaussian float32 weights, drawn with NumPy and then moved, so that both backends get the same ones."""
    checks.sizes(shape)
    values = (rng or default_rng()).standard_normal(shape, dtype=numpy.float32) * numpy.float32(std)
    return Tensor(backend.current().asarray(values), requires_grad=requires_grad)


def _zeros(size: int) -> Tensor:
    return Tensor(backend.current().zeros(size, numpy.float32), requires_grad=True)


class Conv2d(Module):
    """Convolution, (N, H, W, in_channels) -> (N, OH, OW, out_channels).

    kernel_size: side k of the square kernel, or (vertical, horizontal); stride, padding: pixels, as in
    `tr.conv2d`. bias: whether to add one, which starts at 0, to each channel; the paper has none.
    std: standard deviation of the initial weights; default 1 / (k sqrt(out_channels)) (paper, section 4.1),
    where k is the root of the number of pixels in the kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | Pair, stride: int | Pair = 1,
                 padding: int | Pair = 0, *, bias: bool = False, std: float | None = None,
                 rng: Generator | None = None) -> None:
        KH, KW = pair("Conv2d: kernel_size", kernel_size, 1)
        std = 1 / ((KH * KW) ** 0.5 * out_channels**0.5) if std is None else std
        self.weight = _normal((KH, KW, in_channels, out_channels), std, rng)
        self.bias = _zeros(out_channels) if bias else None
        self.stride, self.padding = stride, padding

    def __call__(self, x: Tensor) -> Tensor:
        out = conv2d(x, self.weight, self.stride, self.padding)
        return out if self.bias is None else out + self.bias


class Linear(Module):
    """x @ weight + bias, (..., in_features) -> (..., out_features).

    Weights start N(0, 1 / in_features), biases at 0; bias=False: without any.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True,
                 rng: Generator | None = None) -> None:
        self.weight = _normal((in_features, out_features), in_features**-0.5, rng)
        self.bias = _zeros(out_features) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        out = x @ self.weight
        return out if self.bias is None else out + self.bias


class RandomProjection(Module):
    """x @ P for a fixed Gaussian P, (N, in_features) -> (N, out_features): the paper's untrained top layer.

    P is saved with the module but is not among its parameters. The paper does not give its scale: a standard
    deviation of 1 / sqrt(in_features) keeps the size of x, while with 1 the paper's recipe diverges.
    """

    def __init__(self, in_features: int, out_features: int, *, rng: Generator | None = None) -> None:
        self.matrix = _normal((in_features, out_features), in_features**-0.5, rng, requires_grad=False)

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.matrix


@kernel
def residual_sum(x: Tensor, block: ResidualBlock) -> Tensor:
    """The paper's block (`is_papers`), applied to x; on tensors, so that a variant can have its own vjp."""
    return block.shortcut(x) + block.h(x)


class ResidualBlock(Module):
    """x + conv2(relu(conv1(x))): (N, H, W, in_channels) -> (N, H/stride, W/stride, out_channels).

    With zero weights it is the identity (paper, section 4.1). Where the shape changes, the identity becomes
    the nearest thing without weights: average pooling over stride x stride pixels, and channels of zeros
    added evenly on both sides. conv1 and conv2 are 3 x 3 without bias; conv1 has the stride. Their weights
    start N(0, sigma), sigma = 1 / (9 out_channels).

    A subclass may define `h`, and `shortcut`, anew: the block is their sum, whatever they are.

    initial_scale: if given, weights start as in He et al. (2015) instead, sigma = sqrt(2 / (9 in_channels)),
        those of conv2 times initial_scale: a short run ends before the paper's tiny weights have grown.
    residual: False gives the plain twin, relu(conv2(relu(conv1(x)))), for which initial_scale is 1: with the
        paper's tiny weights nothing would get through it.
    Raises ValueError if out_channels < in_channels, which no zero padding can give.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, residual: bool = True,
                 initial_scale: float | None = None, rng: Generator | None = None) -> None:
        checks.widening("ResidualBlock", in_channels, out_channels)
        rng = rng or default_rng()

        scale = initial_scale if residual else 1.0
        std1 = std2 = 1 / (9 * out_channels)
        if scale is not None:
            std1, std2 = (2 / (9 * in_channels)) ** 0.5, scale * (2 / (9 * out_channels)) ** 0.5
        self.conv1 = Conv2d(in_channels, out_channels, 3, stride, padding=1, std=std1, rng=rng)
        self.conv2 = Conv2d(out_channels, out_channels, 3, 1, padding=1, std=std2, rng=rng)
        self.added_channels = out_channels - in_channels
        self.stride, self.residual = stride, residual

    def __call__(self, x: Tensor) -> Tensor:
        if not self.residual:
            return relu(self.h(x))
        return residual_sum(x, self) if self.is_papers() else self.shortcut(x) + self.h(x)

    def h(self, x: Tensor) -> Tensor:
        """conv2(relu(conv1(x))): what the block adds to the identity."""
        return self.conv2(relu(self.conv1(x)))

    def shortcut(self, x: Tensor) -> Tensor:
        """The identity, or its closest equivalent without parameters where the shape changes."""
        if self.stride > 1:
            x = avg_pool2d(x, self.stride)
        added = self.added_channels
        if added:
            x = pad(x, [(0, 0), (0, 0), (0, 0), (added // 2, added - added // 2)])
        return x

    def is_papers(self) -> bool:
        """Whether `h` and `shortcut` are those above, and no other layer stands in for conv1 or conv2."""
        methods = tuple(getattr(method, "__func__", None) for method in (self.h, self.shortcut))
        return methods == _PAPERS and all(
            type(conv) is Conv2d and conv.bias is None and conv.weight.shape[:2] == (3, 3)
            and (conv.stride, conv.padding) == (stride, 1)
            for conv, stride in ((self.conv1, self.stride), (self.conv2, 1)))


_PAPERS = ResidualBlock.h, ResidualBlock.shortcut
