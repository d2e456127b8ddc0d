"""What the variants share, on a CPU and on a GPU: which convolutions they apply to, how a kernel is rotated,
and how a batch is cut into slices."""
from __future__ import annotations

import functools
from collections.abc import Callable

import numpy

from ..backend import Array, xp_of
from ..conv import Pair


def of_numpy(array: object, *others: object) -> bool:
    """NumPy arrays"""
    return isinstance(array, numpy.ndarray)


def is_3x3_same(w: Array, stride: Pair, padding: Pair) -> bool:
    """Whether a kernel is 3 x 3 with stride 1 and padding 1, which keeps the image's size."""
    return w.shape[:2] == (3, 3) and stride == (1, 1) and padding == (1, 1)


def rotate_180(w: Array) -> Array:
    """The kernel rotated by 180 degrees, for the way back from O to C channels: (3, 3, C, O) -> (3, 3, O,
    C)."""
    return xp_of(w).ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))


def of_gradients(applies: Callable[..., bool]) -> Callable[..., bool]:
    """The condition for a convolution, turned into the condition for its gradients."""
    @functools.wraps(applies)
    def gradients_apply(g: object, x: object, w: object, stride: Pair, padding: Pair,
                        needs_grad: tuple[bool, bool]) -> bool:
        return applies(x, w, stride, padding)
    return gradients_apply


def slices(count: int, size: int) -> list[slice]:
    """The places 0 to count - 1 in slices of `size`, of which the last may be shorter."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def image_slices(N: int, size: int, max_size: int, min_slices: int = 1) -> list[slice]:
    """N images, each of `size`, in slices of at most `max_size`, unless one image has more. All are one slice
    if it is not too large, since smaller ones are not worth their calls; else there are about `min_slices` or
    more where N allows it."""
    if N * size < max_size:
        min_slices = 1
    return slices(N, max(1, min(max_size // max(1, size), -(-N // min_slices))))


def column_slices(out: Array, w: Array, max_bytes: int) -> list[slice]:
    """The images of out (N, OH, OW, O) in slices that have at most `max_bytes` of columns, as above."""
    N, OH, OW, _ = out.shape
    return image_slices(N, OH * OW * w[..., 0].size * out.itemsize, max_bytes)
