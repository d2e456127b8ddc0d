"""Functions that take values out of tensors, join tensors, or give them other axes."""
from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from ..backend import Array, xp_of
from ..support import extra_checks
from ..support import operation_checks as checks
from ..support.context import operations
from ..support.names import explained
from ..tensor import Formula, Tensor, operation
from .methods import Axes, add_methods


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


@explained
def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors one after the other along an axis; some may be arrays. Their other sizes must be equal, else a
    ValueError."""
    parts = checks.parts("concatenate", tensors, axis)
    xp, ends = xp_of(parts[0].data), [*itertools.accumulate(x.shape[axis] for x in parts[:-1])]
    return Tensor(xp.concatenate([x.data for x in parts], axis), parents=parts,
                  vjp=lambda g: tuple(xp.split(g, ends, axis)))


@explained
def stack(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors of one shape beside each other along a new axis."""
    parts = checks.parts("stack", tensors)
    xp = xp_of(parts[0].data)
    return Tensor(xp.stack([x.data for x in parts], axis), parents=parts,
                  vjp=lambda g: tuple(xp.moveaxis(g, axis, 0)))


@operation
def squeeze(x: Array, axis: Axes = None) -> Formula:
    """x without those of the axes (default: all) that have size 1; others stay, as in PyTorch."""
    gone = [i for i in checks.axes(axis, x) if x.shape[i] == 1]
    return x.squeeze(tuple(gone)), lambda g: g.reshape(x.shape)


@operation
def unsqueeze(x: Array, axis: int) -> Formula:
    """x with a new axis of size 1 at this place of the result. Raises ValueError if it has no such place."""
    return xp_of(x).expand_dims(x, axis), lambda g: g.reshape(x.shape)


@operation
def flatten(x: Array, start_axis: int = 0, end_axis: int = -1) -> Formula:
    """x with the axes from start_axis to end_axis, inclusive, made into one; flatten(x, 1) keeps the batch's.

    Raises ValueError for axes that x does not have, or in the wrong order.
    """
    first, last = extra_checks.first_and_last("flatten", start_axis, end_axis, x)
    size = 1
    for length in x.shape[first:last + 1]:
        size *= length
    return x.reshape(*x.shape[:first], size, *x.shape[last + 1:]), lambda g: g.reshape(x.shape)


@explained
def split(x: Tensor, size: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """x in parts along an axis, as in PyTorch: of `size` each, but for the last, or of the sizes in a list.

    Raises ValueError for a size below 1, or a list of sizes whose sum is another.
    """
    axis, sizes = extra_checks.split(x, size, axis)
    ends = itertools.accumulate(sizes)
    before = (slice(None),) * axis
    return tuple(x[(*before, slice(end - length, end))] for end, length in zip(ends, sizes, strict=True))


operations.getitem = getitem
add_methods(squeeze, unsqueeze, flatten, split)
