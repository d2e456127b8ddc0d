"""3 x 3 convolution with stride 1 and padding 1 on NumPy by Winograd's F(4 x 4, 3 x 3), for many channels.

Cut the image into tiles of 4 x 4 output pixels. Each needs a patch d of 6 x 6 input pixels, and with three
small fixed matrices B, G and A (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016,
section 4.3)

    y = A^T [ (G w G^T) * (B^T d B) ] A        "*" entry by entry, for each pair of channels, summed over C.

Read an array of pixels as a vector, and each of the three maps is one matrix: `TO_POINTS` (36 x 36),
`KERNEL_TO_POINTS` (36 x 9), `FROM_POINTS` (16 x 36). So everything here is a matrix product, the gradients
too, with the transposes.

Why it is faster: 36 multiplications for 16 outputs where the definition has 144. The three maps cost the same
however many channels there are on the other side, so it pays from some 50 channels on.
Precision: in float32 its rounding errors are some 10 times those of the definition, since the entries of the
matrices go from 1/24 to 8.
"""
from __future__ import annotations

from collections.abc import Iterator

import numpy

from .. import cpu
from ..backend import Array

Pair = tuple[int, int]

LEAST_CHANNELS = 48  # in and out; with fewer, neighbours.py is faster
SLICE_BYTES = 2**21  # of patches made at a time

B = numpy.array([[4, 0, 0, 0, 0, 0],
                 [0, -4, 4, -2, 2, 4],
                 [-5, -4, -4, -1, -1, 0],
                 [0, 1, -1, 2, -2, -5],
                 [1, 1, 1, 1, 1, 0],
                 [0, 0, 0, 0, 0, 1]])
G = numpy.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
A = numpy.array([[1, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [1, 2, 4, 8], [1, -2, 4, -8], [0, 0, 0, 1]])
TO_POINTS = numpy.kron(B, B).T
KERNEL_TO_POINTS = numpy.kron(G, G)
FROM_POINTS = numpy.kron(A, A).T


def applies(x: Array, w: Array, stride: Pair, padding: Pair) -> bool:
    """Whether this file should compute a convolution: also needs whole tiles and many channels."""
    return (isinstance(x, numpy.ndarray) and w.shape[:2] == (3, 3) and stride == (1, 1) and padding == (1, 1)
            and x.shape[1] % 4 == x.shape[2] % 4 == 0 and min(w.shape[2:]) >= LEAST_CHANNELS)


def forward(x: numpy.ndarray, w: numpy.ndarray, stride: Pair = (1, 1),
            padding: Pair = (1, 1)) -> numpy.ndarray:
    """x (N, H, W, C), w (3, 3, C, O) -> (N, H, W, O)."""
    kernel = _kernel_points(w)
    out = numpy.empty((*x.shape[:3], w.shape[3]), x.dtype)

    def convolve(images: slice) -> None:
        _tiles(out[images])[...] = _apply(FROM_POINTS, _points(x[images]) @ kernel, (4, 4), out[images])

    cpu.over(_slices(x, kernel), convolve)
    return out


def gradients(g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
              wanted: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """The gradients with respect to x and w, from g (N, H, W, O); None for one that is not wanted."""
    N, H, W, C = x.shape
    O = w.shape[3]  # noqa: E741
    kernel = _kernel_points(w).swapaxes(1, 2)
    padded = numpy.zeros((N, H + 2, W + 2, C), x.dtype) if wanted[0] else None

    def differentiate(images: slice) -> numpy.ndarray | None:
        g_points = (FROM_POINTS.T.astype(g.dtype) @ _tiles(g[images]).reshape(16, -1)).reshape(36, -1, O)
        if wanted[0]:
            patches = _apply(TO_POINTS.T, g_points @ kernel, (6, 6), x[images])
            for i in range(6):
                for j in range(6):
                    _patch_pixels(padded[images], i, j)[...] += patches[i, j]
        return _points(x[images]).swapaxes(1, 2) @ g_points if wanted[1] else None

    parts = cpu.over(_slices(x, kernel), differentiate)
    grad_w = None
    if wanted[1]:
        total = parts[0] if parts else numpy.zeros((36, C, O), x.dtype)
        for part in parts[1:]:  # in order, so that the sum is always the same
            total = cpu.elementwise(numpy.add, total, part)
        grad_w = _side_by_side(KERNEL_TO_POINTS.T, total.reshape(36, -1)).reshape(w.shape)
    return padded[:, 1:-1, 1:-1] if wanted[0] else None, grad_w


def _points(x: numpy.ndarray) -> numpy.ndarray:
    """B^T d B for every patch d: (N, H, W, C) -> (36, tiles, C)."""
    N, H, W, C = x.shape
    padded = numpy.zeros((N, H + 2, W + 2, C), x.dtype)
    padded[:, 1:-1, 1:-1] = x
    patches = numpy.empty((6, 6, N, H // 4, W // 4, C), x.dtype)
    for i in range(6):
        for j in range(6):
            patches[i, j] = _patch_pixels(padded, i, j)
    return (TO_POINTS.astype(x.dtype) @ patches.reshape(36, -1)).reshape(36, -1, C)


def _kernel_points(w: numpy.ndarray) -> numpy.ndarray:
    """G w G^T for every pair of channels: (3, 3, C, O) -> (36, C, O)."""
    return _side_by_side(KERNEL_TO_POINTS, w.reshape(9, -1)).reshape(36, *w.shape[2:])


def _side_by_side(matrix: numpy.ndarray, columns: numpy.ndarray) -> numpy.ndarray:
    """matrix @ columns, with blocks of columns in several threads."""
    out = numpy.empty((len(matrix), columns.shape[1]), columns.dtype)
    matrix = matrix.astype(columns.dtype)
    blocks = (slice(i, i + 2**13) for i in range(0, columns.shape[1], 2**13))
    cpu.over(blocks, lambda block: numpy.matmul(matrix, columns[:, block], out=out[:, block]))
    return out


def _apply(matrix: numpy.ndarray, points: numpy.ndarray, side: Pair,
           like: numpy.ndarray) -> numpy.ndarray:
    """One map from points (36, tiles, C) to tiles of pixels (side, side, N, H / 4, W / 4, C)."""
    N, H, W, _ = like.shape
    return (matrix.astype(points.dtype) @ points.reshape(36, -1)).reshape(*side, N, H // 4, W // 4, -1)


def _patch_pixels(padded: numpy.ndarray, i: int, j: int) -> numpy.ndarray:
    """Pixel (i, j) of every 6 x 6 patch: a view (N, H / 4, W / 4, C) of the image padded by one."""
    return padded[:, i:padded.shape[1] - 5 + i:4, j:padded.shape[2] - 5 + j:4]


def _tiles(image: numpy.ndarray) -> numpy.ndarray:
    """A view (4, 4, N, H / 4, W / 4, C) of (N, H, W, C): [i, j] is pixel (i, j) of every tile."""
    N, H, W, C = image.shape
    return image.reshape(N, H // 4, 4, W // 4, 4, C).transpose(2, 4, 0, 1, 3, 5)


def _slices(x: numpy.ndarray, kernel: numpy.ndarray) -> Iterator[slice]:
    """As many images as have patches of SLICE_BYTES, or the kernel's size if larger; two slices or more."""
    N, H, W, C = x.shape
    most = max(SLICE_BYTES, kernel.nbytes) // max(1, 36 * (H // 4) * (W // 4) * C * x.itemsize)
    images = max(1, min(most, -(-N // 2)))
    return (slice(n, min(n + images, N)) for n in range(0, N, images))
