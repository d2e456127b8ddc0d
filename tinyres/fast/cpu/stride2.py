"""The gradient of 3 x 3 convolution with stride 2 and padding 1 on NumPy, for few channels, as a convolution.

A pixel of the image lies in few windows, and in which ones depends only on whether its row and its column are
even or odd: row 2i lies under the middle of the kernel for output row i; row 2i - 1 lies under its last row
for output row i - 1, and under its first for i. So two rows and two columns of outputs hold all that the four
pixels (2i - 1, 2j - 1) to (2i, 2j) need: their gradients are a convolution of the outputs' gradient by a
kernel of 2 x 2 with 4C channels out, of which 7 in 16 entries are zero.

Why it is faster: im2col's gradient makes nine numbers out of each, and adds up nine overlapping images; this
copies the gradient four times and the image once. The kernel's gradient needs the columns of im2col, and
im2col.py computes it.
"""
from __future__ import annotations

import itertools

import numpy

from ...backend import Array
from ...conv import Pair, convolution_gradients
from ..geometry import of_gradients
from .im2col import columns, gradients_im2col
from .machine import MAX_COLUMNS as MAX_BYTES
from .machine import map_images

MAX_CHANNELS = 64  # out; with more, products take so long that copies hardly count
MIN_PIXELS = 2**8  # of all images, for each channel out; with fewer, the many calls cost more than they save


def numpy_3x3_halving(x: object, w: Array, stride: Pair, padding: Pair) -> bool:
    """NumPy arrays: 3 x 3 kernel, stride 2, padding 1, even sides, up to 64 channels out, and many
    pixels"""
    return (isinstance(x, numpy.ndarray) and w.shape[:2] == (3, 3) and stride == (2, 2) and padding == (1, 1)
            and x.shape[1] % 2 == x.shape[2] % 2 == 0 and w.shape[3] <= MAX_CHANNELS
            and x.size >= MIN_PIXELS * x.shape[3] * w.shape[3])


@convolution_gradients.variant(of_gradients(numpy_3x3_halving))
def gradients_stride2(g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
                      needs_grad: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """the image's gradient without images to add up"""
    grad_w = gradients_im2col(g, x, w, stride, padding, (False, True))[1] if needs_grad[1] else None
    return _input_gradient(g, w) if needs_grad[0] else None, grad_w


def _input_gradient(g: numpy.ndarray, w: numpy.ndarray) -> numpy.ndarray:
    (N, OH, OW, O), C = g.shape, w.shape[2]  # noqa: E741
    out = numpy.empty((N, 2 * OH, 2 * OW, C), g.dtype)
    # row p of the outputs takes row r of the pixels to row r + 2 (1 - p) of the kernel, which has no row 3
    kernel = numpy.pad(w, ((0, 1), (0, 1), (0, 0), (0, 0))).reshape(2, 2, 2, 2, C, O)[::-1, :, ::-1]
    kernel = kernel.transpose(0, 2, 5, 1, 3, 4).reshape(4 * O, 4 * C)

    def work(images: slice) -> None:
        pixels = columns(g[images], (2, 2, O, 4 * C), (1, 1), (1, 1)) @ kernel
        pixels = _as_items(pixels.reshape(-1, OH + 1, OW + 1, 2, 2, C))
        for row, column in itertools.product(range(2), repeat=2):
            _as_items(out)[images, row::2, column::2] = pixels[:, row:row + OH, column:column + OW, 1 - row,
                                                               1 - column]

    map_images(work, N, (OH + 1) * (OW + 1) * 4 * O * g.itemsize, MAX_BYTES)
    return out


def _as_items(x: numpy.ndarray) -> numpy.ndarray:
    """A view (...) of x (..., C) whose items are whole pixels, which NumPy copies in half the time."""
    return x.view(f"V{x.shape[-1] * x.itemsize}")[..., 0]
