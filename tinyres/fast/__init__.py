"""What makes tinyres fast: variants of the kernels that the core defines, each beside the reason why it pays.

The core computes the same without this package. Of the variants that apply, a kernel takes the one that was
registered last: a file that is more special imports the more general one. `python -m tinyres.fast` lists
them, and `with tinyres.backend.plain():` switches them off. One is off until asked for (gpu_implicit.py).
"""
from . import (
    capture,
    elementwise,
    gpu,
    gpu_block,
    gpu_conv,
    gpu_implicit,
    gpu_passes,
    gpu_sgd,
    handover,
    precision,
    sliced,
    strided,
    threads,
    winograd,
    winograd_rows,
)
from .threads import memory_kept

__all__ = ["capture", "elementwise", "gpu", "gpu_block", "gpu_conv", "gpu_implicit", "gpu_passes", "gpu_sgd",
           "handover", "memory_kept", "precision", "sliced", "strided", "threads", "winograd",
           "winograd_rows"]
