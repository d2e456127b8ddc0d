"""3 x 3 convolution as implicit GEMM: one CUDA kernel, and nothing in memory but images and weights.

A convolution is the product of its matrix of columns with its kernel (tinyres/conv.py). A GPU computes a
product tile by tile: a block of threads copies a tile of each factor into shared memory, multiplies the two
on tensor cores, and goes on to the next. A tile of the matrix of columns can just as well be cut from the
image at that moment, with zeros beyond the border: the matrix itself remains implicit. Both gradients are
such products too, with the columns of the output's gradient and with those of the image (implicit.cu).

Why it should be faster: what counts on a GPU is bytes moved. A convolution reads its image and writes its
result, two images where conv.py moves 14, in one launch. Pixels that windows share are read again, but from
the caches. It makes the same multiplications as cuBLAS, though hardly at the rate of cuBLAS.

It is off unless `use(True)` is called, because no GPU has run it yet. Layer by layer, `python
tests/benchmarks/gpu_implicit.py` will tell whether it pays. The method is that of Chetlur et al. (2014),
"cuDNN: Efficient Primitives for Deep Learning". The instructions for tensor cores are written in PTX, not
with CUDA's mma.h, which includes a header that is missing from the CUDA packages installed with CuPy.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy

from ... import backend
from ...backend import Array
from ...conv import Pair, convolution_gradients, convolve, output_size
from ...nn import Conv2d, residual_sum
from ...tensor import Tensor
from ..geometry import of_gradients
from . import block, conv, cuda, precision  # noqa: F401, block and conv so that what follows is tried first
from .uncopied_gradients import unshared

MIN_CAPABILITY = 80  # an A100's: asynchronous copies and TF32
THREADS = 128  # of a block
ROWS, COLUMNS = 128, (64, 128)  # of a block's tile of results
STAGES, ROW_BYTES = 3, 80  # a tile in shared memory has rows of 64 bytes, and 16 more to keep banks apart
MULTIPROCESSORS = 132  # of an H100, each with room for two blocks: a kernel's gradient is cut into that many
MIN_PIXELS = 512  # in one partial sum of a kernel's gradient

FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT = range(3)
DTYPES = "float16", "float32"
SOURCE = Path(__file__).with_suffix(".cu")


def _name(dtype: str, width: int, product: int) -> str:
    result = cuda.SUMS[dtype] if product == KERNEL_GRADIENT else cuda.NUMBERS[dtype]
    return f"implicit_gemm<{cuda.NUMBERS[dtype]}, {result}, {width}, {product}>"


NAMES = tuple(_name(dtype, width, product) for dtype in DTYPES for width in COLUMNS
              for product in (FORWARD, INPUT_GRADIENT, KERNEL_GRADIENT))

_on = False


def use(on: bool) -> None:
    """Choose whether this file computes the 3 x 3 convolutions that it can compute, from here on.

    Raises ValueError if the backend in use is NumPy, or the GPU has no tensor cores for TF32.
    """
    global _on
    if on and backend.current() is not cuda.cupy:
        raise ValueError("implicit GEMM needs a GPU: choose it with tinyres.backend.use('cupy') first")
    if on and int(cuda.cupy.cuda.Device().compute_capability) < MIN_CAPABILITY:
        raise ValueError(f"implicit GEMM needs compute capability {MIN_CAPABILITY} or more, and this "
                         f"GPU has {cuda.cupy.cuda.Device().compute_capability}: leave it off")
    _on = on


def for_tensor_cores(x: Array, w: Array, stride: Pair, padding: Pair) -> bool:
    """CuPy arrays if switched on: 3 x 3 kernel, stride 1 or 2, padding 1, channels multiples of 8, float16
    or TF32"""
    C, O = w.shape[2:]  # noqa: E741
    return (_on and cuda.cupy_arrays(x) and w.shape[:2] == (3, 3) and padding == (1, 1)
            and stride in ((1, 1), (2, 2)) and C % 8 == O % 8 == 0
            and (x.dtype == "float16" or x.dtype == "float32" and precision.tf32())
            and min(x.size, w.size) > 0
            and max(x.size, x.size // C * O, w.size) < 2**31)  # the kernel counts in 32 bits


def block_for_tensor_cores(shortcut: Tensor, x: Tensor, conv1: Conv2d, conv2: Conv2d) -> bool:
    """tensors on CuPy if switched on, where implicit GEMM can compute both convolutions"""
    return all(for_tensor_cores(x.data, layer.weight.data, (stride, stride), (1, 1))
               for layer, stride in ((conv1, conv1.stride), (conv2, 1)))


@convolve.variant(for_tensor_cores)
def convolve_implicit(x: Array, w: Array, stride: Pair, padding: Pair) -> Array:
    """one CUDA kernel, no copy of the image; not measured yet"""
    C, O = w.shape[2:]  # noqa: E741
    OH, OW = output_size(x.shape, w.shape, stride, padding)
    out = cuda.cupy.empty((len(x), OH, OW, O), x.dtype)
    return _multiply(FORWARD, x, w, out, (OH, OW), O, stride[0])


@convolution_gradients.variant(of_gradients(for_tensor_cores))
def gradients_implicit(g: Array, x: Array, w: Array, stride: Pair, padding: Pair,
                       needs_grad: tuple[bool, bool]) -> tuple[Array | None, Array | None]:
    """one CUDA kernel for each gradient, no copy of images; not measured yet"""
    grad_x, grad_w, (C, O) = None, None, w.shape[2:]  # noqa: E741
    if needs_grad[0]:  # with stride 2, three of four multiplications are by zero
        out = cuda.cupy.empty(x.shape, x.dtype)
        grad_x = _multiply(INPUT_GRADIENT, g, w, out, x.shape[1:3], C, skip=stride[0] - 1)
    if needs_grad[1]:
        chunks, steps = _chunks(g, w)
        sums = cuda.cupy.empty((chunks, *w.shape), "float32")
        _multiply(KERNEL_GRADIENT, x, g, sums, g.shape[1:3], O, stride[0], chunks=chunks, steps=steps)
        total = sums.sum(axis=0) if chunks > 1 else sums[0]
        grad_w = unshared(total.astype(w.dtype, copy=False))
    return grad_x, grad_w


@residual_sum.variant(block_for_tensor_cores)
def residual_sum_of_convolutions(shortcut: Tensor, x: Tensor, conv1: Conv2d, conv2: Conv2d) -> Tensor:
    """the definition, which leaves both convolutions to implicit GEMM; not measured yet"""
    return residual_sum.definition(shortcut, x, conv1, conv2)


def _inner_step(dtype: str) -> int:
    """How far a block goes along the inner dimension in one step: the numbers that 64 bytes hold."""
    return 32 if dtype == "float16" else 16


def _chunks(g: Array, w: Array) -> tuple[int, int]:
    """(partial sums of a kernel's gradient, steps in each): enough sums to keep a GPU busy, none empty."""
    pixels, step = g.size // g.shape[3], _inner_step(g.dtype.name)
    tiles = -(-9 * w.shape[2] // ROWS) * -(-w.shape[3] // _width(w.shape[3]))
    chunks = max(1, min(2 * MULTIPROCESSORS // tiles, pixels // MIN_PIXELS))
    steps = -(-pixels // (chunks * step))
    return -(-pixels // (steps * step)), steps


def _width(columns: int, rows: int | None = None) -> int:
    """Columns of a tile: 128 if that divides `columns` and, given `rows`, keeps all multiprocessors busy."""
    small, large = COLUMNS
    busy = rows is None or -(-rows // ROWS) * (columns // large) >= MULTIPROCESSORS
    return large if columns % large == 0 and busy else small


def _multiply(product: int, image: Array, matrix: Array, out: Array, size: Pair, columns: int,
              stride: int = 1, skip: int = 0, chunks: int = 1, steps: int | None = None) -> Array:
    """Launch the CUDA kernel with the arguments that implicit.cu describes; returns out."""
    image, matrix = _aligned(image), _aligned(matrix)
    N, H, W, C = image.shape
    if product == KERNEL_GRADIENT:
        rows, width = 9 * C, _width(columns)
    else:
        rows = N * size[0] * size[1]
        width, steps = _width(columns, rows), -(-9 * C // _inner_step(image.dtype.name))
    blocks = -(-rows // ROWS) * -(-columns // width)
    numbers = (numpy.int32(number) for number in (N, H, W, C, *size, columns, stride, skip, steps))
    function = _function(_name(image.dtype.name, width, product))
    function((blocks, chunks), (THREADS,), (image, matrix, out, *numbers), shared_mem=_shared_bytes(width))
    return out


def _aligned(array: Array) -> Array:
    """The array, or a copy if it has gaps or does not start at a multiple of 16 bytes."""
    return array if array.flags.c_contiguous and cuda.address(array) % 16 == 0 else array.copy()


def _shared_bytes(width: int) -> int:
    return STAGES * (ROWS + width) * ROW_BYTES


@functools.cache
def _function(name: str) -> Callable[..., None]:
    function = cuda.function(SOURCE, NAMES, name)
    function.max_dynamic_shared_size_bytes = _shared_bytes(max(COLUMNS))
    return function
