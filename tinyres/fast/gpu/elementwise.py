"""ReLU's gradient on a GPU.

Why it is faster: elementwise work on a GPU costs what its memory traffic costs, so the comparison and the
choice, two steps of the definition, are one CUDA kernel.
"""
from __future__ import annotations

from ...backend import Array
from ...ops import relu_gradient
from .cuda import cupy_arrays, elementwise_kernel


@relu_gradient.variant(cupy_arrays)
def relu_gradient_fused(g: Array, y: Array) -> Array:
    """one pass over memory instead of two"""
    return elementwise_kernel("T g, T y", "T out", "out = y > T(0) ? g : T(0)", "tinyres_relu_gradient")(g, y)
