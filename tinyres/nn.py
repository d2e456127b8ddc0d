"""Layers: objects that hold weights and are called on tensors.

rng is the source of a layer's initial weights everywhere; by default they are different ones each time.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy
from numpy.random import Generator, default_rng

from . import backend, checks
from .backend import kernel
from .conv import conv2d
from .ops import avg_pool2d, pad, relu
from .tensor import Tensor


class Module:
    """Something with weights. A subclass sets tensors and modules as attributes and defines `__call__`.

    Tensors are found by walking the attributes, and lists, tuples and dicts of them, in the order in which
    they were set. Those that require a gradient are its parameters; the others are saved with it.
    """

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter and constant once, with its dotted name, such as "blocks.0.conv1.weight"."""
        seen = set()
        for name, tensor in _walk(self, ""):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield name, tensor

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Those tensors that require a gradient."""
        return ((name, tensor) for name, tensor in self.named_tensors() if tensor.requires_grad)

    def parameters(self) -> list[Tensor]:
        """The tensors of `named_parameters`."""
        return [tensor for _, tensor in self.named_parameters()]

    def num_parameters(self) -> int:
        """How many trainable numbers the module holds."""
        return sum(tensor.data.size for tensor in self.parameters())

    def state_dict(self) -> dict[str, numpy.ndarray]:
        """A NumPy copy of every parameter and constant by name."""
        return {name: numpy.array(tensor.numpy()) for name, tensor in self.named_tensors()}

    def load_state_dict(self, state: Mapping[str, numpy.ndarray]) -> None:
        """Set every parameter and constant, in place. Raises ValueError, and changes nothing, if names or
        shapes differ."""
        checks.load(type(self).__name__, {name: tensor.data for name, tensor in self.named_tensors()}, state)


def _walk(value: object, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    children = vars(value) if isinstance(value, Module) else value
    if isinstance(children, (list, tuple)):
        children = dict(enumerate(children))
    if isinstance(children, dict):
        for key, child in children.items():
            yield from _walk(child, f"{name}.{key}" if name else str(key))


def _normal(shape: tuple[int, ...], std: float, rng: Generator | None,
            requires_grad: bool = True) -> Tensor:
    """Gaussian float32 weights, drawn with NumPy and then moved: the same for a seed on both backends."""
    checks.sizes(shape)
    values = (rng or default_rng()).standard_normal(shape, dtype=numpy.float32) * numpy.float32(std)
    return Tensor(backend.current().asarray(values), requires_grad=requires_grad)


class Conv2d(Module):
    """Convolution without bias, (N, H, W, in_channels) -> (N, OH, OW, out_channels).

    kernel_size: side k of the square kernel; stride, padding: pixels, as in `tr.conv2d`.
    std: standard deviation of the initial weights; default 1 / (k sqrt(out_channels)) (paper, section 4.1).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1,
                 padding: int = 0, *, std: float | None = None, rng: Generator | None = None) -> None:
        std = 1 / (kernel_size * out_channels**0.5) if std is None else std
        self.weight = _normal((kernel_size, kernel_size, in_channels, out_channels), std, rng)
        self.stride, self.padding = stride, padding

    def __call__(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.stride, self.padding)


class Linear(Module):
    """x @ weight + bias, (..., in_features) -> (..., out_features).

    Weights start N(0, 1 / in_features), biases at 0.
    """

    def __init__(self, in_features: int, out_features: int, *, rng: Generator | None = None) -> None:
        self.weight = _normal((in_features, out_features), in_features**-0.5, rng)
        self.bias = Tensor(backend.current().zeros(out_features, numpy.float32), requires_grad=True)

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class RandomProjection(Module):
    """x @ P for a fixed Gaussian P, (N, in_features) -> (N, out_features): the paper's untrained top layer.

    P is saved with the module but is not among its parameters. The paper does not give its scale; standard
    deviation 1 / sqrt(in_features) keeps the size of x, while 1 makes the paper's recipe diverge.
    """

    def __init__(self, in_features: int, out_features: int, *, rng: Generator | None = None) -> None:
        self.matrix = _normal((in_features, out_features), in_features**-0.5, rng, requires_grad=False)

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.matrix


@kernel
def residual_sum(shortcut: Tensor, x: Tensor, w1: Tensor, w2: Tensor, stride: int) -> Tensor:
    """shortcut + conv(relu(conv(x, w1)), w2), both 3 x 3: on tensors, so that a variant has its own vjp."""
    return shortcut + conv2d(relu(conv2d(x, w1, stride, 1)), w2, 1, 1)


class ResidualBlock(Module):
    """x + conv2(relu(conv1(x))): (N, H, W, in_channels) -> (N, H/stride, W/stride, out_channels).

    With zero weights it is the identity (paper, section 4.1). Where the shape changes, the identity becomes
    the nearest thing without weights: average pooling over stride x stride pixels, and channels of zeros
    added evenly on both sides. conv1 and conv2 are 3 x 3 without bias, conv1 with the stride, and their
    weights start N(0, sigma), sigma = 1 / (9 out_channels).

    residual: False gives the plain twin, relu(conv2(relu(conv1(x)))), whose weights start as in He et al.
        (2015), sigma = sqrt(2 / (9 channels in)): with the paper's tiny weights nothing would get through it.
    Raises ValueError if out_channels < in_channels, which no zero padding can give.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, residual: bool = True,
                 rng: Generator | None = None) -> None:
        checks.widening("ResidualBlock", in_channels, out_channels)
        rng = rng or default_rng()

        def std(channels: int) -> float:
            return 1 / (9 * out_channels) if residual else (2 / (9 * channels)) ** 0.5

        self.conv1 = Conv2d(in_channels, out_channels, 3, stride, padding=1, std=std(in_channels), rng=rng)
        self.conv2 = Conv2d(out_channels, out_channels, 3, 1, padding=1, std=std(out_channels), rng=rng)
        self.added_channels = out_channels - in_channels
        self.stride, self.residual = stride, residual

    def __call__(self, x: Tensor) -> Tensor:
        if not self.residual:
            return relu(self.h(x))
        return residual_sum(self.shortcut(x), x, self.conv1.weight, self.conv2.weight, self.stride)

    def h(self, x: Tensor) -> Tensor:
        """conv2(relu(conv1(x))): what the block adds to the identity."""
        return self.conv2(relu(self.conv1(x)))

    def shortcut(self, x: Tensor) -> Tensor:
        """The identity, or its nearest parameter-free likeness where the shape changes."""
        if self.stride > 1:
            x = avg_pool2d(x, self.stride)
        added = self.added_channels
        if added:
            x = pad(x, [(0, 0), (0, 0), (0, 0), (added // 2, added - added // 2)])
        return x
