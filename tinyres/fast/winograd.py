"""3 x 3 convolution with stride 1 and padding 1 on NumPy by Winograd's F(4 x 4, 3 x 3), for many channels.

winograd_transforms.py has the three fixed matrices. With them, for each pair of channels, summed over C,

    y = A^T [ (G w G^T) * (B^T d B) ] A        "*" entry by entry

from the 3 x 3 kernel w and every patch d of 6 x 6 pixels of the image to a tile y of 4 x 4 pixels of the
result. So one matrix product over the channels for each of the 36 points is all there is to multiply, and the
gradients take the transposes.

Why it is faster: 36 multiplications for 16 outputs where the definition has 144. The three maps cost the same
however many channels there are on the other side, so it pays from some 50 channels on. A slice of images is
worked on from patch to output while it is in the cache.
Precision: in float32 its rounding errors are some 10 times those of the definition, since the entries of the
matrices go from 1/24 to 8.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy

from ..backend import Array
from ..conv import Pair, convolution_gradients, convolve
from .neighbours import is_3x3_same
from .sliced import of_gradients
from .threads import parallel_map
from .winograd_transforms import (
    INPUT_TRANSFORM,
    KERNEL_TRANSFORM,
    OUTPUT_TRANSFORM,
    add_patches,
    as_tiles,
    in_blocks,
    kernel_points,
    to_points,
)

MIN_CHANNELS = 48  # in and out; with fewer, neighbours.py is faster
GROUPS = 16  # of images, each with its own sum of the kernel's gradient
MAX_SUMMED_KERNEL = 2**20  # bytes of the kernel at all points; a larger gradient is not added up in a cache
MAX_SLICED_KERNEL = 2**22  # bytes; a larger one, read again for every slice of images, waits for memory
TILES = 8  # multiplied at a time where a product is one point's
MAX_PRODUCT = 2**19  # multiplications; OpenBLAS copies the operands of more than about twice as many
# where MAX_PRODUCT makes fewer. One image each would do for more threads, and cost two a tenth
MIN_SLICES = 8


def many_channels(x: object, w: Array, stride: Pair, padding: Pair) -> bool:
    """NumPy arrays, 3 x 3 kernel, stride 1, padding 1, 48 or more channels in and out, sides that are
    multiples of 4, float32 or float64"""
    # float16 has too few bits for the matrices' entries
    return (isinstance(x, numpy.ndarray) and x.itemsize >= 4
            and is_3x3_same(w, stride, padding)
            and x.shape[1] % 4 == x.shape[2] % 4 == 0 and min(w.shape[2:]) >= MIN_CHANNELS)


@convolve.variant(many_channels)
def convolve_winograd(x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair) -> numpy.ndarray:
    """a quarter of the multiplications"""
    kernel = kernel_points(w)
    output_transform = OUTPUT_TRANSFORM.astype(x.dtype)
    out = numpy.empty((*x.shape[:3], w.shape[3]), x.dtype)
    slices = _slices(x, w)
    if kernel.nbytes > MAX_SLICED_KERNEL:
        points = _of_all_images(lambda images: to_points(x[images]), slices, x, w.shape[2])
        products = numpy.empty((len(points), 36, w.shape[3]), x.dtype)
        parallel_map(lambda i: _multiply_point(points, kernel, products, i), range(36))

        def product(images: slice) -> numpy.ndarray:
            return products[_tiles_of(images, x)]
    else:
        def product(images: slice) -> numpy.ndarray:
            return _multiply(to_points(x[images]), kernel)

    def work(images: slice) -> None:
        tiles = as_tiles(out[images])
        tiles[...] = (output_transform @ product(images)).reshape(tiles.shape)

    parallel_map(work, slices)
    return out


@convolution_gradients.variant(of_gradients(many_channels))
def gradients_winograd(g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
                       needs_grad: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """a quarter of the multiplications, for both gradients"""
    kernel = kernel_points(w.swapaxes(2, 3)) if needs_grad[0] else None
    output_transform, input_transform = OUTPUT_TRANSFORM.astype(x.dtype), INPUT_TRANSFORM.astype(x.dtype)
    grad_x = numpy.empty(x.shape, x.dtype) if needs_grad[0] else None
    C, O = w.shape[2:]  # noqa: E741
    slices, bytes_of_kernel = _slices(x, w), 36 * C * O * x.itemsize
    product_by_point = needs_grad[0] and bytes_of_kernel > MAX_SLICED_KERNEL

    def points_of_g(images: slice) -> numpy.ndarray:
        """The points of g, and the gradient of x on the way unless that is done point by point."""
        points = output_transform.T @ as_tiles(g[images]).reshape(-1, 16, O)
        if needs_grad[0] and not product_by_point:
            add_patches(input_transform.T @ _multiply(points, kernel), grad_x[images])
        return points

    if bytes_of_kernel <= MAX_SUMMED_KERNEL:
        if not needs_grad[1]:
            parallel_map(points_of_g, slices)
            return grad_x, None
        total = _sum_over_images(points_of_g, slices, x, w)
    else:  # one product for each point, so that nothing is added up afterwards
        g_points = _of_all_images(points_of_g, slices, x, O)
        if needs_grad[1]:
            x_points = _of_all_images(lambda images: to_points(x[images]), slices, x, C)
            total = numpy.empty((36, C, O), x.dtype)
        if product_by_point:
            products = numpy.empty((len(g_points), 36, C), x.dtype)

        def at_point(i: int) -> None:
            if needs_grad[1]:
                numpy.matmul(x_points[:, i].T, g_points[:, i], out=total[i])
            if product_by_point:
                _multiply_point(g_points, kernel, products, i)

        parallel_map(at_point, range(36))
        if product_by_point:
            parallel_map(lambda images: add_patches(input_transform.T @ products[_tiles_of(images, x)],
                                                     grad_x[images]), slices)
    if not needs_grad[1]:
        return grad_x, None
    return grad_x, in_blocks(KERNEL_TRANSFORM.T, total.reshape(36, -1)).reshape(w.shape)


def _sum_over_images(points_of_g: Callable[[slice], numpy.ndarray], slices: list[slice], x: numpy.ndarray,
                     w: numpy.ndarray) -> numpy.ndarray:
    """The kernel's gradient at each point, (36, C, O), where it is small: a sum for each group of slices."""
    def sum_of_group(group: list[slice]) -> numpy.ndarray:
        return sum(to_points(x[images]).transpose(1, 2, 0) @ points_of_g(images).swapaxes(0, 1)
                   for images in group)

    size = max(1, -(-len(slices) // GROUPS))
    totals = parallel_map(sum_of_group, [slices[i:i + size] for i in range(0, len(slices), size)])
    # in order, so that the sum is always the same
    return sum(totals[1:], totals[0]) if totals else numpy.zeros((36, *w.shape[2:]), x.dtype)


def _of_all_images(points_of: Callable[[slice], numpy.ndarray], slices: list[slice], x: numpy.ndarray,
                   channels: int) -> numpy.ndarray:
    """points_of(images) for all slices of images: (tiles, 36, channels)."""
    N, H, W, _ = x.shape
    points = numpy.empty((N * (H // 4) * (W // 4), 36, channels), x.dtype)

    def fill(images: slice) -> None:
        points[_tiles_of(images, x)] = points_of(images)

    parallel_map(fill, slices)
    return points


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
    """The product at point i alone, for all tiles, as many at a time as OpenBLAS takes without a copy."""
    tiles = TILES if len(points) % TILES == 0 else max(1, len(points))
    a, b = (array[:, i].reshape(-1, tiles, array.shape[2]) for array in (points, out))
    numpy.matmul(a, kernel[i], out=b)


def _slices(x: numpy.ndarray, w: numpy.ndarray) -> list[slice]:
    """Images with few enough tiles for OpenBLAS to multiply them as they lie, and 8 slices where N
    allows it."""
    N, H, W, _ = x.shape
    tiles = MAX_PRODUCT // (w.shape[2] * w.shape[3])
    images = max(1, min(tiles // (H // 4 * (W // 4)), N // MIN_SLICES))
    return [slice(n, min(n + images, N)) for n in range(0, N, images)]
