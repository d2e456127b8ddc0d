"""im2col on NumPy with slices of the batch in several threads, for all kernels and strides that no other
variant takes.

Why it is faster: all cores build columns, and add them up for the gradient, each for its own images and in
its own cache, where the definition leaves everything but the matrix product to one core. And the matrix of
columns, KH KW times as large as the image, never exists as a whole. A row of a window, KW C numbers that are
contiguous in memory, is copied as one item, which halves the time.
"""
from __future__ import annotations

import numpy

from ...conv import Pair, convolution_gradients, convolve, output_size
from ..geometry import of_gradients, of_numpy
from .machine import MAX_COLUMNS as MAX_BYTES  # of a slice's, unless one image, or the kernel, has more
from .machine import map_images


@convolve.variant(of_numpy)
def convolve_im2col(x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair) -> numpy.ndarray:
    """slices of the batch, on all cores"""
    OH, OW = output_size(x.shape, w.shape, stride, padding)
    out = numpy.empty((len(x), OH, OW, w.shape[3]), x.dtype)
    kernel = w.reshape(-1, w.shape[3])

    def work(images: slice) -> None:
        numpy.matmul(columns(x[images], w.shape, stride, padding), kernel,
                     out=out[images].reshape(-1, w.shape[3]))

    map_images(work, len(x), OH * OW * w[..., 0].nbytes, max(MAX_BYTES, w.nbytes))
    return out


@convolution_gradients.variant(of_gradients(of_numpy))
def gradients_im2col(g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
                     needs_grad: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """slices of the batch, on all cores"""
    grad_x = numpy.empty_like(x) if needs_grad[0] else None

    def work(images: slice) -> numpy.ndarray | None:
        if needs_grad[0]:
            grad_x[images] = convolution_gradients.definition(g[images], x[images], w, stride, padding,
                                                              (True, False))[0]
        if not needs_grad[1]:
            return None
        return columns(x[images], w.shape, stride, padding).T @ g[images].reshape(-1, w.shape[3])

    parts = map_images(work, len(x), g[:1, ..., 0].size * w[..., 0].nbytes, max(MAX_BYTES, 4 * w.nbytes))
    if not needs_grad[1]:
        return grad_x, None
    # in order, so that the sum is always the same
    return grad_x, sum(parts[1:], parts[0]).reshape(w.shape) if parts else numpy.zeros_like(w)


def columns(x: numpy.ndarray, w_shape: tuple[int, ...], stride: Pair, padding: Pair) -> numpy.ndarray:
    """The matrix of columns of tinyres/conv.py: (N OH OW, KH KW C)."""
    N, H, W, C = x.shape
    KH, KW, *_ = w_shape
    (OH, OW), (top, left) = output_size(x.shape, w_shape, stride, padding), padding
    padded = numpy.zeros((N, H + 2 * top, W + 2 * left, C), x.dtype)
    padded[:, top:top + H, left:left + W] = x
    n, h, w, _ = padded.strides
    windows = numpy.ndarray((N, OH, OW, KH), f"V{KW * C * x.itemsize}", padded,
                            strides=(n, stride[0] * h, stride[1] * w, h))
    return numpy.ascontiguousarray(windows).view(x.dtype).reshape(N * OH * OW, KH * KW * C)
