"""A residual block on a GPU as six matrix products with one pass over memory after each.

Write the 3 x 3 kernel as a matrix M (3C, 3O): rows (kw, c), columns (kh, o). Store every pixel of x with its
left and right neighbour, X (pixels, 3C), and every pixel of a gradient g with the ones below and above it, G
(pixels, 3O). Then a convolution and both of its gradients are products of whole matrices:

    X @ M     (pixels, 3O)   for each pixel and kh what its row adds to a pixel above, here or below
    G @ M^T   (pixels, 3C)   for each pixel and kw what its column adds to a pixel right, here or left
    X^T @ G   (3C, 3O)       the gradient of M

What is left is to add three partial sums for each pixel. The same pass adds the shortcut, applies relu or its
gradient, and stores the result with its neighbours, ready for the next product (gpu_block.cu).

Why it is faster: what counts on a GPU is bytes moved. Forward, a convolution moves 12 images where the three
products of overlapping windows in gpu_conv.py move 14, backward 18 where they move 26, in 7 launches where
they take 12, and relu, the sum and their gradients cost no pass of their own. cuBLAS sees large matrices
without gaps.

The tensor of the block's output is a view of the middle pixels of its stack. So what a block returns must not
be written to: its neighbours would not know.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy

from ..backend import Array
from ..conv import convolution_gradients, convolve
from ..models import ResidualNetwork
from ..nn import Conv2d, residual_sum
from ..tensor import Tensor
from . import gpu

THREADS = 256  # of a block
MULTIPROCESSORS = 132  # of an H100; the products of kernel gradients are cut into about as many tiles
TILE = 128 * 128  # results that one multiprocessor computes
MIN_ROWS, MAX_CHUNKS = 512, 32  # pixels in a chunk of a kernel gradient's sum, and chunks

SUMS = {"float16": "float", "float32": "float", "float64": "double"}
TYPES = {"float16": "half", "float32": "float", "float64": "double"}
SOURCE = Path(__file__).with_suffix(".cu")
NAMES = [name for dtype in TYPES for width in (1, 16 // numpy.dtype(dtype).itemsize)
         for back in ("false", "true")
         for name in (f"stack_image<{TYPES[dtype]}, {width}, {back}>",
                      f"combine<{TYPES[dtype]}, {SUMS[dtype]}, {width}, {back}>")]
NOTHING, RELU, ADD, WHERE_POSITIVE = range(4)  # what `_combine` does to the sums

# the stacks that are alive, of images and of gradients, by the address of their first middle pixel
_stacks: dict[bool, WeakValueDictionary[int, Array]] = {
    False: WeakValueDictionary(), True: WeakValueDictionary()}


def cupy_block(shortcut: Tensor, x: Tensor, conv1: Conv2d, conv2: Conv2d) -> bool:
    """tensors on CuPy, fewer than 2**30 numbers in an image of the batch"""
    return gpu.cupy_arrays(x.data) and 0 < max(x.data.size, shortcut.data.size) < 2**30


@residual_sum.variant(cupy_block)
def residual_sum_fused(shortcut: Tensor, x: Tensor, conv1: Conv2d, conv2: Conv2d) -> Tensor:
    """relu and the sum are in the passes between the products; less than half the launches"""
    w1, w2, stride = conv1.weight, conv2.weight, conv1.stride
    m2, strides, padding = _as_matrix(w2.data), (stride, stride), (1, 1)
    if stride == 1:
        x_stack, m1 = _stacked(x.data, False), _as_matrix(w1.data)
        y_stack = _combine(_product(x_stack, m1), RELU)
    else:
        y_stack = _stack(convolve(x.data, w1.data, strides, padding), relu=True)
    out = _combine(_product(y_stack, m2), ADD, x_stack if shortcut is x else shortcut.data)

    def vjp(g: Array) -> tuple[Array | None, ...]:
        g_stack, grad_x, grad_w1, grad_w2 = _stacked(g, True), None, None, None
        if w2.requires_grad:
            grad_w2 = _kernel_gradient(y_stack, g_stack, w2)
        inner = _combine(_product(g_stack, m2.T), WHERE_POSITIVE, y_stack, backward=True)
        if stride > 1:
            grad_x, grad_w1 = convolution_gradients(_middle(inner), x.data, w1.data, strides, padding,
                                                    (x.requires_grad, w1.requires_grad))
        else:
            if w1.requires_grad:
                grad_w1 = _kernel_gradient(x_stack, inner, w1)
            if x.requires_grad:
                then, other = (ADD, g_stack) if shortcut is x else (NOTHING, None)
                grad_x = _middle(_combine(_product(inner, m1.T), then, other, backward=True))
        return (grad_x, grad_w1, grad_w2) if shortcut is x else (g, grad_x, grad_w1, grad_w2)

    return Tensor(_middle(out), parents=(x, w1, w2) if shortcut is x else (shortcut, x, w1, w2), vjp=vjp)


def arrange(network: ResidualNetwork) -> None:
    """Keep the kernels that become matrices in memory as such, so that no step has to copy them."""
    for block in network.blocks:
        for weight in [block.conv1.weight] * (block.stride == 1) + [block.conv2.weight]:
            matrix = _as_matrix(weight.data)
            weight.data = _from_matrix(matrix, weight.shape)


def _as_matrix(w: Array) -> Array:
    """M (3C, 3O), from w (3, 3, C, O): a view if w is one of a matrix."""
    return gpu.cupy.ascontiguousarray(w.transpose(1, 2, 0, 3)).reshape(3 * w.shape[2], 3 * w.shape[3])


def _from_matrix(matrix: Array, shape: tuple[int, ...]) -> Array:
    """A view of M (3C, 3O) as w (3, 3, C, O)."""
    return matrix.reshape(3, shape[2], 3, shape[3]).transpose(2, 0, 1, 3)


def _product(stack: Array, matrix: Array) -> Array:
    """Partial sums (N, H, W, 3, O) from a stack (N, H, W, 3, C)."""
    N, H, W, _, C = stack.shape
    out = gpu.cupy.empty((N, H, W, 3, matrix.shape[1] // 3), stack.dtype)
    gpu.matmul(stack.reshape(N * H * W, 3 * C), matrix, out.reshape(N * H * W, -1))
    return out


def _kernel_gradient(x_stack: Array, g_stack: Array, w: Tensor) -> Array:
    """X^T @ G as (3, 3, C, O): the sum of products over chunks of the pixels, many enough for the GPU."""
    C, O = x_stack.shape[4], g_stack.shape[4]  # noqa: E741
    pixels = x_stack.size // (3 * C)
    chunks = max(1, min(-(-MULTIPROCESSORS * TILE // (9 * C * O)), MAX_CHUNKS, pixels // MIN_ROWS))
    while pixels % chunks:
        chunks -= 1
    left, right = (stack.reshape(chunks, pixels // chunks, -1) for stack in (x_stack, g_stack))
    sums = gpu.cupy.empty((chunks, 3 * C, 3 * O), "float32" if w.dtype == "float16" else w.dtype)
    gpu.matmul(left.swapaxes(1, 2), right, sums)
    total = sums.sum(axis=0) if chunks > 1 else sums[0]
    return _from_matrix(total.astype(w.dtype, copy=False), w.shape)


def _combine(partial: Array, then: int, other: Array | None = None, backward: bool = False) -> Array:
    """The stack (N, H, W, 3, C) of what partial sums of that shape add up to. other: a stack, or an image."""
    if other is not None and other.ndim == 4:
        other = gpu.cupy.ascontiguousarray(other)
    stack = gpu.cupy.empty(partial.shape, partial.dtype)
    beside = partial if other is None else other
    width, units = _width(partial, beside, stack)
    step, start = (3 * units, units) if beside.ndim == 5 else (units, 0)
    dtype = partial.dtype.name
    _launch(f"combine<{TYPES[dtype]}, {SUMS[dtype]}, {width}, {str(backward).lower()}>",
            (partial, beside, stack), units, step, start, then)
    _stacks[backward][gpu.address(_middle(stack))] = stack
    return stack


def _stacked(image: Array, backward: bool) -> Array:
    """The stack (N, H, W, 3, C) whose middle an image (N, H, W, C) is, or else a new one."""
    stack = _stacks[backward].get(gpu.address(image))
    if stack is not None and _middle(stack).strides == image.strides and _middle(stack).shape == image.shape:
        return stack
    return _stack(image, backward)


def _stack(image: Array, backward: bool = False, relu: bool = False) -> Array:
    image = gpu.cupy.ascontiguousarray(image)
    stack = gpu.cupy.empty((*image.shape[:3], 3, image.shape[3]), image.dtype)
    width, units = _width(image, stack)
    name = f"stack_image<{TYPES[image.dtype.name]}, {width}, {str(backward).lower()}>"
    _launch(name, (image, stack), units, int(relu))
    return stack


def _middle(stack: Array) -> Array:
    return stack[:, :, :, 1]


def _width(*arrays: Array) -> tuple[int, int]:
    """(numbers in a unit, units in a pixel): units of 16 bytes, if pixels and addresses are multiples of
    that, else of one number."""
    C, itemsize = arrays[0].shape[-1], arrays[0].itemsize
    width = 16 // itemsize
    fits = C % width == 0 and all(gpu.address(array) % 16 == 0 for array in arrays)
    return (width, C // width) if fits else (1, C)


def _launch(name: str, arrays: tuple[Array, ...], units: int, *settings: int) -> None:
    """Run a kernel over the rows of the image that the last of the arrays is a stack of."""
    N, H, W = arrays[-1].shape[:3]
    across = min(64, 1 << (units - 1).bit_length())
    values = (numpy.uint32(value) for value in (N * H, H, W, units, *settings))
    _function(name)((min(N * H, 2**20),), (across, THREADS // across), (*arrays, *values))


@functools.cache
def _function(name: str) -> Callable[..., None]:
    return _module().get_function(name)


@functools.cache
def _module() -> Any:
    return gpu.cupy.RawModule(code=SOURCE.read_text(), options=("--std=c++14",), name_expressions=NAMES)
