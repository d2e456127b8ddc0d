"""im2col on NumPy with slices of the batch in several threads, for all kernels and strides that no other
variant takes.

Why it is faster: all cores build columns, and add them up for the gradient, each for its own images and in
its own cache, where the definition leaves everything but the matrix product to one core. And the matrix of
columns, KH KW times as large as the image, never exists as a whole. A row of a window, KW C numbers that are
contiguous in memory, is copied as one item, which halves the time, and small products are cut into blocks
that OpenBLAS takes without a copy where it can (machine.py).
"""
from __future__ import annotations

import numpy

from ...conv import Pair, convolution_gradients, convolve, output_size
from ..geometry import column_slices, of_gradients
from .machine import MAX_COLUMNS as MAX_BYTES  # of a slice's, unless one image, or the kernel, has more
from .machine import MIN_SLICES
from .threads import parallel_map

MAX_PRODUCT = 2**20  # multiplications that OpenBLAS does without copying its operands
MIN_BLOCK, MAX_BLOCK = 64, 256  # rows of columns in such a product; where fewer fit, it takes all at once


def numpy_arrays(x: object, w: object, stride: Pair, padding: Pair) -> bool:
    """NumPy arrays"""
    return isinstance(x, numpy.ndarray)


@convolve.variant(numpy_arrays)
def convolve_im2col(x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair) -> numpy.ndarray:
    """slices of the batch, on all cores"""
    OH, OW = output_size(x.shape, w.shape, stride, padding)
    out = numpy.empty((len(x), OH, OW, w.shape[3]), x.dtype)
    kernel = w.reshape(-1, w.shape[3])

    def work(images: slice) -> None:
        columns = _columns(x[images], w.shape, stride, padding)
        numpy.matmul(columns, kernel, out=out[images].reshape(*columns.shape[:2], -1))

    parallel_map(work, column_slices(out, w, max(MAX_BYTES, w.nbytes), MIN_SLICES))
    return out


@convolution_gradients.variant(of_gradients(numpy_arrays))
def gradients_im2col(g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
                     needs_grad: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """slices of the batch, on all cores"""
    grad_x = numpy.empty_like(x) if needs_grad[0] else None

    def work(images: slice) -> numpy.ndarray | None:
        if needs_grad[0]:
            grad_x[images] = convolution_gradients.definition(g[images], x[images], w, stride, padding,
                                                              (True, False))[0]
        if not needs_grad[1]:
            return None
        columns = _columns(x[images], w.shape, stride, padding)
        rows = g[images].reshape(*columns.shape[:2], w.shape[3])
        sums = columns.swapaxes(1, 2) @ rows
        return (sums.sum(axis=0) if len(sums) > 1 else sums[0]).reshape(w.shape)

    parts = parallel_map(work, column_slices(g, w, max(MAX_BYTES, 4 * w.nbytes), MIN_SLICES))
    if not needs_grad[1]:
        return grad_x, None
    for part in parts[1:]:  # in order, so that the sum is always the same
        parts[0] += part
    return grad_x, parts[0] if parts else numpy.zeros_like(w)


def _columns(x: numpy.ndarray, w_shape: tuple[int, ...], stride: Pair, padding: Pair) -> numpy.ndarray:
    """The matrix of columns of tinyres/conv.py in blocks of rows: (blocks, rows, KH KW C)."""
    N, H, W, C = x.shape
    KH, KW, _, O = w_shape  # noqa: E741
    (OH, OW), (top, left) = output_size(x.shape, w_shape, stride, padding), padding
    padded = numpy.zeros((N, H + 2 * top, W + 2 * left, C), x.dtype)
    padded[:, top:top + H, left:left + W] = x
    n, h, w, _ = padded.strides
    windows = numpy.ndarray((N, OH, OW, KH), f"V{KW * C * x.itemsize}", padded,
                            strides=(n, stride[0] * h, stride[1] * w, h))
    columns = numpy.ascontiguousarray(windows).view(x.dtype).reshape(N * OH * OW, KH * KW * C)
    rows = min(MAX_BLOCK, MAX_PRODUCT // (KH * KW * C * O))
    rows = 1 << rows.bit_length() - 1 if rows >= MIN_BLOCK else len(columns)
    return columns.reshape(-1, rows if len(columns) % rows == 0 else len(columns), KH * KW * C)
