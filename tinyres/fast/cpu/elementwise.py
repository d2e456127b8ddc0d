"""Sums, ReLU and SGD's update on NumPy, in several threads.

Why it is faster: each is one pass over memory, which NumPy makes on one core. Here the cores work side by
side, on slices small enough for their caches; where an operation makes several passes, all but the first find
their numbers in the cache.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy

from ...ops import rectify, relu_gradient
from ...optim import sgd_update
from ...tensor import sum_of_two
from ..geometry import slices
from .machine import CHUNK_SIZE
from .machine import ELEMENTWISE_SLICE as SLICE_BYTES
from .memory import keep_memory
from .threads import parallel_map

MIN_BYTES = 2**22  # of an array; a smaller one is done before a second thread is awake

Arrays = list[numpy.ndarray]


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
    parallel_map(lambda rows: function(*(operand[rows] for operand in operands), out=out[rows]),
                 slices(len(first), max(1, len(first) * SLICE_BYTES // first.nbytes)))
    return out


@sum_of_two.variant(large)
def sum_in_threads(a: numpy.ndarray, b: numpy.ndarray) -> numpy.ndarray:
    """slice by slice, on all cores"""
    return parallel_elementwise(numpy.add, a, b)


@rectify.variant(large)
def rectify_in_threads(x: numpy.ndarray) -> numpy.ndarray:
    """slice by slice, on all cores"""
    return parallel_elementwise(lambda x, out: numpy.maximum(x, 0, out=out), x)


def numpy_arrays(g: object, y: object) -> bool:
    """NumPy arrays of any size"""
    return isinstance(g, numpy.ndarray)


@relu_gradient.variant(numpy_arrays)
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


def contiguous(weights: Arrays, gradients: Arrays, velocities: Arrays, *settings: float) -> bool:
    """contiguous NumPy arrays"""
    return all(isinstance(array, numpy.ndarray) and array.flags.c_contiguous
               for arrays in (weights, gradients, velocities) for array in arrays)


@sgd_update.variant(contiguous)
def sgd_in_threads(weights: Arrays, gradients: Arrays, velocities: Arrays, lr: float, momentum: float,
                   weight_decay: float) -> None:
    """chunks that stay in a core's cache, on all cores"""
    keep_memory()

    def chunks() -> Iterator[Arrays]:
        for arrays in zip(weights, gradients, velocities, strict=True):
            flat = [array.reshape(-1) for array in arrays]
            for chunk in slices(flat[0].size, CHUNK_SIZE):
                yield [array[chunk] for array in flat]

    def update(chunk: Arrays) -> None:
        w, gradient, v = chunk
        v *= momentum
        v += gradient
        v += weight_decay * w
        w -= lr * v

    parallel_map(update, chunks())
