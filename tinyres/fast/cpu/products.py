"""Matrix products on NumPy while other threads may fork."""
from __future__ import annotations

import numpy

from ...arithmetic import matrix_product
from .threads import unforked


def numpy_matrices(a: object, b: object) -> bool:
    """NumPy arrays of any size"""
    return isinstance(a, numpy.ndarray)


@matrix_product.variant(numpy_matrices)
def product_unforked(a: numpy.ndarray, b: numpy.ndarray) -> numpy.ndarray:
    """not faster, but a fork waits for it: BLAS's threads end before a fork, and it would wait for them for
    ever"""
    with unforked():
        return a @ b
