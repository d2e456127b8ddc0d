"""Sums that keep their accuracy, and results without NumPy's warnings."""
from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy

from ..backend import Array, xp_of

# NumPy adds in pairs along the fastest axis only, elsewhere one value after another, as each thread of a GPU
# does. Of n equal values that loses up to n / 2 units in the last place: of 512 less than 2^-15, of 3 million
# more than 3 percent.
ONE_AFTER_ANOTHER = 512  # values at most; a pass over blocks costs more than it brings for fewer
BLOCK, BLOCK_ON_GPU = 16, 128  # on a GPU few launches count, and enough sums at once to keep it busy


def quietly() -> contextlib.AbstractContextManager[Any]:
    """Within this context NumPy does not warn of an inf or nan, as PyTorch does not; who asked NumPy for
    errors gets them."""
    return numpy.errstate(**{kind: "ignore" for kind, how in numpy.geterr().items()  # type: ignore[arg-type]
                             if how == "warn"})


def wide(dtype: Any, count: int = 1) -> Any:
    """The dtype in which `count` values are added one after another: for float16 it is float32."""
    return numpy.promote_types(dtype, numpy.float32 if count <= ONE_AFTER_ANOTHER else numpy.float64)


def total(x: Array, axis: int | tuple[int, ...] | None = None, scale: float = 1.0) -> Array:
    """The sum of x over an axis, several, or all (None), times scale; the axes stay, with size 1.

    float16 is added and scaled in float32. Long axes that would be added one value after another are added
    in blocks, blocks of blocks, and so on; on CuPy, in float64.
    """
    axes = numpy.lib.array_utils.normalize_axis_tuple(range(x.ndim) if axis is None else axis, x.ndim)
    in_pairs = x.flags.c_contiguous and sorted(axes) == list(range(x.ndim - len(axes), x.ndim))
    count = math.prod(x.shape[axis] for axis in axes)
    dtype = wide(x.dtype, 1 if xp_of(x) is numpy else count)
    with quietly():
        if count <= ONE_AFTER_ANOTHER or in_pairs or x.size == 0:
            out = x.sum(axis=axes, keepdims=True, dtype=dtype)
        else:
            out = _in_blocks(x, axes, dtype)
        return (out if scale == 1 else out * scale).astype(x.dtype, copy=False)


def scaled(x: Array, factor: float) -> Array:
    """x times a number, which float16 may not hold: computed in float32."""
    return (x.astype(wide(x.dtype), copy=False) * factor).astype(x.dtype, copy=False)


def _in_blocks(x: Array, axes: Sequence[int], dtype: Any) -> Array:
    others, xp = [axis for axis in range(x.ndim) if axis not in axes], xp_of(x)
    block = BLOCK if xp is numpy else BLOCK_ON_GPU
    rows = x.transpose(*axes, *others).reshape(-1, *(x.shape[axis] for axis in others))
    while len(rows) > block:
        whole = len(rows) // block * block
        sums = rows[:whole].reshape(-1, block, *rows.shape[1:]).sum(axis=1, dtype=dtype)
        rows = xp.concatenate([sums, rows[whole:]]) if whole < len(rows) else sums
    kept = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    return rows.sum(axis=0, dtype=dtype).reshape(kept)
