"""Lists of arrays on a GPU: the update of SGD, copies in another precision, a search for what is not finite.

Why it is faster: a CUDA kernel that finds the arrays by a table of their addresses (lists.cu) is launched
once, where one for each of 55 parameters takes less time than its launch; and the three lines of the update
are one pass over memory instead of five.
"""
from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import Any

import numpy

from ...backend import Array
from ...optim import SGD, Optimizer, sgd_update
from ...support.context import temporarily
from . import cuda
from .precision import any_not_finite, converted

THREADS, MAX_BLOCKS = 256, 128  # threads in a block, blocks for one array
SOURCE = Path(__file__).with_suffix(".cu")
TABLE = numpy.dtype([("numbers", numpy.uint64, 480)])  # `Table` in lists.cu
UPDATED = "float32", "float64"  # by `sgd`
CONVERTED = ("float32", "float16"), ("float16", "float32"), ("float32", "float32")
NAMES = (*(f"sgd<{cuda.NUMBERS[dtype]}>" for dtype in UPDATED),
         *(f"find_not_finite<{number}>" for number in cuda.NUMBERS.values()),
         *(f"convert<{', '.join(cuda.NUMBERS[dtype] for dtype in dtypes)}>" for dtypes in CONVERTED))

_skip: ContextVar[Array | None] = ContextVar("skip", default=None)


def cupy_lists(arrays: list[Array], *others: object) -> bool:
    """CuPy arrays"""
    return cuda.cupy_arrays(arrays[0])


def skipped_if(flag: Array) -> AbstractContextManager[None]:
    """Within this context a step of SGD on a GPU moves nothing if the flag, of type uint32, is not 0: the GPU
    looks at it, Python does not wait for it."""
    return temporarily(_skip, flag)


def can_skip(optimizer: Optimizer) -> bool:
    """Whether an optimizer's step heeds `skipped_if`."""
    return (type(optimizer) is SGD and not optimizer.nesterov
            and sgd_update.choose(*[optimizer.velocities] * 3, 0.0, 0.0, 0.0) is sgd_in_one_launch
            and all(p.dtype in UPDATED for p in optimizer.parameters))


@sgd_update.variant(cupy_lists)
def sgd_in_one_launch(weights: list[Array], gradients: list[Array], velocities: list[Array], lr: float,
                      momentum: float, weight_decay: float) -> None:
    """one pass over memory instead of five, and one launch for all parameters"""
    for dtype in {weight.dtype for weight in weights}:
        rows = [row for row in zip(weights, gradients, velocities, strict=True) if row[0].dtype == dtype]
        if dtype.name not in UPDATED:
            sgd_update.definition(*zip(*rows, strict=True), lr, momentum, weight_decay)
            continue
        dense = [tuple(_ordered(array, like=w) for array in row) for row in rows for w in [_dense(row[0])]]
        settings = map(dtype.type, (lr, momentum, weight_decay))
        _launch(f"sgd<{cuda.NUMBERS[dtype.name]}>", dense, *settings, _skip.get())
        for row, moved in zip(rows, dense, strict=True):
            for array, copy in (row[0], moved[0]), (row[2], moved[2]):
                if copy is not array:
                    array[...] = copy


@converted.variant(cupy_lists)
def converted_in_one_launch(arrays: list[Array], dtype: str, scale: Array | None) -> list[Array]:
    """one launch for the weights of all convolutions, and one for their gradients"""
    if any((array.dtype.name, dtype) not in CONVERTED for array in arrays):
        return converted.definition(arrays, dtype, scale)
    arrays = [_dense(array) for array in arrays]
    out = [_empty_like(array, dtype) for array in arrays]
    for source in {array.dtype.name for array in arrays}:
        rows = [row for row in zip(arrays, out, strict=True) if row[0].dtype == source]
        _launch(f"convert<{cuda.NUMBERS[source]}, {cuda.NUMBERS[dtype]}>", rows, scale)
    return out


@any_not_finite.variant(cupy_lists)
def any_not_finite_in_one_launch(arrays: list[Array]) -> Array:
    """one launch and one pass over memory for all arrays"""
    flag = cuda.cupy.zeros((), "uint32")
    for dtype in {array.dtype.name for array in arrays}:
        chosen = [(_dense(array),) for array in arrays if array.dtype == dtype]
        _launch(f"find_not_finite<{cuda.NUMBERS[dtype]}>", chosen, flag)
    return flag


def _launch(name: str, lists: Iterable[tuple[Array, ...]], *arguments: Any) -> None:
    """Run a kernel of lists.cu on tuples of arrays that lie in memory alike; again if a table is full."""
    rows = iter([(*map(cuda.address, arrays), arrays[0].size) for arrays in lists])
    while some := list(islice(rows, 120)):
        table = numpy.zeros((), TABLE)
        table["numbers"][:sum(map(len, some))] = numpy.ravel(some)
        grid = MAX_BLOCKS, len(some)
        cuda.function(SOURCE, NAMES, name)(grid, (THREADS,), (table, numpy.uint32(len(some)), *arguments))


def _dense(array: Array) -> Array:
    """The array if it fills its memory without gaps, whatever the order of its axes, else a copy."""
    size = array.itemsize
    for stride, length in sorted(zip(array.strides, array.shape, strict=True)):
        if length != 1 and stride != size:
            return cuda.cupy.ascontiguousarray(array)
        size *= length
    return array


def _ordered(array: Array, like: Array) -> Array:
    """The array if it lies in memory as a dense one of its shape does, else a copy that does."""
    if array.dtype == like.dtype and all(
            one == other for one, other, length in zip(array.strides, like.strides, like.shape, strict=True)
            if length != 1):
        return array
    copy = _empty_like(like, like.dtype)
    copy[...] = array
    return copy


def _empty_like(array: Array, dtype: Any) -> Array:
    """Memory for an array of the same shape, whose axes lie in the same order."""
    memory = cuda.cupy.empty(array.size, dtype)
    strides = tuple(stride // array.itemsize * memory.itemsize for stride in array.strides)
    return cuda.cupy.lib.stride_tricks.as_strided(memory, array.shape, strides)
