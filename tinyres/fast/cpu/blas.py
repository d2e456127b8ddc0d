"""Whether NumPy's matrix products are as fast as this processor allows."""
from __future__ import annotations

import time

import numpy

SIDE, REPEATS = 64, 5  # of the matrices, for which OpenBLAS starts no threads; of the products: 2 ms in all
LEAST_SPEEDUP = 4  # of floats, for which NumPy calls BLAS, over integers, which its own loop multiplies


SLOW = ("NumPy has a slow BLAS here, which makes a step several times as long: python -m pip install "
        "--force-reinstall --only-binary :all: numpy, which brings OpenBLAS; on Debian, apt install "
        "libopenblas0")


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
