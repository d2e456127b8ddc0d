"""Further differentiable functions, which the paper does without: for networks of your own and for lessons.

As in ops.py, each is its result and its vector-Jacobian product; g is the gradient of the loss with respect
to the result. Where a function has no derivative, the subgradient is PyTorch's, and the docstring says which.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arithmetic import unbroadcast
from ..backend import Array, xp_of
from ..ops import Axes
from ..support import operation_checks as checks
from ..tensor import Tensor


def sqrt(x: Tensor) -> Tensor:
    """The square root elementwise: nan below 0, as in NumPy. Its derivative at 0 is infinite."""
    out = xp_of(checks.tensor("sqrt", x).data).sqrt(x.data)
    return Tensor(out, parents=(x,), vjp=lambda g: (g * (0.5 / out),))


def abs(x: Tensor) -> Tensor:
    """|x| elementwise, with derivative 0 at 0."""
    xp = xp_of(checks.tensor("abs", x).data)
    return Tensor(xp.abs(x.data), parents=(x,), vjp=lambda g: (g * xp.sign(x.data),))


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent elementwise."""
    out = xp_of(checks.tensor("tanh", x).data).tanh(x.data)
    return Tensor(out, parents=(x,), vjp=lambda g: (g * (1 - out**2),))


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e ** -x) elementwise."""
    xp = xp_of(checks.tensor("sigmoid", x).data)
    small = xp.exp(-xp.abs(x.data))  # at most 1, so that nothing overflows
    out = xp.where(x.data >= 0, 1, small) / (1 + small)
    return Tensor(out, parents=(x,), vjp=lambda g: (g * out * (1 - out),))


def clip(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    """x, but low where it is less and high where it is more; None is no bound. The derivative at a bound is
    1."""
    low, high = checks.bounds("clip", low, high)
    out = xp_of(checks.tensor("clip", x).data).clip(x.data, low, high)
    return Tensor(out, parents=(x,), vjp=lambda g: (g * (out == x.data),))


def maximum(a: object, b: object) -> Tensor:
    """The larger of a and b elementwise, with broadcasting. Of equal ones each gets half of the gradient."""
    a, b = checks.operands("maximum", a, b, broadcast=True)
    xp, dtype = xp_of(a.data), a.dtype

    def vjp(g: Array) -> tuple[Array, Array]:
        to_a = g * ((a.data > b.data) + 0.5 * (a.data == b.data)).astype(dtype)
        return unbroadcast(to_a, a.shape), unbroadcast(g - to_a, b.shape)

    return Tensor(xp.maximum(a.data, b.data), parents=(a, b), vjp=vjp)


def max(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The largest value over an axis, several axes, or all (None). Equal ones share the gradient evenly.

    Raises ValueError over no elements.
    """
    axis = axis if axis is None or isinstance(axis, int) else tuple(axis)
    checks.elements("max", checks.tensor("max", x), axis)
    kept = x.data.max(axis=axis, keepdims=True)
    largest = x.data == kept

    def vjp(g: Array) -> tuple[Array]:
        each = g.reshape(kept.shape) / largest.sum(axis=axis, keepdims=True).astype(g.dtype)
        return (largest * each,)

    return Tensor(kept if keepdims else kept.squeeze(axis), parents=(x,), vjp=vjp)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """e ** x over its sum along an axis: positive numbers that add up to 1."""
    powers = xp_of(checks.tensor("softmax", x).data).exp(x.data - x.data.max(axis=axis, keepdims=True))
    out = powers / powers.sum(axis=axis, keepdims=True)
    return Tensor(out, parents=(x,), vjp=lambda g: (out * (g - (g * out).sum(axis=axis, keepdims=True)),))


def log_softmax(x: Tensor, axis: int = -1) -> Tensor:
    """log(softmax(x)) along an axis, without overflow and without log(0)."""
    xp = xp_of(checks.tensor("log_softmax", x).data)
    shifted = x.data - x.data.max(axis=axis, keepdims=True)
    out = shifted - xp.log(xp.exp(shifted).sum(axis=axis, keepdims=True))
    return Tensor(out, parents=(x,), vjp=lambda g: (g - xp.exp(out) * g.sum(axis=axis, keepdims=True),))


def getitem(x: Tensor, index: Any) -> Tensor:
    """x[index], index as in NumPy: integers, slices, arrays of integers or truth values, None, or a tuple of
    them. A value that is taken twice gets both gradients."""
    xp = xp_of(checks.tensor("getitem", x).data)

    def vjp(g: Array) -> tuple[Array]:
        grad = xp.zeros(x.shape, g.dtype)
        if once:
            grad[index] = g
        else:
            xp.add.at(grad, index, g)
        return (grad,)

    parts = index if isinstance(index, tuple) else (index,)
    once = all(part is None or part is ... or isinstance(part, (int, slice)) for part in parts)
    return Tensor(x.data[index], parents=(x,), vjp=vjp)


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors one after the other along an axis; their other sizes must be equal, else a ValueError."""
    tensors = checks.parts("concatenate", tensors, axis)
    xp, ends, end = xp_of(tensors[0].data), [], 0
    for x in tensors[:-1]:
        ends.append(end := end + x.shape[axis])
    return Tensor(xp.concatenate([x.data for x in tensors], axis), parents=tensors,
                  vjp=lambda g: tuple(xp.split(g, ends, axis)))


def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors of one shape beside each other along a new axis."""
    tensors = checks.parts("stack", tensors)
    xp = xp_of(tensors[0].data)
    return Tensor(xp.stack([x.data for x in tensors], axis), parents=tensors,
                  vjp=lambda g: tuple(xp.moveaxis(g, axis, 0)))


def max_pool2d(x: Tensor, size: int) -> Tensor:
    """The largest value of windows of size x size that do not overlap: (N, H, W, C) -> (N, H // size, W //
    size, C).

    Rows and columns that fill no whole window are left out. Of equal values in a window the first, row by
    row, gets the gradient. Raises ValueError as `avg_pool2d`.
    """
    checks.window("max_pool2d", size, checks.tensor("max_pool2d", x, "(N, H, W, C)"))
    xp, (N, H, W, C) = xp_of(x.data), x.shape
    OH, OW = H // size, W // size
    inside = x.data[:, :OH * size, :OW * size].reshape(N, OH, size, OW, size, C)
    windows = inside.transpose(0, 1, 3, 2, 4, 5).reshape(N, OH, OW, size * size, C)
    first = windows.argmax(axis=3)

    def vjp(g: Array) -> tuple[Array]:
        grad = xp.zeros((N, H, W, C), g.dtype)
        for i in range(size):
            for j in range(size):
                grad[:, i:OH * size:size, j:OW * size:size] = xp.where(first == i * size + j, g, 0)
        return (grad,)

    return Tensor(windows.max(axis=3), parents=(x,), vjp=vjp)
