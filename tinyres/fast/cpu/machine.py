"""What follows from the machine: how much is worked on at a time. `python -m tinyres.fast` prints it.

Whatever goes through several passes should stay in a core's own cache, L2, meanwhile. And a batch should give
every core a slice, but no more than that: BLAS copies the factors of each product first, into an order that
suits the processor, which costs as much as a few dozen rows of the product.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..geometry import image_slices
from . import blas
from .cores import core_count
from .threads import Result, parallel_map

L2_DEFAULT = 2**20  # bytes, where the system does not say
L2_LIMITS = 2**18, 2**21  # a smaller cache lets slices become too small for threads, a larger one is shared


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

# From L2, in bytes. A pass takes two or three such slices; what lies beside columns and points is smaller
ELEMENTWISE_SLICE = L2 // 2
MAX_COLUMNS = 2 * L2  # fewer suit a cache better, but threads and products worse
MAX_ROW_POINTS = 2 * L2  # less suits a cache, but not threads, which wait for Python's lock at each call
MAX_SUMMED_KERNEL = L2  # a kernel at 36 points; the sums of a larger one do not stay in a cache
MIN_SLICES = max(2, core_count())  # of a batch; with more, products are smaller and calls more


def map_images(work: Callable[[slice], Result], N: int, size: int, max_size: int) -> list[Result]:
    """[work(images)] for slices of N images, each of `size`, at most `max_size` together; in several
    threads."""
    return parallel_map(work, image_slices(N, size, max_size, MIN_SLICES))


def describe() -> str:
    """What the machine is, as far as it counts here, in a line."""
    return (f"{core_count()} cores with {L2 // 1024} KiB of L2, OpenBLAS's kernels for "
            f"{blas.kernels() or 'an unknown processor'}; so large batches are cut into {MIN_SLICES} or more "
            f"slices, with up to {MAX_COLUMNS // 1024} KiB of columns")
