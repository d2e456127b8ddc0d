"""A residual block on a GPU as six matrix products, with one pass over memory after four of them.

Write the 3 x 3 kernel as a matrix M (3C, 3O): rows (kw, c), columns (kh, o). For every pixel, take from x the
three pixels side by side around it, X (pixels, 3C), and from a gradient g the three pixels one below the
other, G (pixels, 3O). Then a convolution and both of its gradients are products of whole matrices:

    X @ M     (pixels, 3O)   for each pixel and kh, what its row adds to the pixel above, here or below
    G @ M^T   (pixels, 3C)   for each pixel and kw, what its column adds to the pixel right, here or left
    X^T @ G   (3C, 3O)       the gradient of M

What remains is to add three partial sums for each pixel. The same pass adds the shortcut, applies relu or its
gradient, and stores the result where the next product finds its X or G (passes.py). In the backward pass it
also adds up the parts of a kernel's gradient. All other such convolutions are computed likewise.

Why it is faster: what counts on a GPU is bytes moved. Forward, a convolution moves 8 images where the matrix
of columns moves 20; backward, it moves 16 where that moves 40. It takes 5 launches, and relu, the shortcut,
the sum and their gradients need no pass of their own.
"""
from __future__ import annotations

from ...backend import Array
from ...conv import Pair, convolution_gradients, convolve
from ...nn import Conv2d, Module, ResidualBlock, residual_sum
from ...ops import relu_gradient
from ...tensor import Tensor
from ..geometry import is_3x3_same, of_gradients
from . import conv, cublas, cuda, passes
from .cublas import Layout, layout
from .passes import Beside, Parts, Pixels
from .uncopied_gradients import unshared


def cupy_3x3(x: Array, w: Array, stride: Pair, padding: Pair) -> bool:
    """CuPy arrays of fewer than 2**30 numbers, 3 x 3, stride 1, padding 1"""
    return (cuda.cupy_arrays(x) and is_3x3_same(w, stride, padding)
            and 0 < max(x.size, x.size // x.shape[3] * w.shape[3]) < 2**30)


@convolve.variant(cupy_3x3)
def convolve_3x3(x: Array, w: Array, stride: Pair, padding: Pair) -> Array:
    """8 or 10 images moved instead of 20"""
    return _convolved(passes.pixels_of(x, stacked=False), _as_matrix(w)).image


@convolution_gradients.variant(of_gradients(cupy_3x3))
def gradients_3x3(g: Array, x: Array, w: Array, stride: Pair, padding: Pair, needs_grad: tuple[bool, bool],
                  beside: Beside | None = None) -> tuple[Array | None, Array | None]:
    """16 to 22 images moved instead of 40"""
    outer = passes.pixels_of(g, stacked=True)
    grad_x = grad_w = parts = None
    if needs_grad[1]:
        parts, grad_w = _kernel_gradient(passes.pixels_of(x, stacked=False), outer, w)
    if needs_grad[0]:
        grad_x = _convolved(outer, _as_matrix(w).T, passes.ADD, beside, parts).image
    elif parts:
        passes.add_up(parts)
    return grad_x, grad_w


def cupy_block(x: Tensor, block: ResidualBlock) -> bool:
    """tensors on CuPy of fewer than 2**30 numbers, with sides that are multiples of the stride"""
    w1, w2 = block.conv1.weight, block.conv2.weight
    alike = len({(type(tensor.data), tensor.dtype) for tensor in (x, w1, w2)}) == 1
    return (alike and x.shape[3:] == w1.shape[2:3] and not x.shape[1] % block.stride
            and not x.shape[2] % block.stride and cupy_3x3(x.data, w2.data, (1, 1), (1, 1)))


@residual_sum.variant(cupy_block)
def residual_sum_fused(x: Tensor, block: ResidualBlock) -> Tensor:
    """relu, shortcut and sum within the passes between the products; less than half the launches"""
    w1, w2, stride, before = block.conv1.weight, block.conv2.weight, block.stride, block.added_channels // 2
    m2, strides, padding = _as_matrix(w2.data), (stride, stride), (1, 1)
    pixels = passes.pixels_of(x.data, stacked=False)
    if stride == 1:
        y = _convolved(pixels, _as_matrix(w1.data), passes.RELU)
    else:
        y = passes.lay_out(convolve(x.data, w1.data, strides, padding), stacked=False, relu=True)
    out = _convolved(y, m2, passes.ADD, Beside(pixels, int(stride), -int(before)))

    def vjp(g: Array) -> tuple[Array | None, ...]:
        outer = passes.pixels_of(g, stacked=True)
        parts, grad_w2 = _kernel_gradient(y, outer, w2.data) if w2.requires_grad else (None, None)
        inner = _convolved(outer, m2.T, passes.WHERE_POSITIVE, Beside(y), parts)
        gradients = gradients_3x3 if stride == 1 else conv.gradients_on_gpu
        needs_grad = x.requires_grad, w1.requires_grad
        grad_x, grad_w1 = gradients(inner.image, x.data, w1.data, strides, padding, needs_grad,
                                    Beside(outer, int(stride), int(before)))
        return grad_x, grad_w1, grad_w2

    return Tensor(out.image, parents=(x, w1, w2), vjp=vjp)


@relu_gradient.variant(cuda.cupy_arrays)
def relu_gradient_fused(g: Array, y: Array) -> Array:
    """one launch instead of two, where no block does it"""
    return cuda.elementwise_kernel("T g, T y", "T out", "out = y > T(0) ? g : T(0)", "relu_gradient")(g, y)


def arrange(network: Module) -> None:
    """Store the kernels that are used as matrices in the order of those, so that no step has to copy them."""
    for _, layer in network.named_modules():
        if isinstance(layer, Conv2d) and layer.weight.shape[:2] == (3, 3) and all(
                size in (1, (1, 1)) for size in (layer.stride, layer.padding)):
            weight = layer.weight
            if cuda.cupy_arrays(weight.data):
                weight.data = _from_matrix(_as_matrix(weight.data), weight.shape)


def _as_matrix(w: Array) -> Array:
    """M (3C, 3O) from w (3, 3, C, O): a view if w itself is a view of such a matrix."""
    return cuda.cupy.ascontiguousarray(w.transpose(1, 2, 0, 3)).reshape(3 * w.shape[2], 3 * w.shape[3])


def _from_matrix(matrix: Array, shape: tuple[int, ...]) -> Array:
    """A view of M (3C, 3O) as w (3, 3, C, O)."""
    return matrix.reshape(3, shape[2], 3, shape[3]).transpose(2, 0, 1, 3)


def _convolved(pixels: Pixels, matrix: Array, then: int = passes.ADD, beside: Beside | None = None,
               parts: Parts | None = None) -> Pixels:
    """What the partial sums X or G @ a matrix (..., 3C) add up to, (N, H, W, C)."""
    left = passes.windows(pixels.image.shape, matrix.dtype, pixels.stacked, whole=pixels.stacked)
    batch, rows, _ = left.shape
    sums = cuda.cupy.empty((rows, batch, matrix.shape[1]), matrix.dtype)
    cublas.matmul(pixels.memory, matrix, sums, layouts=(left, layout(matrix), layout(sums.swapaxes(0, 1))))
    return passes.combine(sums.reshape(*pixels.image.shape[:3], 3, -1), then, pixels.stacked, beside, parts)


def _kernel_gradient(x: Pixels, g: Pixels, w: Array) -> tuple[Parts, Array]:
    """X^T @ G in parts, and a view of their sum as (3, 3, C, O)."""
    left, right = (passes.windows(p.image.shape, w.dtype, p.stacked) for p in (x, g))
    (batch, rows, m), (step, row, column), n = left.shape, left.strides, right.shape[2]
    parts = Parts(cuda.cupy.empty((batch, m, n), "float32" if w.dtype.itemsize == 2 else w.dtype),
                  cuda.cupy.empty((m, n), w.dtype))
    transposed = Layout((batch, m, rows), (step, column, row), w.dtype)
    cublas.matmul(x.memory, g.memory, parts.parts, layouts=(transposed, right, layout(parts.parts)))
    return parts, unshared(_from_matrix(parts.total, w.shape))
