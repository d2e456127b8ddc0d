"""The array library underneath: NumPy on a CPU or CuPy on a GPU.

Every other file asks `xp_of(array)` which library an array belongs to and calls that library's functions,
which have the same names in both. New arrays (weights, batches) are made in the library chosen by `use`.
"""
from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy

try:
    import cupy
except ImportError:
    cupy = None

Array = Any  # numpy.ndarray or cupy.ndarray

_current: ModuleType = numpy


@functools.cache
def why_no_gpu() -> str:
    """The reason why CuPy cannot compute here and the remedy, or "" if it can. Determined once per
    process."""
    if cupy is None:
        return "the package CuPy is not installed: pip install -e '.[cuda12]', or '.[cuda13]' for CUDA 13"
    if not cupy.is_available():
        return "CuPy finds no NVIDIA GPU: check that `nvidia-smi` lists one and that its driver is installed"
    try:  # missing CUDA headers only show when the first kernel is compiled
        probe = cupy.ElementwiseKernel("float32 x", "float32 y", "y = x + 1", "tinyres_probe")
        probe(cupy.zeros(1, cupy.float32)).get()
    except Exception as error:
        return f"CuPy cannot run a kernel ({error}): install it with its CUDA headers, '.[cuda12]'"
    return ""


def gpu_available() -> bool:
    """Whether CuPy is installed, finds a GPU and can run a kernel on it."""
    return why_no_gpu() == ""


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
    """The library an array belongs to: the module numpy or cupy. Raises TypeError if it is no array."""
    if isinstance(array, (numpy.ndarray, numpy.generic)):  # NumPy turns 0-d arrays into its scalars
        return numpy
    if is_array(array):
        return cupy
    raise TypeError(f"expected a NumPy or CuPy array, got {type(array).__name__}: {array!r:.60}")


def to_numpy(array: Array) -> numpy.ndarray:
    """The same values as a NumPy array (copied off the GPU if it is there; not copied if it is NumPy's)."""
    return array if xp_of(array) is numpy else cupy.asnumpy(array)
