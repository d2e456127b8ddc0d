"""Pooling over windows of any size, stride and padding; the paper's is over squares side by side.

Shapes: x (N, H, W, C), result (N, OH, OW, C), where OH = (H + 2 padding - KH) // stride + 1. size, stride and
padding are pixels, one number or (vertical, horizontal); the stride is by default the size, the padding at
most half of it. Rows and columns that fill no whole window are left out.
"""
from __future__ import annotations

from collections.abc import Callable

from ..backend import Array, xp_of
from ..conv import Pair, output_size
from ..support import extra_checks
from ..support.numerics import wide
from ..tensor import Formula, operation


@operation
def avg_pool2d(x: Array, size: int | Pair, stride: int | Pair | None = None,
               padding: int | Pair = 0) -> Formula:
    """The mean of each window: (N, H, W, C) -> (N, OH, OW, C), by default (N, H // size, W // size, C).

    size, stride (default: size), padding: pixels, one number or (vertical, horizontal); the zeros of the
    padding count, as in PyTorch. Raises ValueError for an x without four axes, or sizes that do not fit.
    """
    padded, places, unpadded = _windows("avg_pool2d", x, size, stride, padding, 0.0)
    out = xp_of(x).zeros(padded[places[0]].shape, wide(x.dtype, len(places)))
    for place in places:
        out += padded[place]
    out /= len(places)

    def gradient(g: Array) -> Array:
        grad, share = xp_of(g).zeros(padded.shape, g.dtype), g / len(places)
        for place in places:  # windows may overlap, but at one place no two of them see the same pixel
            grad[place] += share
        return unpadded(grad)

    return out.astype(x.dtype, copy=False), gradient


@operation
def max_pool2d(x: Array, size: int | Pair, stride: int | Pair | None = None,
               padding: int | Pair = 0) -> Formula:
    """The largest value of each window, otherwise as `avg_pool2d`, but that no value of the padding is the
    largest. Of equal values in a window the first, row by row, gets the gradient."""
    padded, places, unpadded = _windows("max_pool2d", x, size, stride, padding, -float("inf"))
    windows = xp_of(x).stack([padded[place] for place in places], axis=3)
    first = windows.argmax(axis=3)

    def gradient(g: Array) -> Array:
        grad = xp_of(g).zeros(padded.shape, g.dtype)
        for number, place in enumerate(places):
            grad[place] += xp_of(g).where(first == number, g, 0)
        return unpadded(grad)

    return windows.max(axis=3), gradient


def _windows(name: str, x: Array, size: int | Pair, stride: int | Pair | None, padding: int | Pair,
             value: float) -> tuple[Array, list[tuple[slice, ...]], Callable[[Array], Array]]:
    """x padded with a value; for each place in a window, row by row, the index of that pixel of all windows;
    and what takes the padding away."""
    (KH, KW), stride, padding = extra_checks.pooling(name, size, stride, padding, x)
    OH, OW = output_size(x.shape, (KH, KW), stride, padding)
    H, W = (slice(p, p + size) for p, size in zip(padding, x.shape[1:3], strict=True))
    padded = x
    if padding != (0, 0):
        around = [(0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)]
        padded = xp_of(x).pad(x, around, constant_values=value)
    rows = [slice(i, i + (OH - 1) * stride[0] + 1, stride[0]) for i in range(KH)]
    columns = [slice(j, j + (OW - 1) * stride[1] + 1, stride[1]) for j in range(KW)]
    return padded, [(slice(None), i, j) for i in rows for j in columns], lambda grad: grad[:, H, W]
