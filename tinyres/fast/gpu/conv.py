"""Convolution on a GPU: copies by CUDA kernels of our own (conv.cu), products by cuBLAS.

3 x 3, stride 1, padding 1: every pixel is stored with the pixels above and below it, 3C numbers. Three such
pixels side by side are a window, 9C numbers that are already contiguous in memory. So the windows are three
overlapping matrices, with windows that start at pixels 0, 3, 6, ..., at 1, 4, 7, ... and at 2, 5, 8, ..., and
one batch of three products takes them where they are: no window is ever written to memory. All other
convolutions: the matrix of columns, for as many images at a time as MAX_BYTES hold.

Why it is faster: what counts on a GPU is bytes moved. A convolution moves three copies of its image where the
matrix of columns has nine. The gradient of the kernel is a product of two long and narrow matrices, with too
few results to keep a GPU busy, so it is cut into up to CHUNKS partial sums, which are added up in a fixed
order. The results are views of memory whose rows are one pixel longer.
"""
from __future__ import annotations

from pathlib import Path

import numpy

from ...backend import Array
from ...conv import Pair, convolution_gradients, convolve, output_size
from ..geometry import column_slices, is_3x3_same, of_gradients, rotate_180
from . import cublas, cuda
from .uncopied_gradients import unshared

MAX_BYTES = 2**29  # of the matrix of columns, unless one image has more
THREADS = 256  # of a block
MIN_ROWS = 512  # windows in one partial sum of the kernel's gradient
CHUNKS = 32  # partial sums, at most

UNITS = {16: "uint4", 8: "uint2", 4: "unsigned int", 2: "unsigned short"}  # by bytes
COPIES = "stack_neighbors", "add_edge", "cut_columns"
NAMES = (*(f"{copy}<{unit}>" for copy in COPIES for unit in UNITS.values()),
         *(f"gather_columns<{cuda.NUMBERS[dtype]}, {cuda.SUMS[dtype]}>" for dtype in cuda.NUMBERS))
SOURCE = Path(__file__).with_suffix(".cu")


def cupy_arrays(x: Array, w: Array, stride: Pair, padding: Pair) -> bool:
    """CuPy arrays"""
    return cuda.cupy_arrays(x)


@convolve.variant(cupy_arrays)
def convolve_on_gpu(x: Array, w: Array, stride: Pair, padding: Pair) -> Array:
    """three copies of the image instead of nine for 3 x 3 kernels; others in a few large products"""
    if is_3x3_same(w, stride, padding):
        return _convolve(_stack(cuda.cupy.ascontiguousarray(x)), w, x.shape)
    x = cuda.readable(x)
    OH, OW = output_size(x.shape, w.shape, stride, padding)
    out = cuda.cupy.empty((len(x), OH, OW, w.shape[3]), x.dtype)
    kernel = cuda.cupy.ascontiguousarray(w).reshape(-1, w.shape[3])
    for part in column_slices(out, w, MAX_BYTES):
        columns = _cut(x[part], w.shape, stride, padding)
        cublas.matmul(columns, kernel, out[part].reshape(-1, w.shape[3]))
    return out


@convolution_gradients.variant(of_gradients(cupy_arrays))
def gradients_on_gpu(g: Array, x: Array, w: Array, stride: Pair, padding: Pair,
                     needs_grad: tuple[bool, bool]) -> tuple[Array | None, Array | None]:
    """three copies instead of nine for 3 x 3 kernels; enough partial sums to keep a GPU busy"""
    xp = cuda.cupy
    g = xp.ascontiguousarray(g)
    if is_3x3_same(w, stride, padding):
        x = xp.ascontiguousarray(x)
        if not needs_grad[0]:
            return None, unshared(_correlate(_stack(x), g))
        # each pixel of x with the window of g around it: the windows of g are needed for both gradients
        stacked = _stack(g)
        grad_w = unshared(rotate_180(_correlate(stacked, x))) if needs_grad[1] else None
        return _convolve(stacked, rotate_180(w), g.shape), grad_w
    grad_x = xp.empty(x.shape, x.dtype) if needs_grad[0] else None
    grad_w, x, parts = None, cuda.readable(x), []
    kernel = xp.ascontiguousarray(w).reshape(-1, w.shape[3])
    for part in column_slices(g, w, MAX_BYTES):
        rows = g[part].reshape(-1, w.shape[3])
        if needs_grad[1]:
            columns = _cut(x[part], w.shape, stride, padding)
            parts.append(_in_chunks(columns[None], rows[None]))
        if needs_grad[0]:
            columns = cublas.matmul(rows, kernel.T, xp.empty((len(rows), len(kernel)), x.dtype))
            _gather(columns, grad_x[part], w.shape, g.shape, stride, padding)
    if needs_grad[1]:
        total = sum(parts[1:], parts[0]) if parts else xp.zeros(w.shape, w.dtype)
        grad_w = unshared(total.astype(w.dtype, copy=False).reshape(w.shape))
    return grad_x, grad_w


def _chunks(windows: int) -> int:
    """How many partial sums the kernel's gradient over that many windows is cut into."""
    return max(1, min(CHUNKS, windows // MIN_ROWS))


def _thirds(image_pixels: int) -> int:
    """How many windows start at pixels 0, 3, 6, ...: enough for all, and a multiple of the partial sums."""
    third = -(-image_pixels // 3)
    return -(-third // _chunks(third)) * _chunks(third)


def _stack(x: Array) -> Array:
    """Pixels with their neighbors: (N, H, W, C) -> (pixels, 3, C), two pixels more than there are windows."""
    N, H, W, C = x.shape
    image_pixels = N * H * (W + 1)
    out = cuda.cupy.empty((3 * _thirds(image_pixels) + 2, 3, C), x.dtype)
    units = _units(x)
    _launch(f"stack_neighbors<{units[1]}>", out.nbytes // units[0], x, out, H, W,
            C * x.itemsize // units[0], image_pixels)
    return out


def _windows(stacked: Array) -> Array:
    """Every 3 x 3 window of `_stack`'s result as a view (3, pixels // 3, 9C): window p is [p % 3, p // 3].

    A window lists its pixels column by column.
    """
    third, step = len(stacked) // 3, stacked.strides[0]
    return cuda.cupy.lib.stride_tricks.as_strided(stacked, (3, third, 9 * stacked.shape[2]),
                                                 (step, 3 * step, stacked.itemsize))


def _convolve(stacked: Array, w: Array, shape: tuple[int, ...]) -> Array:
    """The convolution of a stacked image of `shape` (N, H, W, C) with w (3, 3, C, O): (N, H, W, O)."""
    C, O = w.shape[2:]  # noqa: E741
    views = _windows(stacked)
    rows = cuda.cupy.empty((views.shape[1], 3, O), stacked.dtype)
    kernel = cuda.cupy.ascontiguousarray(_swap_kernel_axes(w)).reshape(1, 9 * C, O)
    cublas.matmul(views, kernel, rows.swapaxes(0, 1))
    return _drop_padding_column(rows, shape)


def _correlate(stacked: Array, g: Array) -> Array:
    """The sum over all windows of each window times its pixel in g (N, H, W, O): (3, 3, C, O)."""
    N, H, W, O = g.shape  # noqa: E741
    views = _windows(stacked)
    rows = cuda.cupy.empty((views.shape[1], 3, O), g.dtype)
    units = _units(g)
    _launch(f"add_edge<{units[1]}>", rows.nbytes // units[0], g, rows, W, O * g.itemsize // units[0],
            N * H * (W + 1))
    total = _in_chunks(views, rows.swapaxes(0, 1)).astype(g.dtype, copy=False)
    return _swap_kernel_axes(total.reshape(3, 3, stacked.shape[2], O))


def _swap_kernel_axes(w: Array) -> Array:
    """w (3, 3, C, O) with KH and KW exchanged, since a window here lists its pixels column by column."""
    return w.swapaxes(0, 1)


def _drop_padding_column(rows: Array, shape: tuple[int, ...]) -> Array:
    """A view (N, H, W, O) of rows (..., O), one for each window of an image of `shape` (N, H, W, C)."""
    N, H, W, O = *shape[:3], rows.shape[-1]  # noqa: E741
    return rows.reshape(-1, O)[:N * H * (W + 1)].reshape(N, H, W + 1, O)[:, :, :W]


def _in_chunks(left: Array, right: Array) -> Array:
    """The sum over i of left[i]^T @ right[i]: (m, rows, k), (m, rows, n) -> (k, n), in float32 at least."""
    rows = left.shape[1]
    pieces = _chunks(rows)
    while rows % pieces:  # _thirds makes a multiple; columns may have any number of rows
        pieces -= 1
    sums = cuda.cupy.empty((pieces, left.shape[2], right.shape[2]),
                          numpy.promote_types(left.dtype, "float32"))
    for i in range(len(left)):
        a, b = (_split(array[i], pieces) for array in (left, right))
        cublas.matmul(a.swapaxes(1, 2), b, sums, accumulate=i > 0)
    return sums.sum(axis=0)


def _split(rows: Array, pieces: int) -> Array:
    """(rows, n) -> (pieces, rows / pieces, n), a view whatever the stride between rows."""
    step = len(rows) // pieces
    return cuda.cupy.lib.stride_tricks.as_strided(
        rows, (pieces, step, rows.shape[1]), (step * rows.strides[0], *rows.strides))


def _cut(x: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair) -> Array:
    """The matrix of columns of tinyres/conv.py: (N, H, W, C) -> (N OH OW, KH KW C)."""
    KH, KW, C, _ = w_shape
    OH, OW = output_size(x.shape, w_shape, stride, padding)
    out = cuda.cupy.empty((len(x) * OH * OW, KH * KW * C), x.dtype)
    size, unit = _units(x)
    _launch(f"cut_columns<{unit}>", out.nbytes // size, x, out, *cuda.strides_of(x, size), *x.shape[1:3],
            C * x.itemsize // size, KH, KW, OH, OW, *stride, *padding)
    return out


def _gather(columns: Array, x: Array, w_shape: tuple[int, ...], g_shape: tuple[int, ...], stride: Pair,
            padding: Pair) -> None:
    """The transpose of `_cut`, written into x (N, H, W, C)."""
    name = f"gather_columns<{cuda.NUMBERS[x.dtype.name]}, {cuda.SUMS[x.dtype.name]}>"
    _launch(name, x.size, columns, x, *x.shape[1:], *w_shape[:2], *g_shape[1:3], *stride, *padding)


def _units(x: Array) -> tuple[int, str]:
    """(bytes, type) of the longest word of which x's pixels, strides and address are multiples."""
    # a view may start anywhere, and a word read across its alignment ends the process
    return next((size, unit) for size, unit in UNITS.items() if cuda.strides_of(x, size))


def _launch(name: str, total: int, *arguments: Array | int) -> None:
    """Run a CUDA kernel, whose last argument is `total`, with one thread for each of that many results."""
    if total:
        integers = int, numpy.integer
        values = tuple(numpy.uint32(a) if isinstance(a, integers) else a for a in (*arguments, total))
        cuda.function(SOURCE, NAMES, name)((min(-(-total // THREADS), 2**20),), (THREADS,), values)
