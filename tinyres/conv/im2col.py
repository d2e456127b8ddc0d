"""Convolution as matrix multiplication: the textbook version, for both backends and any kernel, stride and
padding.

Lay out the window that each output pixel sees as one row of a matrix of "columns" (the name im2col comes from
the transposed layout). Then the convolution is one matrix product, and so is each of its gradients:

    out     (N OH OW, O)      = columns (N OH OW, KH KW C) @ kernel (KH KW C, O)
    grad_w  (KH KW C, O)      = columns^T @ grad_out
    columns' gradient         = grad_out @ kernel^T, each entry added back to the pixel that it was copied
    from

Shapes: x (N, H, W, C), w (KH, KW, C, O), out (N, OH, OW, O), where OH = (H + 2 padding - KH) // stride + 1.
The matrix of columns is KH KW times as large as the image, so it is made for a slice of the batch at a time.
"""
from __future__ import annotations

from collections.abc import Iterator

from ..backend import Array, xp_of

COLUMN_BYTES = 16 * 2**20  # most that the matrix of columns takes, unless one row of pixels takes more

Pair = tuple[int, int]  # (vertical, horizontal)


def output_size(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Pair, padding: Pair) -> Pair:
    """(OH, OW); below 1 where the kernel does not fit into the padded image."""
    return tuple((x_shape[1 + i] + 2 * padding[i] - w_shape[i]) // stride[i] + 1 for i in (0, 1))


def is_3x3_same(w_shape: tuple[int, ...], stride: Pair, padding: Pair) -> bool:
    """Whether a kernel is 3 x 3 with stride 1 and padding 1, which keeps the image's size: faster ways know
    this case."""
    return w_shape[:2] == (3, 3) and stride == (1, 1) and padding == (1, 1)


def forward(x: Array, w: Array, stride: Pair, padding: Pair) -> Array:
    """The convolution: x (N, H, W, C), w (KH, KW, C, O) -> (N, OH, OW, O)."""
    xp = xp_of(x)
    OH, OW = output_size(x.shape, w.shape, stride, padding)
    out = xp.empty((len(x), OH, OW, w.shape[3]), x.dtype)
    windows = _windows(_pad(x, padding), w.shape, stride)
    kernel = w.reshape(-1, w.shape[3])
    for part in _slices(windows):
        columns = windows[part].reshape(-1, len(kernel))
        out[part] = (columns @ kernel).reshape(out[part].shape)
    return out


def gradients(g: Array, x: Array, w: Array, stride: Pair, padding: Pair,
              wanted: tuple[bool, bool]) -> tuple[Array | None, Array | None]:
    """The gradients with respect to x and w, from g (N, OH, OW, O); None for one that is not wanted."""
    return (grad_input(g, w, x.shape, stride, padding) if wanted[0] else None,
            grad_kernel(g, x, w.shape, stride, padding) if wanted[1] else None)


def grad_kernel(g: Array, x: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair) -> Array:
    """The gradient with respect to w (KH, KW, C, O), from g (N, OH, OW, O) and the input x (N, H, W, C)."""
    xp = xp_of(x)
    KH, KW, C, O = w_shape  # noqa: E741
    windows = _windows(_pad(x, padding), w_shape, stride)
    total = xp.zeros((KH * KW * C, O), x.dtype)
    for part in _slices(windows):
        columns = windows[part].reshape(-1, KH * KW * C)
        total += columns.T @ g[part].reshape(-1, O)
    return total.reshape(w_shape)


def grad_input(g: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair) -> Array:
    """The gradient with respect to x (N, H, W, C), from g (N, OH, OW, O) and the kernel w (KH, KW, C, O)."""
    xp = xp_of(g)
    N, H, W, C = x_shape
    KH, KW, _, O = w.shape  # noqa: E741
    padded = xp.zeros((N, H + 2 * padding[0], W + 2 * padding[1], C), g.dtype)
    windows = _windows(padded, w.shape, stride)
    kernel = w.reshape(-1, O)
    for part in _slices(windows):
        columns = (g[part].reshape(-1, O) @ kernel.T).reshape(windows[part].shape)
        # windows overlap, but at one position (i, j) of the kernel no two of them see the same pixel
        for i in range(KH):
            for j in range(KW):
                windows[part][:, :, :, i, j] += columns[:, :, :, i, j]
    return padded[:, padding[0]:padding[0] + H, padding[1]:padding[1] + W]


def _pad(x: Array, padding: Pair) -> Array:
    if padding == (0, 0):
        return x
    N, H, W, C = x.shape
    padded = xp_of(x).zeros((N, H + 2 * padding[0], W + 2 * padding[1], C), x.dtype)
    padded[:, padding[0]:padding[0] + H, padding[1]:padding[1] + W] = x
    return padded


def _windows(padded: Array, w_shape: tuple[int, ...], stride: Pair) -> Array:
    """A view of every window, (N, OH, OW, KH, KW, C): no copy, the windows share the image's memory."""
    N, H, W, C = padded.shape
    KH, KW = w_shape[:2]
    OH, OW = output_size(padded.shape, w_shape, stride, (0, 0))
    n, h, w, c = padded.strides
    return xp_of(padded).lib.stride_tricks.as_strided(
        padded, (N, OH, OW, KH, KW, C), (n, h * stride[0], w * stride[1], h, w, c))


def _slices(windows: Array) -> Iterator[tuple[slice, slice]]:
    """(images, rows) slices whose columns fit COLUMN_BYTES; several images only where whole images fit."""
    N, OH, OW, KH, KW, C = windows.shape
    row_bytes = OW * KH * KW * C * windows.dtype.itemsize
    images = max(1, COLUMN_BYTES // max(1, OH * row_bytes))
    rows = max(1, min(OH, COLUMN_BYTES // max(1, row_bytes)))
    for n in range(0, N, images):
        for h in range(0, OH, rows):
            yield slice(n, n + images), slice(h, h + rows)
