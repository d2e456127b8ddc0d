"""What NumPy needs to be told to be fast on a CPU: several cores, and memory that is kept.

Cores. NumPy runs its loops and copies on one core, and only BLAS, underneath `matmul`, uses all. For the many
small products of a network that is the wrong way round: BLAS waits for its slowest thread at the end of each
product, and the loops between them keep one core busy. Here BLAS gets one thread, and independent slices of a
batch are worked on side by side, one thread each: NumPy releases Python's lock meanwhile. Results are the
same, bit for bit, with any number of threads. OPENBLAS_NUM_THREADS or OMP_NUM_THREADS, if set, say how many.

Memory. A training step frees its arrays and asks for the same ones again. The C library hands large ones back
to the system each time and gets new pages, which the system fills with zeros before use: a third of the time
of a step. Here it is told to keep them. A process that has imported tinyres returns memory when it ends.
"""
from __future__ import annotations

import contextvars
import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import numpy

Array = Any  # numpy.ndarray or cupy.ndarray
Slice, Result = TypeVar("Slice"), TypeVar("Result")

LEAST_BYTES = 2**19  # of one slice of an elementwise operation


def over(slices: Iterable[Slice], function: Callable[[Slice], Result]) -> list[Result]:
    """[function(s) for s in slices], in several threads; calls must not depend on one another."""
    slices = list(slices)
    results: list[Any] = [None] * len(slices)
    remaining = iter(range(len(slices)))  # shared: whoever is free takes the next one

    def work() -> None:
        for i in remaining:
            results[i] = function(slices[i])

    others = [_pool.submit(contextvars.copy_context().run, work)  # NumPy's errstate goes with the context
              for _ in range(min(THREADS, len(slices)) - 1)]
    try:
        work()
    finally:  # also after an error no other thread goes on writing
        begun = [other for other in others if not other.cancel()]  # the others find nothing left to do
        wait(begun)
    for other in begun:
        other.result()
    return results


def elementwise(function: Callable[..., Array], *operands: Array | float) -> Array:
    """function(*operands), in several threads where that is NumPy's and large enough to pay.

    operands: the first is an array, the others are arrays of its shape and dtype, or numbers.
    function: takes them, and a keyword argument `out` for the result, as NumPy's functions do.
    """
    first = operands[0]
    if not isinstance(first, numpy.ndarray) or first.nbytes < LEAST_BYTES or len(first) < 2:
        return function(*operands)
    out = numpy.empty(first.shape, first.dtype)

    def work(rows: slice) -> None:
        function(*(a[rows] if isinstance(a, numpy.ndarray) else a for a in operands), out=out[rows])

    step = max(1, len(first) * LEAST_BYTES // first.nbytes)
    over((slice(i, i + step) for i in range(0, len(first), step)), work)
    return out


def _threads() -> int:
    for name in "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS":
        if os.environ.get(name, "").isdigit():
            return max(1, int(os.environ[name]))
    return cores()


def _give_blas_one_thread() -> bool:
    """Whether NumPy's BLAS is the OpenBLAS that comes with it, and now uses one thread."""
    package = Path(numpy.__file__).parent
    for library in (*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*")):
        for name in "scipy_openblas_set_num_threads64_", "scipy_openblas_set_num_threads":
            if hasattr(loaded := ctypes.CDLL(str(library)), name):
                getattr(loaded, name)(1)
                return True
    return False


def _keep_freed_memory() -> None:
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no memory of its own for a large array
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: give nothing back


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


THREADS = _threads() if _give_blas_one_thread() else 1
_pool = ThreadPoolExecutor(max(1, THREADS - 1), "tinyres")
_keep_freed_memory()
