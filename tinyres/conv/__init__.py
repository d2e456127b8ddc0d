"""Convolution as a differentiable operation. The files beside this one compute it; read im2col.py first."""
from __future__ import annotations

from numbers import Integral

from ..backend import Array
from ..tensor import Tensor, operands
from . import gpu, im2col, neighbours, sliced, winograd

__all__ = ["conv2d"]

# The first one that applies: gpu takes all of CuPy's arrays, winograd 3 x 3 kernels with many channels,
# neighbours the other 3 x 3 ones, sliced what is left, with im2col on slices. With () it is im2col alone.
FAST_PATHS = (gpu, winograd, neighbours, sliced)


def conv2d(x: Tensor, w: Tensor, stride: int | tuple[int, int] = 1,
           padding: int | tuple[int, int] = 0) -> Tensor:
    """Convolution without bias (cross-correlation, as in every framework): x (N, H, W, C) -> (N, OH, OW, O).

    w: kernel, (KH, KW, C, O). stride, padding: pixels, one number or (vertical, horizontal); the padding is
    zeros. OH = (H + 2 padding - KH) // stride + 1, and OW likewise. A float16 x takes a float32 w too: w is
    rounded to float16 for the product, and its gradient is float32.
    Raises TypeError for different dtypes or libraries, ValueError if the channels differ, the kernel does not
    fit into the padded image, or stride or padding is not a whole number (stride >= 1, padding >= 0).
    """
    if not (isinstance(x, Tensor) and isinstance(w, Tensor) and (x.dtype, w.dtype) == ("float16", "float32")):
        x, w = operands("conv2d", x, w)
    stride, padding = _pair("stride", stride, 1), _pair("padding", padding, 0)
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2]:
        raise ValueError(f"conv2d: x {x.shape} and w {w.shape} do not fit: expected (N, H, W, C) and (KH, "
                         "KW, C, O)")
    if 0 in w.shape or min(im2col.output_size(x.shape, w.shape, stride, padding)) < 1:
        raise ValueError(f"conv2d: a kernel of {w.shape[0]} x {w.shape[1]} with {w.shape[2]} -> {w.shape[3]} "
                         f"channels does not fit an image of {x.shape[1]} x {x.shape[2]} padded by {padding}")

    method = next((fast for fast in FAST_PATHS if fast.applies(x.data, w.data, stride, padding)), im2col)

    # on a GPU the gradient of w is added up and left in float32 where x is float16: gpu.py looks at w's dtype
    kernel = w.data if method is gpu else w.data.astype(x.dtype, copy=False)

    def vjp(g: Array) -> tuple[Array | None, Array | None]:
        wanted = x.requires_grad, w.requires_grad
        grad_x, grad_w = method.gradients(g, x.data, kernel, stride, padding, wanted)
        return grad_x, grad_w if grad_w is None else grad_w.astype(w.dtype, copy=False)

    return Tensor(method.forward(x.data, kernel, stride, padding), parents=(x, w), vjp=vjp)


def _pair(name: str, value: int | tuple[int, int], least: int) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(size, Integral) and size >= least for size in pair):
        raise ValueError(f"conv2d: {name} {value!r} must be a whole number >= {least}, or a pair of them")
    return pair
