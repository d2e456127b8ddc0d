"""What the operations in extras/ ask of their arguments; written as in operation_checks.py."""
from __future__ import annotations

import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy

from .. import backend
from ..backend import Array, xp_of
from ..conv import Pair
from ..tensor import Tensor
from .operation_checks import axes, labels, operands, pair, tensor
from .tensor_checks import plain


def bounds(low: Any, high: Any, x: Array) -> list[Any]:
    """Numbers, arrays or None, not both None, in the dtype of x; arrays are copied, for they may change."""
    if low is high is None or not all(bound is None or isinstance(bound, (Real, list, tuple, Tensor))
                                      or backend.is_array(bound) for bound in (low, high)):
        raise ValueError("clip: expected numbers, one of which may be None, or arrays, got low "
                         f"{low!r:.60} and high {high!r:.60}")
    if any(isinstance(bound, Tensor) and bound.requires_grad for bound in (low, high)):
        raise TypeError("clip: no gradient goes to a bound: write tr.maximum(x, low) or tr.minimum(x, high)")
    # Python's numbers take the dtype of the array, NumPy's would widen it
    return [bound if bound is None else float(bound) if isinstance(bound, Real)
            else operands("clip", Tensor(x), bound)[1].data.copy() for bound in (low, high)]


def condition(name: str, values: Any) -> Array:
    """An array of truth values, copied: it may change before `backward`."""
    values = numpy.asarray(values) if isinstance(values, (bool, list, tuple, numpy.bool_)) else values
    if not backend.is_array(values) or values.dtype.kind != "b":
        found = getattr(values, "dtype", type(values).__name__)
        raise TypeError(f"{name}: expected an array of truth values, such as x > 0, got {found}")
    return plain(values).copy()


def divisor(name: str, count: int, correction: float) -> float:
    """The number of values minus the correction, above 0."""
    if count <= correction:
        raise ValueError(f"{name}: of {count} values, minus the correction {correction}, nothing is left to "
                         "divide by: correction=0 divides by the number of values")
    return count - correction


def one_shape(name: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Operands of one shape."""
    a, b = operands(name, a, b)
    if a.shape != b.shape:
        raise ValueError(f"{name}: shapes {a.shape} and {b.shape} must be equal: reshape one of them")
    return a, b


def first_and_last(name: str, first: int, last: int, x: Array) -> tuple[int, int]:
    """Two axes in order, each >= 0; (0, -1) of a number."""
    if x.ndim == 0 and first in (0, -1) and last in (0, -1):
        return 0, -1
    (low,), (high,) = axes(first, x), axes(last, x)
    if low > high:
        raise ValueError(f"{name}: axis {first} comes after axis {last} in shape {x.shape}")
    return low, high


def split(x: Any, size: Any, axis: int) -> tuple[int, list[int]]:
    """The axis, >= 0, and the sizes of the parts along it."""
    (axis,) = axes(operator.index(axis), tensor("split", x).data)
    length = x.shape[axis]
    sizes = [operator.index(part) for part in size] if isinstance(size, Iterable) else None
    if sizes is None and operator.index(size) >= 1:
        size = operator.index(size)
        sizes = [size] * (length // size) + [length % size] * (length % size > 0 or length == 0)
    if sizes is None or sum(sizes) != length or min(sizes) < 0:
        raise ValueError(f"split: expected a size >= 1, or sizes that add up to the {length} of axis {axis} "
                         f"of shape {x.shape}, got {size}")
    return axis, sizes


def pooling(name: str, size: Any, stride: Any, padding: Any, x: Array) -> tuple[Pair, Pair, Pair]:
    """Size, stride and padding of a window that fits into the image x (N, H, W, C), as pairs."""
    if x.ndim != 4:
        raise ValueError(f"{name}: expected shape (N, H, W, C), got {x.shape}")
    s, p = pair(f"{name}: size", size, 1), pair(f"{name}: padding", padding, 0)
    for i in (0, 1):
        if s[i] > x.shape[1 + i] + 2 * p[i]:
            raise ValueError(f"{name}: size {size!r} must be an integer from 1 to the image's side, "
                             f"{x.shape[1]} x {x.shape[2]}, or a pair of them")
        if 2 * p[i] > s[i]:
            raise ValueError(f"{name}: padding {padding!r} must be at most half of size {size!r}")
    return s, s if stride is None else pair(f"{name}: stride", stride, 1), p


def labels_but(name: str, given: Any, logits: Array, ignore: int) -> tuple[Array, Array]:
    """Labels of logits, 0 in place of those to ignore; and for each whether it counts."""
    given = xp_of(logits).asarray(given) if isinstance(given, (list, tuple)) else given
    counted = given != ignore
    if backend.is_array(given) and xp_of(given) is xp_of(logits):
        given = xp_of(logits).where(counted, plain(given), 0)
    return labels(given, logits, name), counted


def share(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name} {value!r}: expected a number from 0 to 1")
    return float(value)
