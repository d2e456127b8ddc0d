"""The BLAS underneath NumPy's matrix products: its threads, its kernels, and whether it is slow."""
from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable
from pathlib import Path

import numpy

from .cores import core_count

SIDE, REPEATS = 64, 5  # of the matrices, for which OpenBLAS starts no threads; of the products: 2 ms in all
LEAST_SPEEDUP = 4  # of floats, for which NumPy calls BLAS, over integers, which its own loop multiplies


SLOW = ("NumPy has a slow BLAS here, which makes a step several times as long: python -m pip install "
        "--force-reinstall --only-binary :all: numpy, which brings OpenBLAS; on Debian, apt install "
        "libopenblas0")


@functools.cache
def _openblas() -> tuple[ctypes.CDLL, str] | None:
    """The OpenBLAS that ships with NumPy, and how the names of its functions end; None for another BLAS."""
    package = Path(numpy.__file__).parent
    for library in (*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*")):
        loaded = ctypes.CDLL(str(library))
        for suffix in "64_", "":
            if hasattr(loaded, f"scipy_openblas_set_num_threads{suffix}"):
                return loaded, suffix
    return None


@functools.cache
def thread_functions() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """What gets and sets its number of threads; None unless it is the OpenBLAS that ships with NumPy."""
    if not (found := _openblas()):
        return None
    library, suffix = found
    get, set_ = (getattr(library, f"scipy_openblas_{verb}_num_threads{suffix}") for verb in ("get", "set"))
    return get, set_


def limit_threads() -> None:
    """Let BLAS use no more threads than there are cores: it counts those that a container may not use."""
    functions = thread_functions()
    if functions and functions[0]() > core_count():
        functions[1](core_count())


@functools.cache
def kernels() -> str:
    """The processor whose kernels OpenBLAS has chosen, such as "Haswell"; empty for another BLAS."""
    if not (found := _openblas()):
        return ""
    function = getattr(found[0], f"scipy_openblas_get_corename{found[1]}")
    function.restype = ctypes.c_char_p
    return function().decode()


def is_slow() -> bool:
    """Whether products of floats are about as slow as those of integers. With the reference BLAS they take as
    long, with OpenBLAS a twentieth, on one core of any processor, busy or not."""
    def seconds(dtype: str) -> float:
        a = numpy.ones((SIDE, SIDE), dtype)
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            numpy.matmul(a, a)
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds("int32") < LEAST_SPEEDUP * seconds("float32")
