"""The three maps of Winograd's F(4 x 4, 3 x 3): image to points, kernel to points, points to image.

Cut the image into tiles of 4 x 4 output pixels. Each needs a patch d of 6 x 6 input pixels, and with three
small fixed matrices B, G and A (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016,
section 4.3) B^T d B and G w G^T are patch and kernel at 36 points, and A^T p A takes what their products are
there to the tile.

Read an array of pixels as a vector, and each of the three maps is one matrix: `INPUT_TRANSFORM` (36 x 36),
`KERNEL_TRANSFORM` (36 x 9), `OUTPUT_TRANSFORM` (16 x 36). Patches lie tile by tile, so that each map is one
small product a tile, which BLAS takes as it lies.
"""
from __future__ import annotations

import numpy

from .threads import parallel_map

BLOCK = 2048  # columns

B = numpy.array([[4, 0, 0, 0, 0, 0],
                 [0, -4, 4, -2, 2, 4],
                 [-5, -4, -4, -1, -1, 0],
                 [0, 1, -1, 2, -2, -5],
                 [1, 1, 1, 1, 1, 0],
                 [0, 0, 0, 0, 0, 1]])
G = numpy.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
A = numpy.array([[1, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [1, 2, 4, 8], [1, -2, 4, -8], [0, 0, 0, 1]])
INPUT_TRANSFORM = numpy.kron(B, B).T
KERNEL_TRANSFORM = numpy.kron(G, G)
OUTPUT_TRANSFORM = numpy.kron(A, A).T


def to_points(x: numpy.ndarray) -> numpy.ndarray:
    """B^T d B for every patch d: (N, H, W, C) -> (tiles, 36, C)."""
    N, H, W, C = x.shape
    padded = numpy.empty((N, H + 2, W + 2, C), x.dtype)
    padded[:, 0] = padded[:, -1] = padded[:, :, 0] = padded[:, :, -1] = 0
    padded[:, 1:-1, 1:-1] = x
    n, h, w, c = padded.strides
    patches = numpy.lib.stride_tricks.as_strided(padded, (N, H // 4, W // 4, 6, 6, C),
                                                 (n, 4 * h, 4 * w, h, w, c))
    return INPUT_TRANSFORM.astype(x.dtype) @ patches.reshape(-1, 36, C)


def add_patches(patches: numpy.ndarray, image: numpy.ndarray) -> None:
    """The transpose of cutting patches: each of (tiles, 36, C) added up where it was cut, in (N, H, W, C)."""
    N, H, W, C = image.shape
    patches = patches.reshape(N, H // 4, W // 4, 6, 6, C)
    padded = numpy.empty((N, H + 4, W + 4, C), image.dtype)
    tiles = as_tiles(padded)  # a patch covers its own tile and two pixels of the next, to the right and below
    tiles[:, -1] = tiles[:, :, -1] = 0
    tiles[:, :-1, :-1] = patches[:, :, :, :4, :4]
    tiles[:, :-1, 1:, :, :2] += patches[:, :, :, :4, 4:]
    tiles[:, 1:, :-1, :2] += patches[:, :, :, 4:, :4]
    tiles[:, 1:, 1:, :2, :2] += patches[:, :, :, 4:, 4:]
    image[...] = padded[:, 1:-3, 1:-3]


def kernel_points(w: numpy.ndarray) -> numpy.ndarray:
    """G w G^T for every pair of channels: (3, 3, C, O) -> (36, C, O)."""
    return in_blocks(KERNEL_TRANSFORM, w.reshape(9, -1)).reshape(36, *w.shape[2:])


def in_blocks(matrix: numpy.ndarray, columns: numpy.ndarray) -> numpy.ndarray:
    """matrix @ columns for a few very long rows, in blocks of columns that OpenBLAS takes without a copy."""
    out = numpy.empty((len(matrix), columns.shape[1]), columns.dtype)
    matrix = matrix.astype(columns.dtype)
    blocks = (slice(i, i + BLOCK) for i in range(0, columns.shape[1], BLOCK))
    parallel_map(lambda block: numpy.matmul(matrix, columns[:, block], out=out[:, block]), blocks)
    return out


def as_tiles(image: numpy.ndarray) -> numpy.ndarray:
    """A view (N, H / 4, W / 4, 4, 4, C) of (N, H, W, C): the tiles of 4 x 4 pixels."""
    N, H, W, C = image.shape
    return image.reshape(N, H // 4, 4, W // 4, 4, C).swapaxes(2, 3)
