"""Memory that is kept from one training step to the next.

A training step frees its arrays and asks for the same ones again. The C library hands large ones back to the
system each time and gets new pages, which the system fills with zeros before use: this takes a third of the
time of a step. Within `memory_kept`, as in `tinyres.training.train`, the C library keeps them.
"""
from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

MMAP_MAX, MMAP_THRESHOLD, TRIM_THRESHOLD = -4, -3, -1  # options of mallopt, from malloc.h


@contextmanager
def memory_kept() -> Iterator[None]:
    """Within this context, on Linux, memory that was freed is kept for the next array.

    glibc's limits rise by themselves, but not again once they have been set: so this context ends by setting
    the values that they reach in a program with large arrays.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(MMAP_MAX, 0)  # no separate mapping for a large array
    libc.mallopt(TRIM_THRESHOLD, -1)  # return nothing to the system
    try:
        yield
    finally:
        libc.mallopt(MMAP_MAX, 65_536)
        libc.mallopt(MMAP_THRESHOLD, 2**25)
        libc.mallopt(TRIM_THRESHOLD, 2**26)
        libc.malloc_trim(0)
