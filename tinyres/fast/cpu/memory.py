"""Memory that is kept from step to step.

A training step frees its arrays and asks for the same ones again. The C library hands large ones back to the
system each time and gets new pages, which the system fills with zeros before use: a third of the time of a
step. Within `memory_kept`, as in `tinyres.training.train`, it keeps them.
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

    Afterwards the limits are those at which glibc's own, rising ones end in a program with large arrays: it
    cannot be told to let them rise again.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(MMAP_MAX, 0)  # no memory of its own for a large array
    libc.mallopt(TRIM_THRESHOLD, -1)  # give nothing back
    try:
        yield
    finally:
        libc.mallopt(MMAP_MAX, 65_536)
        libc.mallopt(MMAP_THRESHOLD, 2**25)
        libc.mallopt(TRIM_THRESHOLD, 2**26)
        libc.malloc_trim(0)
