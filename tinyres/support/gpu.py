"""Whether CuPy can compute here."""
from __future__ import annotations

import functools

try:
    import cupy
except ImportError:
    cupy = None


@functools.cache
def why_no_gpu() -> str:
    """The reason why CuPy cannot compute here and the remedy, or "" if it can. Determined once per
    process."""
    if cupy is None:
        return "the package CuPy is not installed: pip install -e '.[cuda12]', or '.[cuda13]' for CUDA 13"
    if not cupy.is_available():
        return "CuPy finds no NVIDIA GPU: check that `nvidia-smi` lists one and that its driver is installed"
    try:  # missing CUDA headers only show when the first kernel is compiled
        probe = cupy.ElementwiseKernel("float32 x", "float32 y", "y = x + 1", "tinyres_probe")
        probe(cupy.zeros(1, cupy.float32)).get()
    except Exception as error:
        return f"CuPy cannot run a kernel ({error}): install it with its CUDA headers, '.[cuda12]'"
    return ""


def gpu_available() -> bool:
    """Whether CuPy is installed, finds a GPU and can run a kernel on it."""
    return why_no_gpu() == ""
