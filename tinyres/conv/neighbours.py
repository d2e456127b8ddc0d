"""3 x 3 convolution with stride 1 and padding 1 on NumPy, by three copies of the image instead of nine.

Store every pixel together with the one above it and the one below it: 3C numbers. Three such pixels side by
side are a 3 x 3 window: 9C numbers that already lie in a row in memory, so the matrix of columns that im2col
copies together need not be made. The windows that start at pixels 0, 3, 6, ... are the rows of one matrix of
shape (pixels / 3, 9C); those at 1, 4, 7, ... and at 2, 5, 8, ... are two more; all three are views of the
same memory that BLAS takes as they are.

Why it is faster: a copy of small pieces costs more than the product itself where channels are few, and this
makes a third of them. The gradient of the input is a convolution again, with the kernel turned round, where
im2col adds nine overlapping pieces. It is exact: the same products, added in another order.
"""
from __future__ import annotations

from collections.abc import Iterator

import numpy

from .. import cpu
from ..backend import Array

SLICE_BYTES = 2**20  # pixels with neighbours are made for so many images at a time as stay in a core's cache


Pair = tuple[int, int]


def applies(x: Array, w: Array, stride: Pair, padding: Pair) -> bool:
    """Whether this file can compute a convolution: NumPy arrays, 3 x 3 kernel, stride 1, padding 1."""
    return isinstance(x, numpy.ndarray) and w.shape[:2] == (3, 3) and stride == (1, 1) and padding == (1, 1)


def forward(x: numpy.ndarray, w: numpy.ndarray, stride: Pair = (1, 1),
            padding: Pair = (1, 1)) -> numpy.ndarray:
    """x (N, H, W, C), w (3, 3, C, O) -> (N, H, W, O), a view of memory whose rows are one pixel longer."""
    N, H, W, C = x.shape
    O = w.shape[3]  # noqa: E741
    kernel = _columns_first(w).reshape(9 * C, O)
    out = numpy.empty((N, H, W + 1, O), x.dtype)

    def convolve(images: slice) -> None:
        windows, rows = _windows(x[images]), out[images].reshape(-1, O)
        for i in range(3):
            third = rows[i::3]
            numpy.matmul(windows[i, :len(third)], kernel, out=third)

    cpu.over(_slices(x, w), convolve)
    return out[:, :, :W]


def gradients(g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
              wanted: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """The gradients with respect to x and w, from g (N, H, W, O); None in place of one that is not wanted."""
    return grad_input(g, w) if wanted[0] else None, grad_kernel(g, x, w) if wanted[1] else None


def grad_input(g: numpy.ndarray, w: numpy.ndarray) -> numpy.ndarray:
    """The gradient with respect to x (N, H, W, C): the convolution of g (N, H, W, O) with w turned round."""
    return forward(g, w[::-1, ::-1].swapaxes(2, 3))


def grad_kernel(g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray) -> numpy.ndarray:
    """The gradient with respect to w (3, 3, C, O), from g (N, H, W, O) and the input x (N, H, W, C)."""
    N, H, W, O = g.shape  # noqa: E741
    C = x.shape[3]

    def correlate(images: slice) -> numpy.ndarray:
        windows = _windows(x[images])
        longer = numpy.zeros((3 * windows.shape[1], O), g.dtype)
        pixels = (images.stop - images.start) * H * (W + 1)
        longer[:pixels].reshape(-1, H, W + 1, O)[:, :, :W] = g[images]
        return sum(windows[i].T @ longer[i::3] for i in range(3))

    total = numpy.zeros((9 * C, O), x.dtype)
    for part in cpu.over(_slices(x, w), correlate):  # in order, so that the sum is always the same
        total += part
    return numpy.ascontiguousarray(_columns_first(total.reshape(3, 3, C, O)))


def _columns_first(w: numpy.ndarray) -> numpy.ndarray:
    """(3, 3, C, O) with the kernel axes exchanged, since a window here lists its pixels column by column."""
    return w.swapaxes(0, 1)


def _windows(x: numpy.ndarray) -> numpy.ndarray:
    """Every 3 x 3 window of x (N, H, W, C) as a view (3, pixels / 3, 9C): window p is [p % 3, p // 3].

    Pixels are counted with one of zeros after each row, which serves as the right edge of that row and the
    left edge of the next; the window that starts there is computed for nothing, and left out of the result.
    """
    N, H, W, C = x.shape
    pixels = N * H * (W + 1)
    third = -(-pixels // 3)
    flat = numpy.empty((3 * third + 2, 3, C), x.dtype)
    flat[pixels:] = 0
    rows = flat[:pixels].reshape(N, H, W + 1, 3, C)
    rows[:, :, 0] = 0
    rows[:, 0, :, 0] = 0
    rows[:, 1:, 1:, 0] = x[:, :-1]
    rows[:, :, 1:, 1] = x
    rows[:, :-1, 1:, 2] = x[:, 1:]
    rows[:, -1, :, 2] = 0
    step = flat.strides[0]
    return numpy.lib.stride_tricks.as_strided(flat, (3, third, 9 * C), (step, 3 * step, flat.itemsize))


def _slices(x: numpy.ndarray, w: numpy.ndarray) -> Iterator[slice]:
    N, H, W, C = x.shape
    images = max(1, max(SLICE_BYTES, w.nbytes) // max(1, H * (W + 1) * 3 * C * x.itemsize))
    return (slice(n, min(n + images, N)) for n in range(0, N, images))
