"""What CuPy needs to be told to be fast on a GPU: matrix products, fused kernels, a step launched whole.

Products. CuPy's `matmul` of batches widens float16 and ignores TF32, and its calls of cuBLAS refuse to be
captured in a graph. So `matmul` here calls cuBLAS itself, on a handle of its own, with any strides between
rows and between matrices: the windows of a convolution are such a batch without being copied (conv/gpu.py).

Kernels. Elementwise work on a GPU costs what its memory traffic costs, so steps that follow one another are
one kernel: `relu_gradient` and `FlatSGD`.

Launches. A training step is some hundreds of kernels, each of which Python takes longer to launch than the
GPU to run. `Captured` records them once and launches all with one call.

This file can be imported without CuPy; calling anything in it needs a GPU.
"""
from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy

from . import backend
from .backend import Array

if TYPE_CHECKING:
    from .tensor import Tensor

cupy = backend.cupy

WORKSPACE_BYTES = 2**25  # for cuBLAS; given once, since a captured graph must not ask for memory
WARM_UP_STEPS = 3  # before capturing, so that kernels are compiled and memory is there

# cudaDataType_t and cublasComputeType_t of the cuBLAS documentation
DATA_TYPE = {"float16": 2, "float32": 0, "float64": 1}
COMPUTE_TYPE = {"float32": 68, "tf32": 77, "float64": 70}


def matmul(a: Array, b: Array, out: Array, accumulate: bool = False) -> Array:
    """out = a @ b, or out += a @ b, for (m, k), (k, n), (m, n), or batches of them with one axis in front.

    Of the last two axes of each array one must be contiguous; all other strides are free: rows may overlap.
    a and b have one dtype; out has it too, or is float32 where they are float16. float16 is added up in
    float32; float32 is multiplied as `backend.precision()` says.
    Raises ValueError for shapes or strides that cuBLAS cannot take, RuntimeError if cuBLAS fails.
    """
    if 0 in (*a.shape, *b.shape, *out.shape):
        if not accumulate:
            out.fill(0)
        return out
    transposes, sizes, leading, strides, batch = gemm_arguments(a, b, out)
    double = out.dtype == "float64"
    tf32 = a.dtype == "float32" and backend.precision() == "tf32"
    precision = "float64" if double else "tf32" if tf32 else "float32"
    scalar = ctypes.c_double if double else ctypes.c_float
    one, beta = scalar(1), scalar(1 if accumulate else 0)
    library, handle = _cublas(cupy.cuda.Device().id)
    _set_stream(library, handle)
    # cuBLAS counts along columns: it sees the transpose of each array, and out^T = b^T a^T
    status = library.cublasGemmStridedBatchedEx(
        handle, transposes[1], transposes[0], *map(ctypes.c_int, sizes), ctypes.byref(one),
        ctypes.c_void_p(b.data.ptr), DATA_TYPE[b.dtype.name], leading[1], ctypes.c_longlong(strides[1]),
        ctypes.c_void_p(a.data.ptr), DATA_TYPE[a.dtype.name], leading[0], ctypes.c_longlong(strides[0]),
        ctypes.byref(beta),
        ctypes.c_void_p(out.data.ptr), DATA_TYPE[out.dtype.name], leading[2], ctypes.c_longlong(strides[2]),
        batch, COMPUTE_TYPE[precision], -1)
    if status:
        raise RuntimeError(f"cuBLAS refused {a.shape} @ {b.shape} -> {out.shape} of {a.dtype} with status "
                           f"{status}: see cublasStatus_t in its documentation")
    return out


def gemm_arguments(a: Array, b: Array, out: Array) -> tuple[
        tuple[int, int], tuple[int, int, int], tuple[int, int, int], tuple[int, int, int], int]:
    """(a and b transposed or not, (n, m, k), leading dimensions, strides between matrices, how many).

    All of a, b, out in this order, counted in numbers, for the call of cuBLAS in `matmul`. It looks at shapes
    and strides only, so arrays of either library will do.
    """
    batch = out.shape[0] if out.ndim == 3 else 1
    m, k = a.shape[-2:]
    n = b.shape[-1]
    if b.shape[-2:] != (k, n) or out.shape[-2:] != (m, n) or any(
            array.ndim == 3 and array.shape[0] not in (1, batch) for array in (a, b)):
        raise ValueError(f"matmul: shapes {a.shape} @ {b.shape} -> {out.shape} do not fit: expected "
                         "(m, k) @ (k, n) -> (m, n), or batches of them")
    transposes, leading, strides = [], [], []
    for array in (a, b, out):
        row, column = (stride // array.itemsize for stride in array.strides[-2:])
        rows, columns = array.shape[-2:]
        if (column == 1 or columns == 1) and (row >= columns or rows == 1):
            transposes.append(0)
            leading.append(max(row, columns))
        elif (row == 1 or rows == 1) and (column >= rows or columns == 1) and array is not out:
            transposes.append(1)
            leading.append(max(column, rows))
        else:
            raise ValueError(f"matmul: an array of shape {array.shape} has strides of {row} and {column} "
                             "numbers: one of its last two axes must be contiguous, of out the last; copy it")
        one = array.ndim < 3 or array.shape[0] == 1
        strides.append(0 if one else array.strides[0] // array.itemsize)
    return tuple(transposes[:2]), (n, m, k), tuple(leading), tuple(strides), batch


@functools.cache
def _cublas(device: int) -> tuple[ctypes.CDLL, ctypes.c_void_p]:
    """The cuBLAS that CuPy has loaded, and a handle for a device."""
    from cupy_backends.cuda.libs import cublas  # loads the library, so that its name below finds it
    major = cublas.getVersion(cupy.cuda.Device(device).cublas_handle) // 10_000
    names = [f"cublas64_{major}.dll"] if sys.platform == "win32" else [f"libcublas.so.{major}"]
    library, handle = ctypes.CDLL(names[0]), ctypes.c_void_p()
    if status := library.cublasCreate_v2(ctypes.byref(handle)):
        raise RuntimeError(f"cublasCreate failed with status {status}: is the GPU's memory full?")
    return library, handle


_streams: dict[int, int] = {}  # by handle: the stream it works on
_workspaces: dict[tuple[int, int], Any] = {}  # by handle and stream; a captured graph refers to its own


def _set_stream(library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
    """Let a handle work on CuPy's current stream, with a workspace that stays."""
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


@functools.cache
def _kernel(name: str) -> Any:
    return {
        "relu_gradient": lambda: cupy.ElementwiseKernel(
            "T g, T y", "T out", "out = y > T(0) ? g : T(0)", "tinyres_relu_gradient"),
        # the settings lie on the GPU, so that a captured step sees them change
        "sgd": lambda: cupy.ElementwiseKernel(
            "float32 gradient, raw float32 settings", "float32 weight, float32 velocity",
            "velocity = settings[1] * velocity + settings[3] * gradient + settings[2] * weight;"
            "weight -= settings[0] * velocity", "tinyres_sgd"),
    }[name]()


def relu_gradient(g: Array, y: Array) -> Array:
    """g where y > 0, else 0, in one pass: arrays of one shape and dtype."""
    return _kernel("relu_gradient")(g, y)


class FlatSGD:
    """Weights, velocities and gradients of many parameters as three flat arrays, for one kernel a step.

    The parameters' data and the list of velocities become views of the flat arrays, with the same values, and
    `backward` writes the parameters' gradients there.
    """

    def __init__(self, parameters: list[Tensor], velocities: list[Array]) -> None:
        self.weights = cupy.concatenate([parameter.data.ravel() for parameter in parameters])
        self.velocities, self.gradients = cupy.zeros_like(self.weights), cupy.zeros_like(self.weights)
        self.settings, self.known = cupy.zeros(4, cupy.float32), None
        start = 0
        for i, parameter in enumerate(parameters):
            size, shape = parameter.data.size, parameter.shape
            parameter.data, velocities[i], parameter.grad_memory = (
                flat[start:start + size].reshape(shape)
                for flat in (self.weights, self.velocities, self.gradients))
            start += size
        self.views = [(parameter, parameter.data, parameter.grad_memory) for parameter in parameters]

    def set(self, *settings: float) -> None:
        """(learning rate, momentum, weight decay, factor of the gradients) for the next steps."""
        if settings != self.known:
            self.settings.set(numpy.array(settings, numpy.float32))
            self.known = settings

    def step(self) -> None:
        """v = momentum v + factor gradient + weight_decay w, then w -= lr v, for all parameters.

        Raises RuntimeError if a parameter's arrays are no longer those made here.
        """
        if any(parameter.data is not data or parameter.grad_memory is not memory
               for parameter, data, memory in self.views):
            raise RuntimeError("SGD: a parameter's array was replaced, or another SGD took it: make a new "
                               "one")
        _kernel("sgd")(self.gradients, self.settings, self.weights, self.velocities)


class Captured:
    """A function without arguments whose GPU work is launched whole from its fourth call on.

    The first calls run as they are, on a stream with memory of its own; then one is recorded. The function
    must do the same work each time, on the same arrays, and fetch nothing; what it returns is the same arrays
    each time.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function, self.calls, self.graph = function, 0, None
        self.stream, self.pool = cupy.cuda.Stream(non_blocking=True), cupy.cuda.MemoryPool()
        self.result: Any = None

    def __call__(self) -> Any:
        self.calls += 1
        outside = cupy.cuda.get_current_stream()
        with self._after(outside):
            if self.graph is not None:
                self.graph.launch(self.stream)
            elif self.calls <= WARM_UP_STEPS:
                self.result = self.function()
            else:
                self.stream.begin_capture()
                try:
                    self.result = self.function()
                except BaseException:
                    with suppress(Exception):  # the first error says why
                        self.stream.end_capture()
                    raise
                self.graph = self.stream.end_capture()
                self.graph.launch(self.stream)
        return self.result

    @contextmanager
    def _after(self, outside: Any) -> Iterator[None]:
        """Within this context work goes to the own stream, after what `outside` has, before what it gets."""
        self.stream.wait_event(outside.record())
        with self.stream, cupy.cuda.using_allocator(self.pool.malloc):
            yield
        outside.wait_event(self.stream.record())
