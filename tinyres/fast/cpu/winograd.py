"""3 x 3 convolution with stride 1 and padding 1 on NumPy by Winograd's F(4 x 4, 3 x 3), for many channels.

With the three fixed matrices of winograd_transforms.py, for each pair of channels and summed over C,

    y = A^T [ (G w G^T) * (B^T d B) ] A        "*" entry by entry

leads from the 3 x 3 kernel w and a patch d of 6 x 6 pixels of the image to a tile y of 4 x 4 pixels of the
result. So the channels meet only in one matrix product for each of the 36 points, and the gradients take the
transposes.

Why it is faster: 36 multiplications for 16 outputs where the definition has 144. The cost of mapping an image
does not depend on the number of channels on the other side, so this pays from about 1024 pairs of channels
on, 32 in and 32 out. A slice of images is worked on from patch to output while it is in the cache. A large
kernel would be read again for each slice, so with one of those all images are taken to the points, multiplied
point by point, and taken back.

Precision: in float32 the rounding errors are 3 to 11 times those of the definition (root mean square), since
the entries of the matrices range from 1/24 to 8.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy

from ...backend import Array
from ...conv import Pair, convolution_gradients, convolve
from ..geometry import of_gradients, slices
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

MIN_CHANNELS, MIN_PAIRS = 16, 1024  # a pair: one in, one out; with fewer, winograd_rows.py is faster
GROUPS = 16  # of images, each with its own sum of the kernel's gradient
MAX_SUMMED_KERNEL = 2**20  # bytes of the kernel at all points; a larger gradient does not stay in a cache
MAX_SLICED_KERNEL = 2**22  # bytes; to read a larger one again for every slice would be to wait for memory
TILES = 8  # multiplied at a time where a product is that of one point
MAX_PRODUCT = 2**19  # multiplications; OpenBLAS copies the operands of more than about twice as many
MAX_POINTS = 2**13  # tiles of a slice times channels; more do not stay in a cache, at 36 points each
MIN_TILES = 16  # of a slice, even if the two above say less: with fewer, threads wait for Python's lock
MIN_SLICES = 8  # enough for a few cores; slices of one image would suit more cores, but slow two by a tenth


def many_channels(x: object, w: Array, stride: Pair, padding: Pair) -> bool:
    """NumPy arrays: 3 x 3 kernel, stride 1, padding 1, at least 16 channels in and out and 1024 pairs of
    them, sides that are multiples of 4, float32 or float64"""
    return (numpy_3x3_same(x, w, stride, padding) and x.shape[1] % 4 == x.shape[2] % 4 == 0
            and min(w.shape[2:]) >= MIN_CHANNELS and w.shape[2] * w.shape[3] >= MIN_PAIRS)


@convolve.variant(many_channels)
def convolve_winograd(x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair) -> numpy.ndarray:
    """a quarter of the multiplications"""
    kernel = kernel_to_points(w)
    out = numpy.empty((*x.shape[:3], w.shape[3]), x.dtype)
    parts = _slices(x, w)
    if kernel.nbytes > MAX_SLICED_KERNEL:
        points, products = empty_points(x), empty_points(out)
        parallel_map(lambda images: image_to_points(x[images], points[_tiles_of(images, x)]), parts)
        parallel_map(lambda i: _multiply_point(points, kernel, products, i), range(36))
        parallel_map(lambda images: points_to_image(products[_tiles_of(images, x)], out[images]), parts)
        return out

    def work(images: slice) -> None:
        points = empty_points(x[images])
        image_to_points(x[images], points)
        points_to_image(_multiply(points, kernel), out[images])

    parallel_map(work, parts)
    return out


@convolution_gradients.variant(of_gradients(many_channels))
def gradients_winograd(g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
                       needs_grad: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """a quarter of the multiplications, for both gradients"""
    kernel = kernel_to_points(w.swapaxes(2, 3)) if needs_grad[0] else None
    grad_x = numpy.empty(x.shape, x.dtype) if needs_grad[0] else None
    parts, bytes_of_kernel = _slices(x, w), 36 * w[0, 0].nbytes
    product_by_point = needs_grad[0] and bytes_of_kernel > MAX_SLICED_KERNEL

    def g_to_points(images: slice, points: numpy.ndarray) -> None:
        """The points of g and, unless that is done point by point, the gradient of x."""
        image_gradient_to_points(g[images], points)
        if needs_grad[0] and not product_by_point:
            points_to_image_gradient(_multiply(points, kernel), grad_x[images])

    if not needs_grad[1] and not product_by_point:
        parallel_map(lambda images: g_to_points(images, empty_points(g[images])), parts)
        return grad_x, None
    if bytes_of_kernel <= MAX_SUMMED_KERNEL:
        return grad_x, points_to_kernel_gradient(_sum_over_images(g_to_points, parts, x, g))
    # one product for each point, so that nothing is added up afterwards
    x_points, g_points = empty_points(x) if needs_grad[1] else None, empty_points(g)
    products = empty_points(x) if product_by_point else None
    total = numpy.empty((36, *w.shape[2:]), x.dtype) if needs_grad[1] else None

    def to_points(images: slice) -> None:
        tiles = _tiles_of(images, x)
        g_to_points(images, g_points[tiles])
        if needs_grad[1]:
            image_to_points(x[images], x_points[tiles])

    def at_point(i: int) -> None:
        if needs_grad[1]:
            numpy.matmul(x_points[:, i].T, g_points[:, i], out=total[i])
        if product_by_point:
            _multiply_point(g_points, kernel, products, i)

    parallel_map(to_points, parts)
    parallel_map(at_point, range(36))
    if product_by_point:
        parallel_map(lambda images: points_to_image_gradient(products[_tiles_of(images, x)],
                                                              grad_x[images]), parts)
    return grad_x, points_to_kernel_gradient(total) if needs_grad[1] else None


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


def _multiply_point(points: numpy.ndarray, kernel: numpy.ndarray, out: numpy.ndarray, i: int) -> None:
    """The product at point i alone: 8 tiles at a time where they are a multiple of 8, which OpenBLAS takes
    without a copy, else all of them."""
    tiles = TILES if len(points) % TILES == 0 else max(1, len(points))
    a, b = (array[:, i].reshape(-1, tiles, array.shape[2]) for array in (points, out))
    numpy.matmul(a, kernel[i], out=b)


def _slices(x: numpy.ndarray, w: numpy.ndarray) -> list[slice]:
    """Slices of images, with few enough tiles for a cache and for OpenBLAS to multiply them uncopied, but of
    one image at least; 8 slices or more where N allows it."""
    N, H, W, _ = x.shape
    tiles = max(MIN_TILES, min(MAX_PRODUCT // (w.shape[2] * w.shape[3]), MAX_POINTS // max(w.shape[2:])))
    return slices(N, max(1, min(tiles // (H // 4 * (W // 4)), N // MIN_SLICES)))
