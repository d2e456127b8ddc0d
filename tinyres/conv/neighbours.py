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

SLICE_BYTES = 4 * 2**20  # pixels with neighbours are made for so many images at a time as stay in the cache


def applies(w_shape: tuple[int, ...], stride: tuple[int, int], padding: tuple[int, int]) -> bool:
    """Whether this file can compute a convolution with such a kernel."""
    return w_shape[:2] == (3, 3) and stride == (1, 1) and padding == (1, 1)


def forward(x: numpy.ndarray, w: numpy.ndarray) -> numpy.ndarray:
    """The convolution: x (N, H, W, C), w (3, 3, C, O) -> (N, H, W, O), a view of rows that are one pixel longer."""
    N, H, W, C = x.shape
    O = w.shape[3]  # noqa: E741
    kernel = _columns_first(w).reshape(9 * C, O)
    out = numpy.empty((N * H * (W + 1) + 2, O), x.dtype)  # the last slice may write two pixels too many
    for images in _slices(x):
        windows = _windows(x[images])
        start = images.start * H * (W + 1)
        rows = out[start:start + 3 * windows.shape[1]].reshape(-1, 3, O)
        for i in range(3):
            numpy.matmul(windows[i], kernel, out=rows[:, i])
    return out[:-2].reshape(N, H, W + 1, O)[:, :, :W]


def grad_input(g: numpy.ndarray, w: numpy.ndarray) -> numpy.ndarray:
    """The gradient with respect to x (N, H, W, C), from g (N, H, W, O) and w: a convolution of g with w turned round."""
    return forward(g, w[::-1, ::-1].swapaxes(2, 3))


def grad_kernel(g: numpy.ndarray, x: numpy.ndarray) -> numpy.ndarray:
    """The gradient with respect to w (3, 3, C, O), from g (N, H, W, O) and the input x (N, H, W, C)."""
    N, H, W, O = g.shape  # noqa: E741
    C = x.shape[3]
    total = numpy.zeros((9 * C, O), x.dtype)
    for images in _slices(x):
        windows = _windows(x[images])
        longer = numpy.zeros((3 * windows.shape[1], O), g.dtype)
        pixels = len(x[images]) * H * (W + 1)
        longer[:pixels].reshape(-1, H, W + 1, O)[:, :, :W] = g[images]
        for i in range(3):
            total += windows[i].T @ longer[i::3]
    return numpy.ascontiguousarray(_columns_first(total.reshape(3, 3, C, O)))


def _columns_first(w: numpy.ndarray) -> numpy.ndarray:
    """(3, 3, C, O) with its two kernel axes exchanged, since a window here lists its pixels column by column."""
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


def _slices(x: numpy.ndarray) -> Iterator[slice]:
    N, H, W, C = x.shape
    images = max(1, SLICE_BYTES // max(1, H * (W + 1) * 3 * C * x.itemsize))
    return (slice(n, min(n + images, N)) for n in range(0, N, images))
