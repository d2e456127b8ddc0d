"""Further differentiable functions, which the paper does without: for networks of your own and for lessons.

As in ops.py, each is its formula on arrays: the result, and the function from g, the gradient of the loss
with respect to the result, to the gradient of x. Where a function has no derivative, the subgradient is
PyTorch's, and the docstring says which.
"""
from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

from .. import arithmetic, ops
from ..arithmetic import FormulaOfTwo, operation_of_two, unbroadcast
from ..backend import Array, xp_of
from ..support import extra_checks
from ..support import operation_checks as checks
from ..support.context import operations
from ..support.numerics import total, wide
from ..tensor import Formula, Tensor, operation
from .methods import Axes, add_methods


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
def clip(x: Array, low: float | Array | None = None, high: float | Array | None = None) -> Formula:
    """x, but low where it is less and high where it is more: numbers, or arrays that broadcast; None is no
    bound. The derivative at a bound is 1. No gradient goes to the bounds."""
    y = x.clip(*extra_checks.bounds(low, high, x))
    return y, lambda g: unbroadcast(g * (y == x), x.shape)


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
def var(x: Array, axis: Axes = None, keepdims: bool = False, correction: int = 1) -> Formula:
    """The variance over an axis, several axes, or all (None): the sum of squared distances from the mean,
    divided by the number of values minus `correction`, so by default unbiased, as in PyTorch.

    Raises ValueError unless there are more values than that.
    """
    axis, kept, gradient = _variance("var", x, axis, correction)
    y = kept if keepdims else kept.squeeze(axis)
    return y.astype(x.dtype, copy=False), lambda g: gradient(g.reshape(kept.shape))


@operation
def std(x: Array, axis: Axes = None, keepdims: bool = False, correction: int = 1) -> Formula:
    """The standard deviation, the root of `var`. Its derivative where it is 0 is 0, as in PyTorch."""
    axis, kept, gradient = _variance("std", x, axis, correction)
    root = xp_of(x).sqrt(kept)

    def of_x(g: Array) -> Array:
        return gradient(xp_of(g).where(root == 0, 0, g.reshape(root.shape) * (0.5 / root)))

    return (root if keepdims else root.squeeze(axis)).astype(x.dtype, copy=False), of_x


def _variance(name: str, x: Array, axis: Axes, correction: int
              ) -> tuple[tuple[int, ...], Array, Callable[[Array], Array]]:
    """The axes, the variance with them kept, for float16 in float32, and from its gradient to that of x."""
    axis, count = checks.elements(name, x, axis)
    divisor = extra_checks.divisor(name, count, correction)
    centered = x.astype(wide(x.dtype), copy=False)
    centered = centered - total(centered, axis, 1 / count)
    return (axis, total(centered * centered, axis, 1 / divisor),
            lambda g: (g * (2 / divisor) * centered).astype(x.dtype, copy=False))


def where(condition: Array, a: object, b: object) -> Tensor:
    """a where the condition is true, b elsewhere, with broadcasting; one of them may be a number or an array.

    condition: an array of truth values, such as x > 0. Raises TypeError for another.
    """
    condition = extra_checks.condition("where", condition)
    xp = xp_of(condition)

    def where(a: Array, b: Array) -> FormulaOfTwo:
        return (xp.where(condition, a, b), lambda g: xp.where(condition, g, 0),
                lambda g: xp.where(condition, 0, g))

    return operation_of_two(where)(a, b)


@operation_of_two
def power_of_tensors(a: Array, b: Array) -> FormulaOfTwo:
    """a ** b elementwise, with broadcasting."""
    xp, y = xp_of(a), a ** b
    return (y, lambda g: g * xp.where(b == 0, 0, b * a ** (b - 1)),
            lambda g: g * xp.where((a == 0) & (b >= 0), 0, y * xp.log(a)))  # no 0 * inf


def power(a: Any, b: Any) -> Tensor:
    """a ** b, of which either may be a number, an array or a tensor."""
    is_number = isinstance(b, (Real, str)) and isinstance(a, Tensor)
    return arithmetic.power(a, b) if is_number else power_of_tensors(a, b)


def matmul(a: object, b: object) -> Tensor:
    """a (..., n, m) @ b (..., m, p): (..., n, p), with leading axes that broadcast; either may be a vector
    (m,), as in NumPy. Raises ValueError for other shapes."""
    a, b = checks.operands("matmul", a, b)
    if a.ndim != 1 and b.ndim != 1:
        return arithmetic.matmul(a, b)
    checks.vectors("matmul", a, b)
    matrix_a = ops.reshape(a, (1, a.size)) if a.ndim == 1 else a
    matrix_b = ops.reshape(b, (b.size, 1)) if b.ndim == 1 else b
    shape = (*a.shape[:-1], *b.shape[:-2], *b.shape[b.ndim - 1:][:b.ndim - 1])
    return ops.reshape(arithmetic.matmul(matrix_a, matrix_b), shape)


operations.abs, operations.power, operations.matmul = abs, power, matmul
add_methods(ops.sum, ops.mean, max, min, var, std, astype, clip)
