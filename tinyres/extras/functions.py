"""Further differentiable functions, which the paper does without: for networks of your own and for lessons.

As in ops.py, each is its formula on arrays: the result, and the function from g, the gradient of the loss
with respect to the result, to the gradient of x. Where a function has no derivative, the subgradient is
PyTorch's, and the docstring says which.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arithmetic import FormulaOfTwo, operation_of_two
from ..backend import Array, xp_of
from ..support import operation_checks as checks
from ..support.context import operations
from ..support.numerics import total
from ..tensor import Formula, Tensor, operation
from .methods import Axes


@operation
def sqrt(x: Array) -> Formula:
    """The square root elementwise: nan below 0, as in NumPy. Its derivative at 0 is infinite."""
    y = xp_of(x).sqrt(x)
    return y, lambda g: g * (0.5 / y)


@operation
def abs(x: Array) -> Formula:
    """|x| elementwise, with derivative 0 at 0 and at nan."""
    return xp_of(x).abs(x), lambda g: g * ((x > 0).astype(g.dtype) - (x < 0))


@operation
def tanh(x: Array) -> Formula:
    """The hyperbolic tangent elementwise."""
    y = xp_of(x).tanh(x)
    return y, lambda g: g * (1 - y**2)


@operation
def sigmoid(x: Array) -> Formula:
    """1 / (1 + e ** -x) elementwise."""
    small = xp_of(x).exp(-xp_of(x).abs(x))  # at most 1, so that nothing overflows
    y = xp_of(x).where(x >= 0, 1, small) / (1 + small)
    return y, lambda g: g * y * (1 - y)


@operation
def astype(x: Array, dtype: str) -> Formula:
    """The same values as float16, float32 or float64 (else a TypeError); its gradient is converted back."""
    return x.astype(checks.float_dtype(dtype)), lambda g: g.astype(x.dtype)


@operation
def clip(x: Array, low: float | None = None, high: float | None = None) -> Formula:
    """x, but low where it is less and high where it is more; None is no bound. The derivative at a bound is
    1."""
    y = x.clip(*checks.bounds(low, high))
    return y, lambda g: g * (y == x)


@operation_of_two
def maximum(a: Array, b: Array) -> FormulaOfTwo:
    """The larger of a and b elementwise, with broadcasting. Where they are equal, each gets half of the
    gradient; where one is nan, so is the result, and each gets the whole."""
    return xp_of(a).maximum(a, b), lambda g: _share(g, a < b, a == b), lambda g: _share(g, a > b, a == b)


@operation_of_two
def minimum(a: Array, b: Array) -> FormulaOfTwo:
    """The smaller of a and b elementwise, otherwise as `maximum`."""
    return xp_of(a).minimum(a, b), lambda g: _share(g, a > b, a == b), lambda g: _share(g, a < b, a == b)


def _share(g: Array, lost: Array, equal: Array) -> Array:
    """g, but 0 where the operand lost and half where the two are equal."""
    return xp_of(g).where(lost, 0, xp_of(g).where(equal, 0.5 * g, g))


@operation
def max(x: Array, axis: Axes = None, keepdims: bool = False) -> Formula:
    """The largest value over an axis, several axes, or all (None). Equal ones share the gradient evenly, and
    so do nans, of which one makes the result nan.

    Raises ValueError over no elements.
    """
    axis, _ = checks.elements("max", x, axis)
    return _extreme(x, x.max(axis=axis, keepdims=True), axis, keepdims)


@operation
def min(x: Array, axis: Axes = None, keepdims: bool = False) -> Formula:
    """The smallest value over an axis, several axes, or all (None), otherwise as `max`."""
    axis, _ = checks.elements("min", x, axis)
    return _extreme(x, x.min(axis=axis, keepdims=True), axis, keepdims)


def _extreme(x: Array, kept: Array, axis: Axes, keepdims: bool) -> Formula:
    found = (x == kept) | ((x != x) & (kept != kept))

    def gradient(g: Array) -> Array:
        shares = g.reshape(kept.shape) / found.sum(axis=axis, keepdims=True)
        return xp_of(g).where(found, shares, 0).astype(g.dtype)

    return kept if keepdims else kept.squeeze(axis), gradient


@operation
def softmax(x: Array, axis: int = -1) -> Formula:
    """e ** x over its sum along an axis: positive numbers that add up to 1."""
    powers = xp_of(x).exp(x - x.max(axis=axis, keepdims=True))
    y = powers / total(powers, axis)
    return y, lambda g: y * (g - total(g * y, axis))


@operation
def log_softmax(x: Array, axis: int = -1) -> Formula:
    """log(softmax(x)) along an axis, without overflow and without log(0)."""
    xp, shifted = xp_of(x), x - x.max(axis=axis, keepdims=True)
    y = shifted - xp.log(total(xp.exp(shifted), axis))
    return y, lambda g: g - xp.exp(y) * total(g, axis)


@operation
def getitem(x: Array, index: Any) -> Formula:
    """x[index], index as in NumPy: integers, slices, arrays of integers or truth values, None, or a tuple of
    them. A value that is taken twice gets both gradients."""
    index = checks.kept_index(index)
    parts = index if isinstance(index, tuple) else (index,)
    once = all(part is None or part is ... or isinstance(part, (int, slice)) for part in parts)

    def gradient(g: Array) -> Array:
        grad = xp_of(x).zeros(x.shape, g.dtype if once else "float64")  # which adds up exactly enough
        if once:
            grad[index] = g
        else:
            xp_of(x).add.at(grad, index, g.astype("float64"))
        return grad.astype(g.dtype, copy=False)

    return x[index], gradient


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors one after the other along an axis; their other sizes must be equal, else a ValueError."""
    parts = checks.parts("concatenate", tensors, axis)
    xp, ends, end = xp_of(parts[0].data), [], 0
    for x in parts[:-1]:
        ends.append(end := end + x.shape[axis])
    return Tensor(xp.concatenate([x.data for x in parts], axis), parents=parts,
                  vjp=lambda g: tuple(xp.split(g, ends, axis)))


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors of one shape beside each other along a new axis."""
    parts = checks.parts("stack", tensors)
    xp = xp_of(parts[0].data)
    return Tensor(xp.stack([x.data for x in parts], axis), parents=parts,
                  vjp=lambda g: tuple(xp.moveaxis(g, axis, 0)))


@operation
def max_pool2d(x: Array, size: int) -> Formula:
    """The largest value of windows of size x size that do not overlap: (N, H, W, C) -> (N, H // size, W //
    size, C).

    Rows and columns that fill no whole window are left out. Of equal values in a window the first, row by
    row, gets the gradient. Raises ValueError as `avg_pool2d`.
    """
    checks.window("max_pool2d", size, x)
    xp, (N, H, W, C) = xp_of(x), x.shape
    OH, OW = H // size, W // size
    inside = x[:, :OH * size, :OW * size].reshape(N, OH, size, OW, size, C)
    windows = inside.transpose(0, 1, 3, 2, 4, 5).reshape(N, OH, OW, size * size, C)
    first = windows.argmax(axis=3)

    def gradient(g: Array) -> Array:
        grad = xp.zeros((N, H, W, C), g.dtype)
        for i in range(size):
            for j in range(size):
                grad[:, i:OH * size:size, j:OW * size:size] = xp.where(first == i * size + j, g, 0)
        return grad

    return windows.max(axis=3), gradient


operations.max, operations.abs, operations.astype, operations.getitem = max, abs, astype, getitem
