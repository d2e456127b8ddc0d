"""im2col on NumPy with slices of the batch in several threads, for kernels and strides with no other variant.

Why it is faster: all cores build columns and add them up, each for its own images and in its own cache, where
im2col alone leaves everything but the matrix product to one core. And the matrix of columns, KH KW times as
large as the image, is never there as a whole.
"""
from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy

from ..conv import Pair, convolution_gradients, convolve, output_size
from .threads import parallel_map

MAX_BYTES = 2**21  # of a slice's columns, unless one image has more


def numpy_arrays(x: object, w: object, stride: Pair, padding: Pair) -> bool:
    """NumPy arrays"""
    return isinstance(x, numpy.ndarray)


def of_gradients(applies: Callable[..., bool]) -> Callable[..., bool]:
    """The condition of a convolution as one of its gradients."""
    @functools.wraps(applies)
    def gradients_apply(g: object, x: object, w: object, stride: Pair, padding: Pair,
                        needs_grad: tuple[bool, bool]) -> bool:
        return applies(x, w, stride, padding)
    return gradients_apply


@convolve.variant(numpy_arrays)
def convolve_slices(x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair) -> numpy.ndarray:
    """slices of the batch in all cores"""
    OH, OW = output_size(x.shape, w.shape, stride, padding)
    out = numpy.empty((len(x), OH, OW, w.shape[3]), x.dtype)

    def work(images: slice) -> None:
        out[images] = convolve.definition(x[images], w, stride, padding)

    parallel_map(work, image_slices(out, w, MAX_BYTES))
    return out


@convolution_gradients.variant(of_gradients(numpy_arrays))
def gradients_of_slices(g: numpy.ndarray, x: numpy.ndarray, w: numpy.ndarray, stride: Pair, padding: Pair,
                        needs_grad: tuple[bool, bool]) -> tuple[numpy.ndarray | None, numpy.ndarray | None]:
    """slices of the batch in all cores"""
    grad_x = numpy.empty_like(x) if needs_grad[0] else None
    grad_w = numpy.zeros_like(w) if needs_grad[1] else None

    def work(images: slice) -> numpy.ndarray | None:
        part_x, part_w = convolution_gradients.definition(g[images], x[images], w, stride, padding,
                                                          needs_grad)
        if needs_grad[0]:
            grad_x[images] = part_x
        return part_w

    # in order, so that the sum is always the same
    for part in parallel_map(work, image_slices(g, w, MAX_BYTES)):
        if needs_grad[1]:
            grad_w += part
    return grad_x, grad_w


def image_slices(out: numpy.ndarray, w: numpy.ndarray, max_bytes: int) -> Iterator[slice]:
    """As many images of out (N, OH, OW, O) at a time as have at most so many bytes of columns, but at least
    one."""
    N, OH, OW, _ = out.shape
    images = max(1, max_bytes // max(1, OH * OW * w[..., 0].size * out.itemsize))
    return (slice(n, n + images) for n in range(0, N, images))
