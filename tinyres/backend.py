"""The array library underneath: NumPy on a CPU or CuPy on a GPU.

Every other file asks `xp_of(array)` which library an array belongs to and calls that library's functions,
which have the same names in both. New arrays (weights, batches) are made in the library chosen by `use`.
"""
from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy

from .support.gpu import cupy, gpu_available, why_no_gpu

Array = Any  # numpy.ndarray or cupy.ndarray

_current: ModuleType = numpy


def use(name: str) -> ModuleType:
    """Choose the library in which new arrays are made, and return its module.

    name: "numpy", "cupy", or "auto" (CuPy where a GPU works, else NumPy).
    Raises ValueError for another name, RuntimeError if CuPy is asked for and cannot work here.
    """
    global _current
    if name not in ("auto", "numpy", "cupy"):
        raise ValueError(f"backend {name!r} is unknown: expected 'auto', 'numpy' or 'cupy'")
    if name == "cupy" and not gpu_available():
        raise RuntimeError(f"backend 'cupy' cannot be used: {why_no_gpu()}; or use the backend 'numpy'")
    _current = numpy if name == "numpy" or not gpu_available() else cupy
    return _current


def current() -> ModuleType:
    """The library in which new arrays are made: the module numpy or cupy."""
    return _current


def is_array(value: object) -> bool:
    """Whether a value is an array of one of the two libraries."""
    return isinstance(value, numpy.ndarray) or (cupy is not None and isinstance(value, cupy.ndarray))


def xp_of(array: Array) -> ModuleType:
    """The library an array belongs to, the module numpy or cupy. Raises TypeError for anything else."""
    if isinstance(array, (numpy.ndarray, numpy.generic)):  # NumPy turns 0-d arrays into its scalars
        return numpy
    if is_array(array):
        return cupy
    raise TypeError(f"expected a NumPy or CuPy array, got {type(array).__name__}: {array!r:.60}")


def to_numpy(array: Array) -> numpy.ndarray:
    """The same values as a NumPy array, copied if they are on the GPU."""
    return array if xp_of(array) is numpy else cupy.asnumpy(array)
