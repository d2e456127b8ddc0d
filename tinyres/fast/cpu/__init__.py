"""Variants for NumPy: several cores, fewer passes over memory, fewer multiplications."""
from . import elementwise, im2col, memory, threads, winograd, winograd_rows, winograd_transforms

__all__ = ["elementwise", "im2col", "memory", "threads", "winograd", "winograd_rows", "winograd_transforms"]
