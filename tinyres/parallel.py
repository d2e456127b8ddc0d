"""Several cores for NumPy: independent slices of a batch, each in a thread of its own.

NumPy runs its loops and copies on one core, and releases Python's lock meanwhile, so threads that work on
different slices run side by side. BLAS, underneath `matmul`, would use all cores for each product by itself,
and wait for the slowest at the end of each; many small products go faster one core each. So this module, if
it is imported before NumPy, asks BLAS for one thread and uses the cores itself. If NumPy was there first, or
the environment says otherwise, BLAS keeps its threads and slices are worked on one after the other. Results
are the same, bit for bit, with any number of threads.
"""
from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Slice, Result = TypeVar("Slice"), TypeVar("Result")

_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
if "numpy" not in sys.modules and not any(name in os.environ for name in _VARIABLES):
    os.environ.update(dict.fromkeys(_VARIABLES, "1"))
    THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
else:
    THREADS = 1

_pool = ThreadPoolExecutor(THREADS, "tinyres") if THREADS > 1 else None


def over(slices: Iterable[Slice], function: Callable[[Slice], Result]) -> list[Result]:
    """[function(s) for s in slices], in several threads; calls must not depend on one another."""
    if _pool is None:
        return [function(s) for s in slices]
    return list(_pool.map(function, slices))
