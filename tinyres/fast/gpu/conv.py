"""Convolution on a GPU by the matrix of columns; 3 x 3 with stride 1 does without it (block.py).

Why it is faster: one CUDA kernel cuts the columns, another adds them up. A kernel's gradient has too few
numbers to keep a GPU busy, so its product is cut into partial sums, which are added up in a fixed order.
"""
from __future__ import annotations

import numpy

from ...backend import Array
from ...conv import Pair, convolution_gradients, convolve, output_size
from ..geometry import column_slices, of_gradients
from . import cublas, cuda, passes
from .passes import Beside, Parts
from .uncopied_gradients import unshared

MAX_BYTES = 2**29  # of the matrix of columns, unless one image has more
MIN_ROWS = 512  # windows in one partial sum of the kernel's gradient
CHUNKS = 32  # partial sums of a slice, at most


@convolve.variant(cuda.cupy_arrays)
def convolve_on_gpu(x: Array, w: Array, stride: Pair, padding: Pair) -> Array:
    """a few large products"""
    x = cuda.readable(x)
    OH, OW = output_size(x.shape, w.shape, stride, padding)
    out = cuda.cupy.empty((len(x), OH, OW, w.shape[3]), x.dtype)
    kernel = cuda.cupy.ascontiguousarray(w).reshape(-1, w.shape[3])
    for part in column_slices(out, w, MAX_BYTES):
        columns = passes.cut(x[part], (*w.shape[:2], OH, OW, *stride, *padding))
        cublas.matmul(columns, kernel, out[part].reshape(-1, w.shape[3]))
    return out


@convolution_gradients.variant(of_gradients(cuda.cupy_arrays))
def gradients_on_gpu(g: Array, x: Array, w: Array, stride: Pair, padding: Pair, needs_grad: tuple[bool, bool],
                     beside: Beside | None = None) -> tuple[Array | None, Array | None]:
    """a few large products, enough partial sums to keep a GPU busy"""
    # beside: what is added to the gradient of x, which then is stacked
    xp, (OH, OW), O = cuda.cupy, g.shape[1:3], w.shape[3]  # noqa: E741
    x, kernel = cuda.readable(x), xp.ascontiguousarray(w).reshape(-1, O)
    window = (*w.shape[:2], OH, OW, *stride, *padding)
    slices = column_slices(g, w, MAX_BYTES)
    grad_x = memory = parts = None
    if needs_grad[0] and beside:
        grad_x, memory = passes.empty(x.shape, x.dtype, stacked=True)
    elif needs_grad[0]:
        grad_x = memory = xp.empty(x.shape, x.dtype)
    if needs_grad[1]:
        pieces = [_pieces((part.stop - part.start) * OH * OW) for part in slices]
        parts = Parts(xp.empty((sum(pieces), *kernel.shape), numpy.promote_types(w.dtype, "float32")),
                      xp.empty(w.shape, w.dtype))
    for i, part in enumerate(slices):
        rows = _matrix(g[part])
        if parts:
            sums = parts.parts[sum(pieces[:i]):sum(pieces[:i + 1])]
            _partial_sums(passes.cut(x[part], window), rows, sums)
        if memory is not None:
            columns = cublas.matmul(rows, kernel.T, xp.empty((len(rows), len(kernel)), x.dtype))
            passes.gather(columns, memory[part], window, beside and beside._replace(
                pixels=beside.pixels.images(part)), parts if part.stop == len(g) else None)
    if parts and (memory is None or not slices):
        passes.add_up(parts)
    return grad_x, unshared(parts.total) if parts else None


def _pieces(rows: int) -> int:
    """How many partial sums the kernel's gradient over that many windows is cut into: a divisor."""
    most = max(1, min(CHUNKS, rows // MIN_ROWS))
    return max(pieces for pieces in range(1, most + 1) if not rows % pieces)


def _matrix(g: Array) -> Array:
    """The pixels (n OH OW, O) of g, which also may lie apart."""
    rows = g.reshape(-1, g.shape[3])
    apart, step = rows.strides
    whole = step == rows.itemsize and apart >= rows.shape[1] * step
    return rows if whole else cuda.cupy.ascontiguousarray(rows)


def _partial_sums(left: Array, right: Array, out: Array) -> None:
    """left^T @ right in parts: (rows, m), (rows, n) -> (parts, m, n), for any stride between rows."""
    step, split = len(left) // len(out), cuda.cupy.lib.stride_tricks.as_strided
    left, right = (split(rows, (len(out), step, rows.shape[1]), (step * rows.strides[0], *rows.strides))
                   for rows in (left, right))
    cublas.matmul(left.swapaxes(1, 2), right, out)
