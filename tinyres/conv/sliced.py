"""im2col on NumPy with slices of the batch in several threads, for kernels and strides with no other path.

Why it is faster: all cores build columns and add them up, each for its own images and in its own cache, where
im2col alone leaves everything but the matrix product to one core.
"""
from __future__ import annotations

from collections.abc import Iterator

import numpy

from .. import cpu
from ..backend import Array
from . import im2col
from .im2col import Pair

SLICE_BYTES = 2**21  # of columns


def applies(x: Array, w: Array, stride: Pair, padding: Pair) -> bool:
    """Whether this file can compute a convolution: NumPy arrays."""
    return isinstance(x, numpy.ndarray)


def forward(x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair) -> numpy.ndarray:
    """x (N, H, W, C), w (KH, KW, C, O) -> (N, OH, OW, O)."""
    OH, OW = im2col.output_size(x.shape, w.shape, stride, padding)
    out = numpy.empty((len(x), OH, OW, w.shape[3]), x.dtype)

    def convolve(images: slice) -> None:
        out[images] = im2col.forward(x[images], w, stride, padding)

    cpu.over(slices(out, w, SLICE_BYTES), convolve)
    return out


def gradients(g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
              wanted: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """The gradients with respect to x and w, from g (N, OH, OW, O); None for one that is not wanted."""
    grad_x = numpy.empty_like(x) if wanted[0] else None
    grad_w = numpy.zeros_like(w) if wanted[1] else None

    def differentiate(images: slice) -> numpy.ndarray | None:
        part_x, part_w = im2col.gradients(g[images], x[images], w, stride, padding, wanted)
        if wanted[0]:
            grad_x[images] = part_x
        return part_w

    parts = cpu.over(slices(g, w, SLICE_BYTES), differentiate)
    for part in parts:  # in order, so that the sum is always the same
        if wanted[1]:
            grad_w += part
    return grad_x, grad_w


def slices(out: Array, w: Array, most: int) -> Iterator[slice]:
    """As many images at a time as have at most so many bytes of columns, but at least one."""
    N, OH, OW, _ = out.shape
    images = max(1, most // max(1, OH * OW * w[..., 0].size * out.itemsize))
    return (slice(n, n + images) for n in range(0, N, images))
