"""Convolution as matrix multiplication, for both backends and any kernel, stride and padding.

Lay out the window that each output pixel sees as one row of a matrix of "columns" (the name im2col comes from
the transposed layout). Then the convolution is one matrix product, and so is each of its gradients:

    out     (N OH OW, O)      = columns (N OH OW, KH KW C) @ kernel (KH KW C, O)
    grad_w  (KH KW C, O)      = columns^T @ grad_out
    columns' gradient         = grad_out @ kernel^T, each entry added back to the pixel it was copied from

Shapes: x (N, H, W, C), w (KH, KW, C, O), out (N, OH, OW, O), where OH = (H + 2 padding - KH) // stride + 1.
"""
from __future__ import annotations

from .backend import Array, xp_of
from .kernel import kernel
from .support import operation_checks as checks
from .support.numerics import quietly
from .tensor import Tensor

Pair = tuple[int, int]  # (vertical, horizontal)


def conv2d(x: Tensor, w: Tensor, stride: int | Pair = 1, padding: int | Pair = 0) -> Tensor:
    """Convolution (cross-correlation) without bias: x (N, H, W, C) -> (N, OH, OW, O).

    w: weights, (KH, KW, C, O). stride, padding, with zeros: pixels, one number or (vertical, horizontal).
    Raises TypeError for different dtypes or libraries, ValueError for shapes, strides or paddings that do not
    fit.
    """
    x, w = checks.operands("conv2d", x, w)
    s, p = checks.convolution(x, w, stride, padding)

    def vjp(g: Array) -> tuple[Array | None, Array | None]:
        return convolution_gradients(g, x.data, w.data, s, p, (x.requires_grad, w.requires_grad))

    with quietly():
        return Tensor(convolve(x.data, w.data, s, p), parents=(x, w), vjp=vjp)


@kernel
def convolve(x: Array, w: Array, stride: Pair, padding: Pair) -> Array:
    """The convolution: x (N, H, W, C), w (KH, KW, C, O) -> (N, OH, OW, O)."""
    windows = _windows(_pad(x, padding), w.shape, stride)
    matrix = w.reshape(-1, w.shape[3])
    columns = windows.reshape(-1, len(matrix))  # the copy: at stride 1 KH KW times the image
    return (columns @ matrix).reshape(*windows.shape[:3], w.shape[3])


@kernel
def convolution_gradients(g: Array, x: Array, w: Array, stride: Pair, padding: Pair,
                          needs_grad: tuple[bool, bool]) -> tuple[Array | None, Array | None]:
    """The gradients with respect to x and w, from g (N, OH, OW, O); None for one that is not needed."""
    (N, H, W, C), (KH, KW, _, O), grad_x, grad_w = x.shape, w.shape, None, None  # noqa: E741
    if needs_grad[1]:
        columns_t = _windows(_pad(x, padding), w.shape, stride).reshape(-1, KH * KW * C).T
        grad_w = (columns_t @ g.reshape(-1, O)).reshape(w.shape)
        del columns_t  # as large as what follows
    if needs_grad[0]:
        padded = xp_of(g).zeros((N, H + 2 * padding[0], W + 2 * padding[1], C), g.dtype)
        windows = _windows(padded, w.shape, stride)
        columns_gradient = (g.reshape(-1, O) @ w.reshape(-1, O).T).reshape(windows.shape)
        for i in range(KH):  # windows overlap, but at one position (i, j) no two of them see the same pixel
            for j in range(KW):
                windows[:, :, :, i, j] += columns_gradient[:, :, :, i, j]  # a view: this adds into padded
        grad_x = padded[:, padding[0]:padding[0] + H, padding[1]:padding[1] + W]
    return grad_x, grad_w


def _pad(x: Array, padding: Pair) -> Array:
    return xp_of(x).pad(x, [(0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)])


def _windows(padded: Array, w_shape: tuple[int, ...], stride: Pair) -> Array:
    """A view of every window, (N, OH, OW, KH, KW, C): no copy, the windows share the image's memory."""
    OH, OW = output_size(padded.shape, w_shape, stride, (0, 0))
    n, h, w, c = padded.strides
    return xp_of(padded).lib.stride_tricks.as_strided(
        padded, (len(padded), OH, OW, *w_shape[:3]), (n, h * stride[0], w * stride[1], h, w, c))


def output_size(x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Pair, padding: Pair) -> Pair:
    """(OH, OW); below 1 where the kernel does not fit into the padded image."""
    OH, OW = ((x_shape[1 + i] + 2 * padding[i] - w_shape[i]) // stride[i] + 1 for i in (0, 1))
    return OH, OW
