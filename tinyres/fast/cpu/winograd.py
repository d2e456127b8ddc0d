"""3 x 3 convolution with stride 1 and padding 1 on NumPy by Winograd's F(4 x 4, 3 x 3), for many channels.

With the three fixed matrices of winograd_transforms.py, for each pair of channels and summed over C,

    y = A^T [ (G w G^T) * (B^T d B) ] A        "*" entry by entry

leads from the 3 x 3 kernel w and a patch d of 6 x 6 pixels of the image to a tile y of 4 x 4 pixels of the
result. So the channels meet only in one matrix product for each of the 36 points, and the gradients take the
transposes.

Why it is faster: 36 multiplications for 16 outputs where the definition has 144. The cost of mapping an image
does not depend on the number of channels on the other side, so this pays from about 2048 pairs of channels
on, 32 in and 64 out. A slice of images is worked on from patch to output before the next one is begun, and is
large enough for products in which it hardly counts that BLAS first copies their factors.

Precision: in float32 the rounding errors are 3 to 11 times those of the definition (root mean square), since
the entries of the matrices range from 1/24 to 8.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy

from ...backend import Array
from ...conv import Pair, convolution_gradients, convolve
from ..geometry import of_gradients, slices
from .machine import MAX_SUMMED_KERNEL, MIN_SLICES
from .threads import parallel_map
from .winograd_rows import numpy_3x3_same
from .winograd_transforms import (
    empty_points,
    image_gradient_to_points,
    image_to_points,
    kernel_to_points,
    points_to_image,
    points_to_image_gradient,
    points_to_kernel_gradient,
)

MIN_CHANNELS, MIN_PAIRS = 16, 2048  # a pair: one in, one out; with fewer, winograd_rows.py is faster
TILES = 128  # of a slice; with more rows a product is hardly faster, and the points leave the caches
MIN_TILES, MIN_WORK = 32, 2**19  # of all images; tiles times pairs of channels
PAIRS_OF_A_TILE = 2**13  # of channels; with more for each tile, the kernel's transform does not pay
GROUPS = 16  # of slices, each with its own sum of the kernel's gradient


def many_channels(x: object, w: Array, stride: Pair, padding: Pair) -> bool:
    """NumPy arrays: 3 x 3 kernel, stride 1, padding 1, at least 16 channels in and out and 2048 pairs of
    them, sides that are multiples of 4, float32 or float64, and enough tiles for the kernel's transform to
    pay"""
    pairs = w.shape[2] * w.shape[3]
    return (numpy_3x3_same(x, w, stride, padding) and x.shape[1] % 4 == x.shape[2] % 4 == 0
            and min(w.shape[2:]) >= MIN_CHANNELS and pairs >= MIN_PAIRS
            and x.shape[0] * x.shape[1] * x.shape[2] // 16 >= max(MIN_TILES, MIN_WORK // pairs,
                                                                  pairs // PAIRS_OF_A_TILE))


@convolve.variant(many_channels)
def convolve_winograd(x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair) -> numpy.ndarray:
    """a quarter of the multiplications"""
    kernel = kernel_to_points(w)
    out = numpy.empty((*x.shape[:3], w.shape[3]), x.dtype)

    def work(images: slice) -> None:
        points = empty_points(x[images])
        image_to_points(x[images], points)
        points_to_image(_multiply(points, kernel), out[images])

    parallel_map(work, _slices(x))
    return out


@convolution_gradients.variant(of_gradients(many_channels))
def gradients_winograd(g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
                       needs_grad: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """a quarter of the multiplications, for both gradients"""
    kernel = kernel_to_points(w.swapaxes(2, 3)) if needs_grad[0] else None
    grad_x = numpy.empty(x.shape, x.dtype) if needs_grad[0] else None
    parts = _slices(x)

    def g_to_points(images: slice, points: numpy.ndarray) -> None:
        """The points of g and, from them, the gradient of x."""
        image_gradient_to_points(g[images], points)
        if needs_grad[0]:
            points_to_image_gradient(_multiply(points, kernel), grad_x[images])

    if not needs_grad[1]:
        parallel_map(lambda images: g_to_points(images, empty_points(g[images])), parts)
        return grad_x, None
    if 36 * w[0, 0].nbytes <= MAX_SUMMED_KERNEL:
        return grad_x, points_to_kernel_gradient(_sum_over_images(g_to_points, parts, x, g))
    # one product for each point, so that nothing is added up afterwards
    x_points, g_points = empty_points(x), empty_points(g)
    total = numpy.empty((36, *w.shape[2:]), x.dtype)

    def to_points(images: slice) -> None:
        tiles = _tiles_of(images, x)
        g_to_points(images, g_points[tiles])
        image_to_points(x[images], x_points[tiles])

    parallel_map(to_points, parts)
    parallel_map(lambda i: numpy.matmul(x_points[:, i].T, g_points[:, i], out=total[i]), range(36))
    return grad_x, points_to_kernel_gradient(total)


def _sum_over_images(g_to_points: Callable[[slice, numpy.ndarray], None], parts: list[slice],
                     x: numpy.ndarray, g: numpy.ndarray) -> numpy.ndarray:
    """A small kernel's gradient at each point, (36, C, O): one sum for each group of slices, then theirs."""
    def of_slice(images: slice) -> numpy.ndarray:
        x_points, g_points = empty_points(x[images]), empty_points(g[images])
        image_to_points(x[images], x_points)
        g_to_points(images, g_points)
        return x_points.transpose(1, 2, 0) @ g_points.swapaxes(0, 1)

    groups = slices(len(parts), max(1, -(-len(parts) // GROUPS)))
    totals = parallel_map(lambda group: sum(map(of_slice, parts[group])), groups)
    # in order, so that the sum is always the same
    return sum(totals[1:], totals[0]) if totals else numpy.zeros((36, x.shape[3], g.shape[3]), x.dtype)


def _tiles_of(images: slice, x: numpy.ndarray) -> slice:
    """The tiles of a slice of the images x."""
    tiles = x.shape[1] // 4 * (x.shape[2] // 4)
    return slice(images.start * tiles, images.stop * tiles)


def _multiply(points: numpy.ndarray, kernel: numpy.ndarray) -> numpy.ndarray:
    """One matrix product for each point: (tiles, 36, C), (36, C, O) -> (tiles, 36, O)."""
    out = numpy.empty((len(points), 36, kernel.shape[2]), points.dtype)
    numpy.matmul(points.swapaxes(0, 1), kernel, out=out.swapaxes(0, 1))
    return out


def _slices(x: numpy.ndarray) -> list[slice]:
    """Slices of images with TILES tiles at most, but of one image at least. A single one would leave the
    maps to one core, and BLAS's other threads would spin for a while where later slices need their cores."""
    N, H, W, _ = x.shape
    return slices(N, max(1, min(TILES // (H // 4 * (W // 4)), -(-N // MIN_SLICES))))
