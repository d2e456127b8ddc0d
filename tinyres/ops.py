"""The basic differentiable functions, those of the paper's network among them, in order of complexity.

Each is its formula on arrays: the result, and the function from g, the gradient of the loss with respect to
the result, to the gradient of x. `@operation` (tensor.py) makes of it a function from Tensor to Tensor.
"""
from __future__ import annotations

from collections.abc import Sequence

from .backend import Array, xp_of
from .extras.methods import Axes
from .kernel import kernel
from .support import operation_checks as checks
from .support.context import operations
from .support.numerics import scaled, total
from .tensor import Formula, Tensor, operation


@operation
def exp(x: Array) -> Formula:
    """e ** x elementwise."""
    y = xp_of(x).exp(x)
    return y, lambda g: g * y


@operation
def log(x: Array) -> Formula:
    """The natural logarithm elementwise: -inf at 0 and nan below."""
    return xp_of(x).log(x), lambda g: g / x


@kernel
def rectify(x: Array) -> Array:
    """max(x, 0) elementwise."""
    return xp_of(x).maximum(x, 0)


@kernel
def relu_gradient(g: Array, y: Array) -> Array:
    """g where y = max(x, 0) is positive, elsewhere 0 whatever g is."""
    return xp_of(g).where(y > 0, g, 0)


@operation
def relu(x: Array) -> Formula:
    """max(x, 0) elementwise; its derivative is 0 at 0 and at nan, where PyTorch's is 1: kernels ask y > 0."""
    y = rectify(x)
    return y, lambda g: relu_gradient(g, y)


@operation
def reshape(x: Array, shape: int | Sequence[int]) -> Formula:
    """The same values in another shape; one size may be -1. ValueError if the sizes do not fit."""
    checks.filled(shape, x)
    return x.reshape(shape), lambda g: g.reshape(x.shape)


@operation
def transpose(x: Array, axes: Sequence[int] | None = None) -> Formula:
    """The axes in another order (default: reversed); ValueError unless axes are a permutation."""
    order = checks.permutation(axes, x)
    inverse = sorted(range(x.ndim), key=order.__getitem__)
    return x.transpose(order), lambda g: g.transpose(inverse)


@operation
def pad(x: Array, pad_width: int | Sequence[tuple[int, int]]) -> Formula:
    """Zeros around x: pad_width[i] = (before, after) of axis i, or one number; ValueError otherwise."""
    pairs = checks.pad_width(pad_width, x)
    inside = tuple(slice(before, before + size) for (before, _), size in zip(pairs, x.shape, strict=True))
    shape = [before + size + after for (before, after), size in zip(pairs, x.shape, strict=True)]
    padded = xp_of(x).zeros(shape, x.dtype)
    padded[inside] = x
    return padded, lambda g: g[inside]


@operation
def sum(x: Array, axis: Axes = None, keepdims: bool = False) -> Formula:
    """The sum over an axis, several axes, or all (None)."""
    axis = checks.axes(axis, x)
    kept = total(x, axis)
    return kept if keepdims else kept.squeeze(axis), lambda g: _repeat(g, kept, x)


@operation
def mean(x: Array, axis: Axes = None, keepdims: bool = False) -> Formula:
    """The arithmetic mean over an axis, several axes, or all (None); ValueError over no elements."""
    axis, count = checks.elements("mean", x, axis)
    kept = total(x, axis, 1 / count)
    return kept if keepdims else kept.squeeze(axis), lambda g: _repeat(scaled(g, 1 / count), kept, x)


def _repeat(g: Array, kept: Array, x: Array) -> Array:
    """g, of as many numbers as `kept`, repeated over the axes of x that were summed."""
    return xp_of(g).broadcast_to(g.reshape(kept.shape), x.shape)


def global_avg_pool2d(x: Tensor) -> Tensor:
    """The mean over the pixels: (N, H, W, C) -> (N, C); ValueError for an x without four axes."""
    return mean(checks.tensor("global_avg_pool2d", x, "(N, H, W, C)"), axis=(1, 2))


@operation
def softmax_cross_entropy(logits: Array, labels: Array) -> Formula:
    """The mean over the batch of -log softmax(logits)[label], a scalar.

    logits: (N, classes). labels: (N,) integer array, 0 <= label < classes, of the same library as logits.
    Raises TypeError for other labels, ValueError for other shapes or, on NumPy, labels out of range.
    """
    return mean_cross_entropy(logits, checks.labels(labels, logits))


@kernel
def mean_cross_entropy(logits: Array, labels: Array) -> Formula:
    """The formula, unchecked."""
    xp, N = xp_of(logits), len(labels)
    rows, labels = xp.arange(N), labels.copy()  # the caller's may change
    shifted = logits - logits.max(axis=1, keepdims=True)  # so that exp cannot overflow
    log_total = xp.log(total(xp.exp(shifted), 1))

    def gradient(g: Array) -> Array:
        softmax = xp.exp(shifted - log_total)
        softmax[rows, labels] -= 1
        return softmax * (g / N)

    return (log_total[:, 0] - shifted[rows, labels]).mean(), gradient


operations.reshape, operations.transpose = reshape, transpose
