"""The gradient of 3 x 3 convolution with stride 2 and padding 1 on NumPy, for few channels, without columns.

With stride 2 only few windows contain a pixel, and which ones depends only on whether its row and its column
are even or odd: row 2i lies under the middle of the kernel for output row i; row 2i + 1 lies under its last
row for output row i, and under its first for i + 1. So the pixels fall into four classes, each with its own
convolution: of the outputs (i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1) a class takes one, two or all four,
each times one entry of the kernel.

Store every output's gradient with the one below it: 2O numbers. Two such pairs side by side are the four
outputs, which then are contiguous in memory for any (i, j): a matrix whose rows overlap, as in
winograd_rows.py.

Why it is faster: im2col's gradient makes nine numbers out of each, and adds up nine overlapping images; this
copies the gradient twice and the image once. One class takes three outputs instead of two, one of them times
zero, because the three are contiguous. The kernel's gradient needs the columns of im2col, and im2col.py
computes it.
"""
from __future__ import annotations

import numpy

from ...backend import Array
from ...conv import Pair, convolution_gradients
from ..geometry import image_slices, of_gradients
from .im2col import gradients_im2col
from .machine import MAX_COLUMNS as MAX_BYTES  # of pairs of gradients in a slice of images
from .threads import parallel_map

BLOCK = 64  # windows multiplied at a time: few enough for OpenBLAS to take them without a copy
MAX_CHANNELS = 64  # out; with more, products take so long that copies hardly count
MIN_PIXELS = 2**8  # of all images, for each channel out; with fewer, the many calls cost more than they save
MIN_SLICES = 4  # where MAX_BYTES makes fewer; many small slices cost more than further threads bring
# by class of pixels, (row, column) being 0 if even and 1 if odd: how many of the four outputs it takes
CLASSES = {(0, 0): 1, (1, 0): 2, (0, 1): 3, (1, 1): 4}
# by (even or odd, offset of the output): the row or column of the kernel under which the pixel lies
TAPS = {(0, 0): 1, (1, 0): 2, (1, 1): 0}


def numpy_3x3_halving(x: object, w: Array, stride: Pair, padding: Pair) -> bool:
    """NumPy arrays: 3 x 3 kernel, stride 2, padding 1, even sides, up to 64 channels out, and many
    pixels"""
    return (isinstance(x, numpy.ndarray) and w.shape[:2] == (3, 3) and stride == (2, 2) and padding == (1, 1)
            and x.shape[1] % 2 == x.shape[2] % 2 == 0 and w.shape[3] <= MAX_CHANNELS
            and x.size >= MIN_PIXELS * x.shape[3] * w.shape[3])


@convolution_gradients.variant(of_gradients(numpy_3x3_halving))
def gradients_stride2(g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
                      needs_grad: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """the image's gradient without columns, and without images to add up"""
    grad_w = gradients_im2col(g, x, w, stride, padding, (False, True))[1] if needs_grad[1] else None
    return _input_gradient(g, x.shape, w) if needs_grad[0] else None, grad_w


def _input_gradient(g: numpy.ndarray, shape: tuple[int, ...], w: numpy.ndarray) -> numpy.ndarray:
    N, OH, OW, O = g.shape  # noqa: E741
    C, kernels = shape[3], _kernels(w)
    out = numpy.empty((N, OH, 2, OW, 2 * C), g.dtype)  # pixels 2j and 2j + 1 as one

    def work(images: slice) -> None:
        outputs = _outputs(g[images])
        # (blocks, BLOCK, start, row, column, C)
        rows = numpy.empty((*outputs.shape[1:3], 2, 2, 2, C), g.dtype)
        for (row, column), kernel in kernels.items():
            for start in range(2):
                numpy.matmul(outputs[start, :, :, :len(kernel)], kernel, out=rows[:, :, start, row, column])
        part = out[images]
        # without the pixel of zeros at the end of each row of outputs
        pixels = _as_pixels(rows.reshape(-1, 2, 2 * C))[:len(part) * OH * (OW + 1)]
        _as_pixels(part)[...] = pixels.reshape(-1, OH, OW + 1, 2)[:, :, :OW].swapaxes(2, 3)

    parallel_map(work, image_slices(N, 2 * OH * (OW + 1) * O * g.itemsize, MAX_BYTES, MIN_SLICES))
    return out.reshape(shape)


def _kernels(w: numpy.ndarray) -> dict[Pair, numpy.ndarray]:
    """The kernel of each class of pixels: (outputs that the class takes times O, C)."""
    kernels = {}
    for (row, column), count in CLASSES.items():
        kernel = numpy.zeros((count, w.shape[3], w.shape[2]), w.dtype)
        for output in range(count):
            right, below = divmod(output, 2)
            taps = TAPS.get((row, below)), TAPS.get((column, right))
            if None not in taps:
                kernel[output] = w[taps].T
        kernels[row, column] = kernel.reshape(-1, w.shape[2])
    return kernels


def _outputs(g: numpy.ndarray) -> numpy.ndarray:
    """The outputs (i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1) for every i and j, as a view (2, blocks,
    BLOCK, 4O) of pairs: those that start at pixel p are row p // 2 of [p % 2]. An image's rows are one pixel
    longer here.
    """
    N, OH, OW, O = g.shape  # noqa: E741
    pixels = N * OH * (OW + 1)
    blocks = -(-pixels // (2 * BLOCK))
    flat = numpy.empty((2 * BLOCK * blocks + 1, 2, O), g.dtype)
    flat[pixels:] = 0
    pairs = flat[:pixels].reshape(N, OH, OW + 1, 2, O)
    pairs[:, :, OW] = 0
    pairs[:, -1, :, 1] = 0
    g, pairs = _as_pixels(numpy.ascontiguousarray(g)), _as_pixels(pairs)
    pairs[:, :, :OW, 0] = g
    pairs[:, :-1, :OW, 1] = g[:, 1:]
    step = flat.strides[0]
    return numpy.lib.stride_tricks.as_strided(flat, (2, blocks, BLOCK, 4 * O),
                                              (step, 2 * BLOCK * step, 2 * step, flat.itemsize))


def _as_pixels(x: numpy.ndarray) -> numpy.ndarray:
    """A view (...) of x (..., C) whose elements are whole pixels. NumPy copies them in half the time, since
    it starts anew for each contiguous run of elements, which otherwise would be the C numbers of a pixel."""
    return x.view(f"V{x.shape[-1] * x.itemsize}")[..., 0]
