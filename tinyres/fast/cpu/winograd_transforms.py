"""The three maps of Winograd's F(4 x 4, 3 x 3): image to points, kernel to points, points to image.

Cut the image into tiles of 4 x 4 output pixels. Each needs a patch d of 6 x 6 input pixels. With three small
fixed matrices B, G and A (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016, section
4.3), B^T d B and G w G^T are the patch and the kernel at 36 points, and A^T p A turns their products p at the
points into the tile. The matrices are those of the article, but for B's first column, divided by 4, and G's
first row, multiplied by 4.

Each map has two stages, one along the columns of an image and one along its rows. The 36 points of a patch
take 240 multiplications that way; the 36 x 36 matrix of both stages in one would take 1296. A stage
multiplies a small matrix by 3 to 6 rows of channels where they lie in the image, which BLAS takes without a
copy, and writes its result to the place where the next stage or the image needs it: nothing is cut out or
padded. The transposes of the maps, for the gradients, are the transposed stages in the opposite order.
"""
from __future__ import annotations

import numpy

from ..geometry import slices
from .threads import parallel_map

BLOCK = 4096  # pairs of channels whose kernels are transformed while they are in the cache

B = numpy.array([[1, 0, 0, 0, 0, 0],
                 [0, -4, 4, -2, 2, 4],
                 [-5 / 4, -4, -4, -1, -1, 0],
                 [0, 1, -1, 2, -2, -5],
                 [1 / 4, 1, 1, 1, 1, 0],
                 [0, 0, 0, 0, 0, 1]])
G = numpy.array([[24, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
A = numpy.array([[1, 0, 0, 0], [1, 1, 1, 1], [1, -1, 1, -1], [1, 2, 4, 8], [1, -2, 4, -8], [0, 0, 0, 1]])


def empty_points(x: numpy.ndarray) -> numpy.ndarray:
    """Room for the points of an image (N, H, W, C): (tiles, 36, C)."""
    N, H, W, C = x.shape
    return numpy.empty((N * (H // 4) * (W // 4), 36, C), x.dtype)


def image_to_points(x: numpy.ndarray, points: numpy.ndarray) -> None:
    """B^T d B for every patch d: (N, H, W, C), written to (tiles, 36, C)."""
    N, H, W, C = x.shape
    columns = numpy.empty((N, H, W // 4, 6, C), x.dtype)
    patches_to_points(x, columns)
    patches_to_points(columns.reshape(N, H, W // 4, 6 * C).swapaxes(1, 2),
                      points.reshape(N, H // 4, W // 4, 6, 6 * C).swapaxes(1, 2))


def points_to_image_gradient(points: numpy.ndarray, image: numpy.ndarray) -> None:
    """The transpose of image_to_points, B p B^T for every patch, added up where patches overlap: (tiles, 36,
    C), written to (N, H, W, C)."""
    N, H, W, C = image.shape
    rows = numpy.empty((N, H // 4, 4, W // 4, 6 * C), image.dtype)
    _points_to_patches(points.reshape(N, H // 4, W // 4, 6, 6 * C).swapaxes(1, 2),
                       rows.transpose(0, 3, 1, 2, 4))
    _points_to_patches(rows.reshape(N, H, W // 4, 6, C), image.reshape(N, H, W // 4, 4, C))


def patches_to_points(x: numpy.ndarray, out: numpy.ndarray) -> None:
    """B^T times places 4k - 1 to 4k + 4 of the next-to-last axis of x, zero beyond its ends: (..., 4K, M),
    written to (..., K, 6, M)."""
    K = out.shape[-3]
    tiles = x.reshape(*x.shape[:-2], K, 4, x.shape[-1])
    numpy.matmul(B[1:5].T.astype(x.dtype), tiles, out=out)
    # the outer two of six places belong to other tiles; the first and last row of B have a single entry, 1
    out[..., 1:, 0, :] += tiles[..., :-1, 3, :]
    out[..., :-1, 5, :] += tiles[..., 1:, 0, :]


def _points_to_patches(points: numpy.ndarray, out: numpy.ndarray) -> None:
    """The transpose: (..., K, 6, M), added up where neighbors overlap, written to (..., K, 4, M)."""
    numpy.matmul(B[1:5].astype(points.dtype), points, out=out)
    # the first and the last row of B have a single entry, 1
    out[..., 1:, 0, :] += points[..., :-1, 5, :]
    out[..., :-1, 3, :] += points[..., 1:, 0, :]


def points_to_image(points: numpy.ndarray, image: numpy.ndarray) -> None:
    """A^T p A, a tile of pixels, for every tile of points: (tiles, 36, C), written to (N, H, W, C)."""
    N, H, W, C = image.shape
    transform = A.T.astype(points.dtype)
    rows = numpy.empty((N, H // 4, 4, W // 4, 6 * C), points.dtype)
    numpy.matmul(transform, points.reshape(N, H // 4, W // 4, 6, 6 * C), out=rows.swapaxes(2, 3))
    numpy.matmul(transform, rows.reshape(N, H, W // 4, 6, C), out=image.reshape(N, H, W // 4, 4, C))


def image_gradient_to_points(g: numpy.ndarray, points: numpy.ndarray) -> None:
    """The transpose of points_to_image, A g A^T: (N, H, W, C), written to (tiles, 36, C)."""
    N, H, W, C = g.shape
    transform = A.astype(g.dtype)
    columns = (transform @ g.reshape(N, H, W // 4, 4, C)).reshape(N, H // 4, 4, W // 4, 6 * C)
    numpy.matmul(transform, columns.swapaxes(2, 3), out=points.reshape(N, H // 4, W // 4, 6, 6 * C))


def kernel_to_points(w: numpy.ndarray) -> numpy.ndarray:
    """G w G^T for every pair of channels: (3, 3, C, O) -> (36, C, O)."""
    kernel, points = w.reshape(3, 3, -1), numpy.empty((6, 6, w[0, 0].size), w.dtype)
    _in_blocks(G.astype(w.dtype), kernel, points)
    return points.reshape(36, *w.shape[2:])


def points_to_kernel_gradient(points: numpy.ndarray) -> numpy.ndarray:
    """The transpose of kernel_to_points, G^T p G: (36, C, O) -> (3, 3, C, O)."""
    out = numpy.empty((3, 3, *points.shape[1:]), points.dtype)
    _in_blocks(G.T.astype(points.dtype), points.reshape(6, 6, -1), out.reshape(3, 3, -1))
    return out


def _in_blocks(matrix: numpy.ndarray, a: numpy.ndarray, out: numpy.ndarray) -> None:
    """matrix a matrix^T for every pair of channels: (n, n, pairs), written to (m, m, pairs)."""
    def work(block: slice) -> None:
        columns = matrix @ a[:, :, block]
        numpy.matmul(matrix, columns.swapaxes(0, 1), out=out[:, :, block].swapaxes(0, 1))

    parallel_map(work, slices(a.shape[2], BLOCK))
