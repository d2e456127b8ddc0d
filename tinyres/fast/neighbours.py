"""3 x 3 convolution with stride 1 and padding 1 on NumPy, by three copies of the image instead of nine.

Store every pixel together with the one above it and the one below it: 3C numbers. Three such pixels side by
side are a 3 x 3 window: 9C numbers that already lie in a row in memory, so the matrix of columns that im2col
copies together need not be made. The windows that start at pixels 0, 3, 6, ... are the rows of one matrix of
shape (pixels / 3, 9C); those at 1, 4, 7, ... and at 2, 5, 8, ... are two more; all three are views of the
same memory that BLAS takes as they are.

Why it is faster: a copy of small pieces costs more than the product itself where channels are few, and this
makes a third of them. The gradient of the input is a convolution again, with the kernel turned round, where
im2col adds nine overlapping pieces; the windows made for it serve the kernel's gradient too. Products come in
pieces small enough for OpenBLAS to skip its own copies. It is exact: the same products, in another order.
"""
from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..backend import Array, xp_of
from ..conv import Pair, convolution_gradients, convolve
from .sliced import of_gradients
from .threads import parallel_map

BLOCK = 64  # windows multiplied at a time: few enough for OpenBLAS to take them as they lie, uncopied
MAX_BYTES = 2**21  # of pixels with neighbours in a slice of images: as many as a core's cache can hold
MIN_SLICES = 4  # where MAX_BYTES makes fewer; many small slices cost more than further threads bring


def is_3x3_same(w: Array, stride: Pair, padding: Pair) -> bool:
    """Whether a kernel is 3 x 3 with stride 1 and padding 1, which keeps the image's size."""
    return w.shape[:2] == (3, 3) and stride == (1, 1) and padding == (1, 1)


def numpy_3x3_same(x: object, w: Array, stride: Pair, padding: Pair) -> bool:
    """NumPy arrays, 3 x 3 kernel, stride 1, padding 1"""
    return isinstance(x, numpy.ndarray) and is_3x3_same(w, stride, padding)


@convolve.variant(numpy_3x3_same)
def convolve_neighbours(x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair) -> numpy.ndarray:
    """three copies of the image instead of nine"""
    return _convolve_and_correlate(x, w, None)[0]


@convolution_gradients.variant(of_gradients(numpy_3x3_same))
def gradients_of_neighbours(
        g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
        needs_grad: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """three copies of the image instead of nine, for both gradients"""
    # The gradient of x is the convolution of g with w rotated. That of w pairs each pixel of g with the
    # window of x around it, or, which is the same sum, each pixel of x with the window of g around it.
    if not needs_grad[0]:
        return None, _convolve_and_correlate(x, None, g)[1]
    grad_x, grad_w = _convolve_and_correlate(g, rotate_180(w), x if needs_grad[1] else None)
    return grad_x, rotate_180(grad_w) if needs_grad[1] else None


def rotate_180(w: Array) -> Array:
    """The kernel rotated by 180 degrees, for the way back from O to C channels: (3, 3, C, O) -> (3, 3, O,
    C)."""
    return xp_of(w).ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))


def _convolve_and_correlate(
        x: numpy.ndarray, w: numpy.ndarray | None,
        g: numpy.ndarray | None) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """In one pass over the windows of x (N, H, W, C): the convolution with w (3, 3, C, O), which is
    (N, H, W, O), and the sum over all windows of each one's products with its pixel in g (N, H, W, O), which
    is (3, 3, C, O); None for the one whose operand is None.
    """
    out = None
    if w is not None:
        kernel = swap_kernel_axes(w).reshape(-1, w.shape[3])
        out = numpy.empty((*x.shape[:3], w.shape[3]), x.dtype)

    def work(images: slice) -> numpy.ndarray | None:
        windows = _windows(x[images])
        if w is not None:
            rows = numpy.empty((*windows.shape[1:3], 3, w.shape[3]), x.dtype)
            for i in range(3):
                numpy.matmul(windows[i], kernel, out=rows[:, :, i])
            out[images] = drop_padding_column(rows, out[images].shape)
        if g is None:
            return None
        rows = numpy.zeros((*windows.shape[1:3], 3, g.shape[3]), x.dtype)
        drop_padding_column(rows, g[images].shape)[...] = g[images]
        return sum((windows[i].swapaxes(1, 2) @ rows[:, :, i]).sum(axis=0) for i in range(3))

    N, H, W, C = x.shape
    parts = parallel_map(work, slices_of(N, 3 * H * (W + 1) * C * x.itemsize, MAX_BYTES))
    if g is None:
        return out, None
    total = numpy.zeros((9 * x.shape[3], g.shape[3]), x.dtype)
    for part in parts:  # in order, so that the sum is always the same
        total += part
    return out, numpy.ascontiguousarray(swap_kernel_axes(total.reshape(3, 3, x.shape[3], g.shape[3])))


def swap_kernel_axes(w: Array) -> Array:
    """(3, 3, C, O) with the kernel axes exchanged, since a window here lists its pixels column by column."""
    return w.swapaxes(0, 1)


def _windows(x: numpy.ndarray) -> numpy.ndarray:
    """Every 3 x 3 window of x (N, H, W, C) as a view (3, blocks, BLOCK, 9C): window p is [p % 3], row p // 3.

    Pixels are counted with one of zeros after each row, which serves as the right edge of that row and the
    left edge of the next; the window that starts there is computed for nothing, and left out of the result.
    """
    N, H, W, C = x.shape
    pixels = N * H * (W + 1)
    blocks = -(-pixels // (3 * BLOCK))
    flat = numpy.empty((3 * blocks * BLOCK + 2, 3, C), x.dtype)
    flat[pixels:] = 0
    rows = flat[:pixels].reshape(N, H, W + 1, 3, C)
    rows[:, :, 0] = 0
    rows[:, 0, :, 0] = 0
    rows[:, -1, :, 2] = 0
    x, rows = as_pixels(numpy.ascontiguousarray(x)), as_pixels(rows)
    rows[:, 1:, 1:, 0] = x[:, :-1]
    rows[:, :, 1:, 1] = x
    rows[:, :-1, 1:, 2] = x[:, 1:]
    step = flat.strides[0]
    return numpy.lib.stride_tricks.as_strided(flat, (3, blocks, BLOCK, 9 * C),
                                              (step, 3 * BLOCK * step, 3 * step, flat.itemsize))


def as_pixels(x: numpy.ndarray) -> numpy.ndarray:
    """A view (...) of x (..., C) whose elements are whole pixels: NumPy copies them in half the time, since
    it starts anew for each run of numbers that lie in a row, here C."""
    return x.view(f"V{x.shape[-1] * x.itemsize}")[..., 0]


def drop_padding_column(rows: Array, shape: tuple[int, ...]) -> Array:
    """A view (N, H, W, O) of rows (..., O), one for each window of an image of that `shape` (N, H, W, C)."""
    N, H, W, O = *shape[:3], rows.shape[-1]  # noqa: E741
    return rows.reshape(-1, O)[:N * H * (W + 1)].reshape(N, H, W + 1, O)[:, :, :W]


def slices_of(N: int, image_bytes: int, max_bytes: int) -> Iterator[slice]:
    """N images in slices of at most max_bytes, unless one has more; MIN_SLICES or more where N allows it."""
    images = max(1, min(max_bytes // max(1, image_bytes), -(-N // MIN_SLICES)))
    return (slice(n, min(n + images, N)) for n in range(0, N, images))
