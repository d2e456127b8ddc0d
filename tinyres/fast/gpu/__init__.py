"""Variants for CuPy: products by cuBLAS, CUDA kernels of our own between them, whole steps in one launch."""
from . import (
    block,
    capture,
    conv,
    cublas,
    cuda,
    lists,
    loss,
    loss_scale,
    passes,
    precision,
    uncopied_gradients,
)

__all__ = ["block", "capture", "conv", "cublas", "cuda", "lists", "loss", "loss_scale", "passes", "precision",
           "uncopied_gradients"]
