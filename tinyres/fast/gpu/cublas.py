"""Matrix products on a GPU, by cuBLAS.

For batches, CuPy's `matmul` widens float16 and ignores TF32, and its calls of cuBLAS cannot be captured in a
graph. So `matmul` here calls cuBLAS itself, on a handle of its own, and takes any strides between rows and
between matrices: the windows of a convolution are such a batch without being copied (conv.py).
"""
from __future__ import annotations

import ctypes
import functools
import sys
from typing import Any, NamedTuple

import numpy

from ...arithmetic import matrix_product
from ...backend import Array
from . import precision
from .cuda import cupy, cupy_arrays

WORKSPACE_BYTES = 2**25  # for cuBLAS; reserved once, since a captured graph must not allocate memory

# cudaDataType_t and cublasComputeType_t of the cuBLAS documentation
DATA_TYPE = {numpy.dtype("float16"): 2, numpy.dtype("float32"): 0, numpy.dtype("float64"): 1}
COMPUTE_TYPE = {"float32": 68, "tf32": 77, "float64": 70}


class Layout(NamedTuple):
    """How an array lies in memory. Arrays have these attributes, too."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: numpy.dtype


def layout(array: Array) -> Layout:
    """How an array lies in memory."""
    return Layout(array.shape, array.strides, array.dtype)


def cupy_matrices(a: Array, b: Array) -> bool:
    """CuPy matrices"""
    return cupy_arrays(a) and a.ndim == b.ndim == 2


@matrix_product.variant(cupy_matrices)
def product_by_cublas(a: Array, b: Array) -> Array:
    """in the chosen precision, and with nothing that a graph cannot capture"""
    out = cupy.empty((len(a), b.shape[1]), a.dtype)
    a, b = (matrix if matrix.flags.c_contiguous or matrix.flags.f_contiguous else
            cupy.ascontiguousarray(matrix) for matrix in (a, b))
    return matmul(a, b, out)


def matmul(a: Array, b: Array, out: Array, layouts: tuple[Layout, Layout, Layout] | None = None) -> Array:
    """out = a @ b for (m, k), (k, n), (m, n), or batches of them with one axis in front.

    One of the last two axes of each array must be contiguous; all other strides are free, so rows may
    overlap. a and b have one dtype; out has the same, or float32 where theirs is float16. float16 is added up
    in float32; `precision.tf32()` decides how float32 is multiplied. layouts: how to see a, b and out from
    where they begin, if not as they are; it takes Python less time than views.
    Raises ValueError for shapes or strides that cuBLAS cannot take, RuntimeError if cuBLAS fails.
    """
    layouts = layouts or (layout(a), layout(b), layout(out))
    arguments = _arguments(*layouts, precision.tf32())
    if arguments is None:
        out.fill(0)
        return out
    first, after_b, after_a, after_out = arguments
    library, handle = _cublas(cupy.cuda.Device().id)
    _set_stream(library, handle)
    pointer = ctypes.c_void_p
    status = library.cublasGemmStridedBatchedEx(
        handle, *first, pointer(b.data.ptr), *after_b, pointer(a.data.ptr), *after_a, pointer(out.data.ptr),
        *after_out)
    if status:
        raise RuntimeError(f"cuBLAS refused a product a @ b -> out of {layouts} with status {status}: see "
                           "cublasStatus_t in its documentation")
    return out


@functools.lru_cache(maxsize=4096)
def _arguments(a: Layout, b: Layout, out: Layout, tf32: bool) -> tuple[tuple[Any, ...], ...] | None:
    """The arguments of cublasGemmStridedBatchedEx around the addresses of b, a and out; None for arrays
    without numbers. Worked out once and kept, for Python takes longer to do so than a GPU to multiply."""
    if 0 in (*a.shape, *b.shape, *out.shape):
        return None
    transposes, sizes, leading, strides, batch = gemm_arguments(a, b, out)
    double = out.dtype == "float64"
    products = "float64" if double else "tf32" if tf32 and a.dtype == "float32" else "float32"
    scalar = ctypes.c_double if double else ctypes.c_float
    one, zero = (ctypes.byref(scalar(value)) for value in (1, 0))
    of_a, of_b, of_out = ((DATA_TYPE[array.dtype], rows_apart, ctypes.c_longlong(stride))
                          for array, rows_apart, stride in zip((a, b, out), leading, strides, strict=True))
    # cuBLAS counts along columns: it sees the transpose of each array, and out^T = b^T a^T
    return ((transposes[1], transposes[0], *map(ctypes.c_int, sizes), one), of_b, (*of_a, zero),
            (*of_out, batch, COMPUTE_TYPE[products], -1))


def gemm_arguments(a: Layout, b: Layout, out: Layout) -> tuple[
        tuple[int, int], tuple[int, int, int], tuple[int, int, int], tuple[int, int, int], int]:
    """(whether a and b are transposed, (n, m, k), leading dimensions, strides between matrices, how many
    matrices), for the call of cuBLAS in `matmul`.

    Dimensions and strides are those of a, b, out, in this order, counted in numbers.
    """
    batch = out.shape[0] if len(out.shape) == 3 else 1
    m, k = a.shape[-2:]
    n = b.shape[-1]
    if b.shape[-2:] != (k, n) or out.shape[-2:] != (m, n) or any(
            len(array.shape) == 3 and array.shape[0] not in (1, batch) for array in (a, b)):
        raise ValueError(f"matmul: shapes {a.shape} @ {b.shape} -> {out.shape} do not fit: expected "
                         "(m, k) @ (k, n) -> (m, n), or batches of them")
    transposes, leading, strides = [], [], []
    for i, array in enumerate((a, b, out)):
        step, row, column = (stride // array.dtype.itemsize for stride in (0, *array.strides)[-3:])
        rows, columns = array.shape[-2:]
        if (column == 1 or columns == 1) and (row >= columns or rows == 1):
            transposes.append(0)
            leading.append(max(row, columns))
        elif (row == 1 or rows == 1) and (column >= rows or columns == 1) and i < 2:
            transposes.append(1)
            leading.append(max(column, rows))
        else:
            raise ValueError(f"matmul: an array of shape {array.shape} has strides of {row} and {column} "
                             "numbers: one of its last two axes must be contiguous, of out the last; copy it")
        strides.append(0 if array.shape[:-2] == (1,) else step)
    return tuple(transposes[:2]), (n, m, k), tuple(leading), tuple(strides), batch


@functools.cache
def _cublas(device: int) -> tuple[ctypes.CDLL, ctypes.c_void_p]:
    """The cuBLAS that CuPy has loaded, and a handle for a device."""
    from cupy_backends.cuda.libs import cublas  # loads the library that is found by its name below
    major = cublas.getVersion(cupy.cuda.Device(device).cublas_handle) // 10_000
    names = [f"cublas64_{major}.dll"] if sys.platform == "win32" else [f"libcublas.so.{major}"]
    library, handle = ctypes.CDLL(names[0]), ctypes.c_void_p()
    if status := library.cublasCreate_v2(ctypes.byref(handle)):
        raise RuntimeError(f"cublasCreate failed with status {status}: is the GPU's memory full?")
    return library, handle


_streams: dict[int, int] = {}  # by handle: the stream that it works on
_workspaces: dict[tuple[int, int], Any] = {}  # by handle and stream; a captured graph needs its own


def _set_stream(library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
    """Make a handle work on CuPy's current stream, with a workspace that is kept."""
    stream = cupy.cuda.get_current_stream().ptr
    if _streams.get(handle.value) == stream:
        return
    key = handle.value, stream
    if key not in _workspaces:
        _workspaces[key] = cupy.cuda.alloc(WORKSPACE_BYTES)
    library.cublasSetStream_v2(handle, ctypes.c_void_p(stream))  # this resets the workspace
    library.cublasSetWorkspace_v2(handle, ctypes.c_void_p(_workspaces[key].ptr),
                                  ctypes.c_size_t(WORKSPACE_BYTES))
    _streams[handle.value] = stream


def release(stream: int) -> None:
    """Give back the workspaces of a stream that does no more work."""
    for handle, known in list(_workspaces):
        if known == stream:
            del _workspaces[handle, known]
    for handle, current in list(_streams.items()):
        if current == stream:
            del _streams[handle]
