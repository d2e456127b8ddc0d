"""Memory that is kept from one training step to the next.

A training step frees its arrays and asks for the same ones again. The C library hands large ones back to the
system each time and gets new pages, which the system fills with zeros before use: this takes a third of the
time of a step. From an optimizer's first step on the C library keeps them: whoever takes one takes more.
Within `memory_kept`, as in `tinyres.training.train`, it does so from the beginning, and gives them back at
the end.
"""
from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy

from ...optim import Optimizer, take

MMAP_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -4, -3, -1  # options of mallopt, from malloc.h
_kept = False


def keep_memory() -> None:
    """Keep, on Linux, memory that is freed from here on for the next array, until a `memory_kept` ends."""
    global _kept
    if not _kept and (libc := _glibc()):
        libc.mallopt(MMAP_MAX, 0)  # no separate mapping for a large array
        libc.mallopt(TRIM_THRESHOLD, -1)  # return nothing to the system
    _kept = True


def moves_numpy(step: object, optimizer: Optimizer) -> bool:
    """NumPy arrays as parameters"""
    return isinstance(optimizer.parameters[0].data, numpy.ndarray)


@take.variant(moves_numpy)
def take_and_keep(step: Callable[[Optimizer], None], optimizer: Optimizer) -> None:
    """freed memory is kept for the next step"""
    keep_memory()
    step(optimizer)


@contextmanager
def memory_kept() -> Iterator[None]:
    """Within this context, on Linux, memory that was freed is kept for the next array.

    glibc's limits rise by themselves, but not again once they have been set: so this context ends by setting
    the values that they reach in a program with large arrays.
    """
    global _kept
    keep_memory()
    try:
        yield
    finally:
        _kept = False
        if libc := _glibc():
            libc.mallopt(MMAP_MAX, 65_536)
            libc.mallopt(MMAP_THRESHOLD, 2**25)
            libc.mallopt(TRIM_THRESHOLD, 2**26)
            libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") else None
