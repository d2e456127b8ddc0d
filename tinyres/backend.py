"""The array library underneath, NumPy on a CPU or CuPy on a GPU; kernels.

Every other file asks `xp_of(array)` which library an array belongs to and calls that library's functions,
which have the same names in both. New arrays (weights, batches) are made in the library chosen by `use`.

Kernels (not those of a convolution, which are called w here) are the few functions on arrays that take nearly
all of the time. What is written in the core, as plainly as can be and marked `@kernel`, is a reference
implementation, the kernel's definition. Files in `fast/` may register optimized ones, its variants, with the
condition under which they apply; calling a kernel dispatches to one of them. The core neither knows nor needs
them.
"""
from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import numpy

try:
    import cupy
except ImportError:
    cupy = None

Array = Any  # numpy.ndarray or cupy.ndarray

_current: ModuleType = numpy
_plain: ContextVar[bool] = ContextVar("plain", default=False)


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


class Kernel:
    """A function on arrays, given by its definition, for which faster variants may stand in.

    It takes positional arguments only.
    """

    def __init__(self, definition: Callable[..., Any]) -> None:
        self.definition = definition
        self.variants: list[tuple[Callable[..., bool], Callable[..., Any]]] = []
        functools.update_wrapper(self, definition)

    def variant(self, applies: Callable[..., bool]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the decorated function for all arguments of which `applies` says so.

        The variant registered last is tried first. The docstring of `applies` says for which arrays, with
        the library's name, and that of the variant why it pays: `python -m tinyres.fast` prints them.
        """
        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.variants.insert(0, (applies, function))
            return function
        return register

    def choose(self, *arguments: Any) -> Callable[..., Any]:
        """The first variant that applies to the arguments, else the definition."""
        if not _plain.get():
            for applies, function in self.variants:
                if applies(*arguments):
                    return function
        return self.definition

    def __call__(self, *arguments: Any) -> Any:
        return self.choose(*arguments)(*arguments)


KERNELS: list[Kernel] = []


def kernel(definition: Callable[..., Any]) -> Kernel:
    """Declare a function on arrays a kernel: others may register variants of it."""
    KERNELS.append(Kernel(definition))
    return KERNELS[-1]


@contextlib.contextmanager
def setting(variable: ContextVar[bool], value: bool) -> Iterator[None]:
    """Within this context, and in this thread, the variable has that value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def plain() -> contextlib.AbstractContextManager[None]:
    """Within this context, and in this thread, every kernel computes by its definition: the textbook."""
    return setting(_plain, True)
