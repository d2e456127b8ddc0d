"""3 x 3 convolution with stride 1 and padding 1 on NumPy by Winograd's F(4, 3), four rows at a time.

Down a column of the image the kernel is three numbers w, and four results y take six pixels d. With the
matrices of winograd_transforms.py

    y = A^T [ (G w) * (B^T d) ]        "*" entry by entry

takes 6 multiplications where the definition takes 12. Here w is three rows of the kernel, d six rows of the
image and y four rows of the result; "*" then is a convolution along a row, with a kernel of three pixels and
the sum over C. It needs no columns of im2col: three pixels side by side are 3C contiguous numbers in memory.
The windows that start at pixels 0, 3, 6, ... are the rows of one matrix; those at 1, 4, 7, ... and at 2, 5,
8, ... are two more. All three are views of the same memory, which BLAS takes as they are.

Why it is faster: half the multiplications, and the image is copied one and a half times instead of nine. The
maps multiply whole rows, so few channels suffice; winograd.py saves as much again where there are more. The
gradient of the input is a convolution again, with the kernel rotated, and the windows made for it serve the
kernel's gradient too.

Precision: in float32 the rounding errors are 2 to 6 times those of the definition (root mean square), in a
kernel's gradient 3 times at most.
"""
from __future__ import annotations

import numpy

from ...backend import Array
from ...conv import Pair, convolution_gradients, convolve
from ..geometry import is_3x3_same, rotate_180
from . import im2col  # noqa: F401, so that what follows is tried first
from .machine import MAX_ROW_POINTS as MAX_BYTES  # of the points of a slice of images and of its results
from .machine import map_images
from .winograd_transforms import A, G, patches_to_points

MIN_PIXELS, MIN_WORK = 2**9, 2**18  # pixels; pixels times channels in times channels out
PAIRS_OF_A_PIXEL = 2**3  # of channels; with more for each of few pixels, the kernel's transform does not pay


def numpy_3x3_same(x: object, w: Array, stride: Pair, padding: Pair) -> bool:
    """NumPy arrays: 3 x 3 kernel, stride 1, padding 1, float32 or float64"""
    # float16 has too few bits for the matrices' entries, and integers have no fractions
    return (isinstance(x, numpy.ndarray) and x.dtype in ("float32", "float64")
            and is_3x3_same(w, stride, padding))


def enough_pixels(x: object, w: Array, stride: Pair, padding: Pair) -> bool:
    """NumPy arrays: 3 x 3 kernel, stride 1, padding 1, float32 or float64, and enough pixels for the calls
    and the kernel's transform to pay"""
    return numpy_3x3_same(x, w, stride, padding) and _pays(x, w, 1)


def enough_pixels_of_gradients(g: object, x: object, w: Array, stride: Pair, padding: Pair,
                               needs_grad: tuple[bool, bool]) -> bool:
    """NumPy arrays: 3 x 3 kernel, stride 1, padding 1, float32 or float64, and enough pixels as for the
    convolution; where both gradients are needed and channels are few, a quarter will do"""
    return numpy_3x3_same(x, w, stride, padding) and _pays(x, w, 4 if all(needs_grad) else 1)


def _pays(x: numpy.ndarray, w: Array, factor: int) -> bool:
    pixels, pairs = x.size // w.shape[2], w.shape[2] * w.shape[3]
    return (pixels >= min(MIN_PIXELS, pairs // PAIRS_OF_A_PIXEL) and pixels * factor >= MIN_PIXELS
            and pixels * pairs * factor >= MIN_WORK)


@convolve.variant(enough_pixels)
def convolve_winograd_rows(x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair) -> numpy.ndarray:
    """half the multiplications, and no columns"""
    return _convolve_and_correlate(x, w, None)[0]


@convolution_gradients.variant(enough_pixels_of_gradients)
def gradients_winograd_rows(
        g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
        needs_grad: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """half the multiplications, and no columns, for both gradients"""
    # The gradient of x is the convolution of g with w rotated. The gradient of w pairs each pixel of g with
    # the window of x around it or, which gives the same sum, each pixel of x with the window of g around it.
    if not needs_grad[0]:
        return None, _convolve_and_correlate(x, None, g)[1]
    grad_x, grad_w = _convolve_and_correlate(g, rotate_180(w), x if needs_grad[1] else None)
    return grad_x, rotate_180(grad_w) if needs_grad[1] else None


def _convolve_and_correlate(
        x: numpy.ndarray, w: numpy.ndarray | None,
        g: numpy.ndarray | None) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """In one pass over the windows of x (N, H, W, C): its convolution with w (3, 3, C, O), which is
    (N, H, W, O), and the sum over all windows of each window times its pixel in g (N, H, W, O), which is
    (3, 3, C, O). Where w or g is None, so is its result.
    """
    C, O = x.shape[3], (g if w is None else w).shape[3]  # noqa: E741
    kernel = out = total = None
    if w is not None:
        kernel = (G.astype(x.dtype) @ w.reshape(3, -1)).reshape(6, 3 * C, O)
        out = numpy.empty((*x.shape[:3], O), x.dtype)
    if g is not None:
        total = numpy.zeros((3, 3, C, O), x.dtype)

    def work(images: slice) -> numpy.ndarray | None:
        windows = _windows(_whole_tiles(x[images]))
        if w is not None:
            _convolve(windows, kernel, out[images])
        return None if g is None else _correlate(windows, _whole_tiles(g[images]))

    image_bytes = 6 * -(-x.shape[1] // 4) * (x.shape[2] + 1) * (C + O) * x.itemsize
    for part in map_images(work, len(x), image_bytes, max(MAX_BYTES, 18 * C * O * x.itemsize)):
        if g is not None:  # in order, so that the sum is always the same
            total += part
    return out, total


def _convolve(windows: numpy.ndarray, kernel: numpy.ndarray, out: numpy.ndarray) -> None:
    """Multiply windows (3, 6, windows, 3C) by the kernel's points (6, 3C, O), into out (N, H, W, O)."""
    N, H, W, O = out.shape  # noqa: E741
    rows = out if H % 4 == 0 else numpy.empty((N, H + -H % 4, W, O), out.dtype)
    points = numpy.empty((6, windows.shape[2], 3, O), out.dtype)
    numpy.matmul(windows, kernel, out=points.transpose(2, 0, 1, 3))
    numpy.matmul(A.T.astype(out.dtype), _as_tiles(points, rows.shape)[..., :W * O], out=_tiles(rows))
    if rows is not out:
        out[...] = rows[:, :H]


def _correlate(windows: numpy.ndarray, g: numpy.ndarray) -> numpy.ndarray:
    """The sum over windows (3, 6, windows, 3C) of each times its pixel in g (N, 4K, W, O): (3, 3, C, O)."""
    _, _, W, O = g.shape  # noqa: E741
    points = numpy.empty((6, windows.shape[2], 3, O), g.dtype)
    tiles = _as_tiles(points, g.shape)
    tiles[..., W * O:] = 0
    points.reshape(6, -1)[:, tiles[:, :, 0].size:] = 0  # windows are zero there, but new memory may hold NaN
    numpy.matmul(A.astype(g.dtype), _tiles(g), out=tiles[..., :W * O])
    sums = (windows.swapaxes(2, 3) @ points.transpose(2, 0, 1, 3)).sum(axis=0)
    return (G.T.astype(g.dtype) @ sums.reshape(6, -1)).reshape(3, 3, -1, O)


def _windows(x: numpy.ndarray) -> numpy.ndarray:
    """B^T d for all patches d of six rows of x (N, 4K, W, C), as windows of three pixels: a view
    (3, 6, windows, 3C), where window p of a point is [p % 3, point, p // 3].

    A pixel of zeros is counted before each row, as the left edge of that row and the right edge of the row
    before; the window that starts at a row's last pixel is computed for nothing.
    """
    N, H, W, C = x.shape
    pixels = N * (H // 4) * (W + 1)
    count = -(-pixels // 3)
    points = numpy.empty((6, 3 * count + 2, C), x.dtype)
    points[:, pixels:] = 0
    tiles = _as_tiles(points, x.shape)
    tiles[..., :C] = 0
    patches_to_points(numpy.ascontiguousarray(x).reshape(N, H, W * C), tiles[..., C:])
    point, pixel, number = points.strides
    return numpy.ndarray((3, 6, count, 3 * C), x.dtype, points, strides=(pixel, point, 3 * pixel, number))


def _as_tiles(points: numpy.ndarray, shape: tuple[int, ...]) -> numpy.ndarray:
    """A view (N, K, 6, (W + 1) C) of the points (6, ..., C) of an image of `shape` (N, 4K, W, C)."""
    N, H, W, C = shape
    pixels = points.reshape(6, -1, C)[:, :N * (H // 4) * (W + 1)]
    return pixels.reshape(6, N, H // 4, (W + 1) * C).transpose(1, 2, 0, 3)


def _tiles(x: numpy.ndarray) -> numpy.ndarray:
    """Four rows at a time: (N, 4K, W, C) -> (N, K, 4, W C), a view where x is contiguous."""
    N, H, W, C = x.shape
    return x.reshape(N, H // 4, 4, W * C)


def _whole_tiles(x: numpy.ndarray) -> numpy.ndarray:
    """x (N, H, W, C) with rows of zeros after its last, up to a multiple of four."""
    missing = -x.shape[1] % 4
    return numpy.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0))) if missing else x
