"""What follows from the machine: how much is worked on at a time. `python -m tinyres.fast` prints it.

Two things count. Whatever goes through several passes should stay in a core's own cache, L2, meanwhile. And a
matrix product copies its factors first, into an order that suits the processor, which costs as much as a few
dozen rows of the product; OpenBLAS has kernels for small matrices that take them uncopied for AVX-512 only.
"""
from __future__ import annotations

import re
from pathlib import Path

from . import blas
from .cores import core_count

L2_DEFAULT = 2**20  # bytes, where the system does not say
L2_LIMITS = 2**18, 2**21  # a smaller cache lets slices become too small for threads, a larger one is shared
UNCOPIED = "SkylakeX", "Cooperlake", "SapphireRapids"  # whose kernels take small matrices as they are


def l2_bytes(root: Path = Path("/")) -> int:
    """The size of a core's L2 cache: as Linux says, else L2_DEFAULT. root: the folder that holds /sys."""
    try:
        for index in root.glob("sys/devices/system/cpu/cpu0/cache/index*"):
            if (index / "level").read_text().strip() == "2":
                return int(re.fullmatch(r"(\d+)K", (index / "size").read_text().strip()).group(1)) * 1024
    except (OSError, ValueError, AttributeError):
        pass
    return L2_DEFAULT


L2 = min(max(l2_bytes(), L2_LIMITS[0]), L2_LIMITS[1])
SMALL_PRODUCTS_UNCOPIED = blas.kernels() in UNCOPIED

# From L2, in bytes. A pass takes two or three such slices; what lies beside columns and points is smaller
ELEMENTWISE_SLICE = L2 // 2
CHUNK_SIZE = L2 // 16  # numbers of one array, of four bytes, beside as many of a few other arrays
MAX_COLUMNS = L2
MAX_ROW_POINTS = 2 * L2  # less suits a cache, but not threads, which wait for Python's lock at each call
MAX_SUMMED_KERNEL = L2  # a kernel at 36 points; the sums of a larger one do not stay in a cache
# From the number of cores: more slices of a batch would busy more of them, and make smaller products
MIN_SLICES = 4 if core_count() <= 4 else 8
# From BLAS
MAX_UNCOPIED = 2**19  # multiplications of a product whose factors OpenBLAS takes uncopied, where it can
MIN_COPIED = 64  # rows of a product; with so many, copies hardly count


def describe() -> str:
    """What the machine is, as far as it counts here, in a line."""
    copied = "not copied" if SMALL_PRODUCTS_UNCOPIED else "copied"
    kernels = blas.kernels() or "an unknown processor"
    return (f"{core_count()} cores with {L2 // 1024} KiB of L2; OpenBLAS has kernels for {kernels}, by which "
            f"factors of small products are {copied}; so batches are cut into {MIN_SLICES} slices or more, "
            f"with up to {MAX_COLUMNS // 1024} KiB of columns")


def product_rows(rows: int, K: int, O: int) -> int:  # noqa: E741
    """Into how many rows at a time to cut a product (rows, K) @ (K, O): all, or 8 where that saves copies."""
    saves = SMALL_PRODUCTS_UNCOPIED and 8 * K * O <= MAX_UNCOPIED < rows * K * O and rows < MIN_COPIED
    return 8 if saves and rows % 8 == 0 else max(rows, 1)
