"""ReLU and its gradient on NumPy in several threads, and matrix products while other threads may fork.

Why it is faster: a pass over memory, which NumPy makes on one core, is made by all, in slices small enough
for their caches, so that a second pass finds its numbers there.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy

from ...arithmetic import matrix_product
from ...ops import rectify, relu_gradient
from ..geometry import of_numpy
from .machine import ELEMENTWISE_SLICE as SLICE_BYTES
from .machine import map_images
from .threads import unforked

MIN_BYTES = 2**22  # of an array; a smaller one is done before a second thread is awake


def large(x: object, *others: object) -> bool:
    """NumPy arrays of 4 MiB or more, all of one shape and dtype"""
    return (isinstance(x, numpy.ndarray) and x.nbytes >= MIN_BYTES and len(x) > 1
            and all(isinstance(y, numpy.ndarray) and (y.shape, y.dtype) == (x.shape, x.dtype)
                    for y in others))


def parallel_elementwise(function: Callable[..., object], *operands: numpy.ndarray) -> numpy.ndarray:
    """A new array (n, ...) whose slices are written by `function(*slices of the operands, out=slice)`.

    operands: arrays of one shape and dtype, which the result has too.
    """
    first = operands[0]
    out = numpy.empty(first.shape, first.dtype)
    map_images(lambda rows: function(*(operand[rows] for operand in operands), out=out[rows]), len(first),
               first[0].nbytes, SLICE_BYTES)
    return out


@rectify.variant(large)
def rectify_in_threads(x: numpy.ndarray) -> numpy.ndarray:
    """slice by slice, on all cores"""
    return parallel_elementwise(lambda x, out: numpy.maximum(x, 0, out=out), x)


@relu_gradient.variant(of_numpy)
def relu_gradient_by_bits(g: numpy.ndarray, y: numpy.ndarray) -> numpy.ndarray:
    """the bits of g, read as an integer, times 0 or 1: no branches; slice by slice, on all cores"""
    def work(g: numpy.ndarray, y: numpy.ndarray, out: numpy.ndarray) -> None:
        integer = f"i{g.itemsize}"
        numpy.multiply(g.view(integer), y > 0, out=out.view(integer))

    if large(g, y):
        return parallel_elementwise(work, g, y)
    out = numpy.empty(g.shape, g.dtype)
    work(g, y, out)
    return out


@matrix_product.variant(of_numpy)
def product_unforked(a: numpy.ndarray, b: numpy.ndarray) -> numpy.ndarray:
    """not faster, but a fork waits for it: BLAS's threads end before a fork, and it would wait for them for
    ever"""
    with unforked():
        return a @ b
