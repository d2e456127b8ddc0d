"""What makes tinyres fast: variants of the kernels that the core defines, each beside the reason why it pays.

The core computes the same results without this package. Of the variants that apply, a kernel takes the one
that was registered last, so a file that is more special imports the more general one. `python -m
tinyres.fast` lists them, and `with tinyres.kernel.plain():` switches them off.
"""
from . import cpu, gpu
from .cpu.memory import memory_kept
from .gpu.block import arrange
from .gpu.capture import captured

__all__ = ["arrange", "captured", "cpu", "gpu", "memory_kept"]
