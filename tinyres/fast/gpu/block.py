"""A residual block on a GPU as six matrix products, with one pass over memory after each.

Write the 3 x 3 kernel as a matrix M (3C, 3O): rows (kw, c), columns (kh, o). For every pixel, take from x the
three pixels side by side around it, X (pixels, 3C), and from a gradient g the three pixels one below the
other, G (pixels, 3O). Then a convolution and both of its gradients are products of whole matrices:

    X @ M     (pixels, 3O)   for each pixel and kh, what its row adds to the pixel above, here or below
    G @ M^T   (pixels, 3C)   for each pixel and kw, what its column adds to the pixel right, here or left
    X^T @ G   (3C, 3O)       the gradient of M

What remains is to add three partial sums for each pixel. The same pass adds the shortcut, applies relu or its
gradient, and stores the result where the next product finds its X or G (passes.py). In the backward pass it
also adds up the parts of a kernel's gradient.

Why it is faster: what counts on a GPU is bytes moved. Forward, a convolution moves 8 images where the three
products of overlapping windows in conv.py move 14; backward, it moves 16 where they move 26. It takes 5
launches where they take 13, and relu, the sum and their gradients need no pass of their own.
"""
from __future__ import annotations

from ...backend import Array
from ...conv import convolution_gradients, convolve
from ...nn import Conv2d, Module, ResidualBlock, residual_sum
from ...tensor import Tensor
from . import cublas, cuda, passes, precision
from .cublas import Layout, layout
from .passes import Parts, Pixels
from .uncopied_gradients import unshared

# How X @ M and G @ M^T are cut up for cuBLAS (`passes.windows`): a choice that benchmarks make
FORMS = {"columns": ("columns", "columns"), "matrix": ("columns", "matrix"), "thirds": ("thirds", "matrix")}
FORM = "matrix"


def cupy_block(shortcut: Tensor, x: Tensor, conv1: Conv2d, conv2: Conv2d) -> bool:
    """tensors on CuPy of fewer than 2**30 numbers"""
    return cuda.cupy_arrays(x.data) and 0 < max(x.data.size, shortcut.data.size) < 2**30


@residual_sum.variant(cupy_block)
def residual_sum_fused(shortcut: Tensor, x: Tensor, conv1: Conv2d, conv2: Conv2d) -> Tensor:
    """relu and the sum within the passes between the products; less than half the launches"""
    w1, w2, stride = conv1.weight, conv2.weight, conv1.stride
    m2, strides, padding = _as_matrix(w2.data), (stride, stride), (1, 1)
    if stride == 1:
        pixels, m1 = passes.pixels_of(x.data, stacked=False), _as_matrix(w1.data)
        y = passes.combine(_product(pixels, m1), passes.RELU, stacked=False)
    else:
        y = passes.lay_out(convolve(x.data, w1.data, strides, padding), stacked=False, relu=True)
    added = pixels if shortcut is x else shortcut.data
    out = passes.combine(_product(y, m2), passes.ADD, added, stacked=False)

    def vjp(g: Array) -> tuple[Array | None, ...]:
        outer, grad_x, grad_w1 = passes.pixels_of(g, stacked=True), None, None
        parts, grad_w2 = _kernel_gradient(y, outer, w2)
        inner = passes.combine(_product(outer, m2.T), passes.WHERE_POSITIVE, y, parts, stacked=True)
        if stride > 1:
            grad_x, grad_w1 = convolution_gradients(inner.image, x.data, w1.data, strides, padding,
                                                    (x.requires_grad, w1.requires_grad))
        else:
            parts, grad_w1 = _kernel_gradient(pixels, inner, w1)
            if x.requires_grad or w1.requires_grad:
                then, other = (passes.ADD, outer) if shortcut is x else (passes.NOTHING, None)
                grad_x = passes.combine(_product(inner, m1.T), then, other, parts, stacked=True).image
        return (grad_x, grad_w1, grad_w2) if shortcut is x else (g, grad_x, grad_w1, grad_w2)

    return Tensor(out.image, parents=(x, w1, w2) if shortcut is x else (shortcut, x, w1, w2), vjp=vjp)


def arrange(network: Module) -> None:
    """Store the kernels that are used as matrices in the order of those, so that no step has to copy them."""
    for block in (module for _, module in network.named_modules()
                  if isinstance(module, ResidualBlock) and module.is_papers()):
        for weight in [block.conv1.weight] * (block.stride == 1) + [block.conv2.weight]:
            if cuda.cupy_arrays(weight.data):
                weight.data = _from_matrix(_as_matrix(weight.data), weight.shape)


def _as_matrix(w: Array) -> Array:
    """M (3C, 3O) from w (3, 3, C, O): a view if w itself is a view of such a matrix."""
    return cuda.cupy.ascontiguousarray(w.transpose(1, 2, 0, 3)).reshape(3 * w.shape[2], 3 * w.shape[3])


def _from_matrix(matrix: Array, shape: tuple[int, ...]) -> Array:
    """A view of M (3C, 3O) as w (3, 3, C, O)."""
    return matrix.reshape(3, shape[2], 3, shape[3]).transpose(2, 0, 1, 3)


def _product(pixels: Pixels, matrix: Array) -> Array:
    """Partial sums (N, H, W, 3, C): X or G @ a matrix (..., 3C)."""
    if precision.tf32() and FORM != "columns":  # for Hopper's kernels: the inner dimension is contiguous
        matrix = cuda.cupy.ascontiguousarray(matrix.T).T
    shape, dtype = pixels.image.shape, matrix.dtype
    left = passes.windows(shape, dtype, pixels.stacked, FORMS[FORM][pixels.stacked])
    batch, rows, _ = left.shape
    out = cuda.cupy.empty((rows, batch, matrix.shape[1]), dtype)
    cublas.matmul(pixels.memory, matrix, out, layouts=(left, layout(matrix), layout(out.swapaxes(0, 1))))
    return passes.of_windows(out, shape)


def _kernel_gradient(x: Pixels, g: Pixels, w: Tensor) -> tuple[Parts | None, Array | None]:
    """X^T @ G in parts, and a view of their sum as (3, 3, C, O); None for both if w needs no gradient."""
    if not w.requires_grad:
        return None, None
    left, right = (passes.windows(p.image.shape, w.dtype, p.stacked, "columns") for p in (x, g))
    (batch, rows, m), (step, row, column), n = left.shape, left.strides, right.shape[2]
    parts = Parts(cuda.cupy.empty((batch, m, n), "float32" if w.dtype.itemsize == 2 else w.dtype),
                  cuda.cupy.empty((m, n), w.dtype))
    transposed = Layout((batch, m, rows), (step, column, row), w.dtype)
    cublas.matmul(x.memory, g.memory, parts.parts, layouts=(transposed, right, layout(parts.parts)))
    return parts, unshared(_from_matrix(parts.total, w.shape))
