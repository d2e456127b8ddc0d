"""3 x 3 convolution with stride 1 and padding 1 on NumPy by Winograd's F(4 x 4, 3 x 3), for many channels.

winograd_transforms.py has the three fixed matrices. With them, for each pair of channels, summed over C,

    y = A^T [ (G w G^T) * (B^T d B) ] A        "*" entry by entry

from the 3 x 3 kernel w and every patch d of 6 x 6 pixels of the image to a tile y of 4 x 4 pixels of the
result. So the channels meet only in one matrix product for each of the 36 points, and the gradients take the
transposes.

Why it is faster: 36 multiplications for 16 outputs where the definition has 144. The three maps cost the same
however many channels there are on the other side, so it pays from some 1024 pairs of channels on, as 32 to
32. A slice of images is worked on from patch to output while it is in the cache. A large kernel would be read
again for each slice: there all images are taken to the points, multiplied point by point, and taken back.
Precision: in float32 its rounding errors are 3 to 11 times those of the definition (root mean square), since
the entries of the matrices go from 1/24 to 8.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy

from ...backend import Array
from ...conv import Pair, convolution_gradients, convolve
from ..geometry import of_gradients
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

MIN_CHANNELS, MIN_PAIRS = 16, 1024  # pairs: of one in and one out; with fewer winograd_rows.py is faster
GROUPS = 16  # of images, each with its own sum of the kernel's gradient
MAX_SUMMED_KERNEL = 2**20  # bytes of the kernel at all points; a larger gradient is not added up in a cache
MAX_SLICED_KERNEL = 2**22  # bytes; a larger one, read again for every slice of images, waits for memory
TILES = 8  # multiplied at a time where a product is one point's
MAX_PRODUCT = 2**19  # multiplications; OpenBLAS copies the operands of more than about twice as many
MAX_POINTS = 2**13  # channels of all tiles of a slice; more do not stay in a cache at 36 points
MIN_TILES = 16  # of a slice, whatever the two above say: with fewer, threads wait for Python's lock
MIN_SLICES = 8  # enough for a few cores; slices of one image would suit more, and cost two a tenth


def many_channels(x: object, w: Array, stride: Pair, padding: Pair) -> bool:
    """NumPy arrays, 3 x 3 kernel, stride 1, padding 1, 16 or more channels in and out and 1024 or more pairs
    of them, sides that are multiples of 4, float32 or float64"""
    return (numpy_3x3_same(x, w, stride, padding) and x.shape[1] % 4 == x.shape[2] % 4 == 0
            and min(w.shape[2:]) >= MIN_CHANNELS and w.shape[2] * w.shape[3] >= MIN_PAIRS)


@convolve.variant(many_channels)
def convolve_winograd(x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair) -> numpy.ndarray:
    """a quarter of the multiplications"""
    kernel = kernel_to_points(w)
    out = numpy.empty((*x.shape[:3], w.shape[3]), x.dtype)
    slices = _slices(x, w)
    if kernel.nbytes > MAX_SLICED_KERNEL:
        points, products = empty_points(x), empty_points(out)
        parallel_map(lambda images: image_to_points(x[images], points[_tiles_of(images, x)]), slices)
        parallel_map(lambda i: _multiply_point(points, kernel, products, i), range(36))
        parallel_map(lambda images: points_to_image(products[_tiles_of(images, x)], out[images]), slices)
        return out

    def work(images: slice) -> None:
        points = empty_points(x[images])
        image_to_points(x[images], points)
        points_to_image(_multiply(points, kernel), out[images])

    parallel_map(work, slices)
    return out


@convolution_gradients.variant(of_gradients(many_channels))
def gradients_winograd(g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
                       needs_grad: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """a quarter of the multiplications, for both gradients"""
    kernel = kernel_to_points(w.swapaxes(2, 3)) if needs_grad[0] else None
    grad_x = numpy.empty(x.shape, x.dtype) if needs_grad[0] else None
    slices, bytes_of_kernel = _slices(x, w), 36 * w[0, 0].nbytes
    product_by_point = needs_grad[0] and bytes_of_kernel > MAX_SLICED_KERNEL

    def of_g(images: slice, points: numpy.ndarray) -> None:
        """The points of g, and the gradient of x on the way unless that is done point by point."""
        image_gradient_to_points(g[images], points)
        if needs_grad[0] and not product_by_point:
            points_to_image_gradient(_multiply(points, kernel), grad_x[images])

    if not needs_grad[1] and not product_by_point:
        parallel_map(lambda images: of_g(images, empty_points(g[images])), slices)
        return grad_x, None
    if bytes_of_kernel <= MAX_SUMMED_KERNEL:
        return grad_x, points_to_kernel_gradient(_sum_over_images(of_g, slices, x, g))
    # one product for each point, so that nothing is added up afterwards
    x_points, g_points = empty_points(x) if needs_grad[1] else None, empty_points(g)
    products = empty_points(x) if product_by_point else None
    total = numpy.empty((36, *w.shape[2:]), x.dtype) if needs_grad[1] else None

    def to_points(images: slice) -> None:
        tiles = _tiles_of(images, x)
        of_g(images, g_points[tiles])
        if needs_grad[1]:
            image_to_points(x[images], x_points[tiles])

    def at_point(i: int) -> None:
        if needs_grad[1]:
            numpy.matmul(x_points[:, i].T, g_points[:, i], out=total[i])
        if product_by_point:
            _multiply_point(g_points, kernel, products, i)

    parallel_map(to_points, slices)
    parallel_map(at_point, range(36))
    if product_by_point:
        parallel_map(lambda images: points_to_image_gradient(products[_tiles_of(images, x)],
                                                              grad_x[images]), slices)
    return grad_x, points_to_kernel_gradient(total) if needs_grad[1] else None


def _sum_over_images(of_g: Callable[[slice, numpy.ndarray], None], slices: list[slice], x: numpy.ndarray,
                     g: numpy.ndarray) -> numpy.ndarray:
    """The kernel's gradient at each point, (36, C, O), where it is small: a sum for each group of slices."""
    def of_slice(images: slice) -> numpy.ndarray:
        x_points, g_points = empty_points(x[images]), empty_points(g[images])
        image_to_points(x[images], x_points)
        of_g(images, g_points)
        return x_points.transpose(1, 2, 0) @ g_points.swapaxes(0, 1)

    size = max(1, -(-len(slices) // GROUPS))
    totals = parallel_map(lambda group: sum(map(of_slice, group)),
                          [slices[i:i + size] for i in range(0, len(slices), size)])
    # in order, so that the sum is always the same
    return sum(totals[1:], totals[0]) if totals else numpy.zeros((36, x.shape[3], g.shape[3]), x.dtype)


def _tiles_of(images: slice, x: numpy.ndarray) -> slice:
    """The tiles of a slice of images."""
    tiles = x.shape[1] // 4 * (x.shape[2] // 4)
    return slice(images.start * tiles, images.stop * tiles)


def _multiply(points: numpy.ndarray, kernel: numpy.ndarray) -> numpy.ndarray:
    """One matrix product for each point: (tiles, 36, C), (36, C, O) -> (tiles, 36, O)."""
    out = numpy.empty((len(points), 36, kernel.shape[2]), points.dtype)
    numpy.matmul(points.swapaxes(0, 1), kernel, out=out.swapaxes(0, 1))
    return out


def _multiply_point(points: numpy.ndarray, kernel: numpy.ndarray, out: numpy.ndarray, i: int) -> None:
    """The product at point i alone: 8 tiles at a time, which OpenBLAS takes without a copy, or all of them if
    they are no multiple of 8."""
    tiles = TILES if len(points) % TILES == 0 else max(1, len(points))
    a, b = (array[:, i].reshape(-1, tiles, array.shape[2]) for array in (points, out))
    numpy.matmul(a, kernel[i], out=b)


def _slices(x: numpy.ndarray, w: numpy.ndarray) -> list[slice]:
    """Slices of one image at least, and otherwise with few enough tiles for OpenBLAS to multiply them as they
    lie and for a cache; 8 slices or more where N allows it."""
    N, H, W, _ = x.shape
    tiles = max(MIN_TILES, min(MAX_PRODUCT // (w.shape[2] * w.shape[3]), MAX_POINTS // max(w.shape[2:])))
    images = max(1, min(tiles // (H // 4 * (W // 4)), N // MIN_SLICES))
    return [slice(n, min(n + images, N)) for n in range(0, N, images)]
