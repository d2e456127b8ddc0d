"""The differentiable functions that the networks and the theory need, in the order of increasing complexity.

Each one computes its result with the array's own library and returns it as a Tensor together with its
vector-Jacobian product, forward and backward side by side. g is the gradient of the loss with respect to the
result. Functions marked `@kernel` work on arrays, all others on Tensors; an x that is none is a TypeError.
"""
from __future__ import annotations

from collections.abc import Sequence

from .backend import Array, xp_of
from .kernel import kernel
from .support import operation_checks as checks
from .tensor import Tensor

Axes = int | Sequence[int] | None


def exp(x: Tensor) -> Tensor:
    """e ** x elementwise."""
    out = xp_of(checks.tensor("exp", x).data).exp(x.data)
    return Tensor(out, parents=(x,), vjp=lambda g: (g * out,))


def log(x: Tensor) -> Tensor:
    """The natural logarithm elementwise: -inf at 0 and nan below, as in NumPy."""
    out = xp_of(checks.tensor("log", x).data).log(x.data)
    return Tensor(out, parents=(x,), vjp=lambda g: (g / x.data,))


@kernel
def rectify(x: Array) -> Array:
    """max(x, 0) elementwise."""
    return xp_of(x).maximum(x, 0)


@kernel
def relu_gradient(g: Array, y: Array) -> Array:
    """g where y = max(x, 0) is positive, else 0, whatever g is there."""
    return xp_of(g).where(y > 0, g, 0)


def relu(x: Tensor) -> Tensor:
    """max(x, 0) elementwise, with derivative 0 at 0."""
    out = rectify(checks.tensor("relu", x).data)
    return Tensor(out, parents=(x,), vjp=lambda g: (relu_gradient(g, out),))


def astype(x: Tensor, dtype: str) -> Tensor:
    """The same values as float16, float32 or float64 (else a TypeError); its gradient is converted back."""
    out = checks.tensor("astype", x).data.astype(checks.float_dtype("astype", dtype))
    return Tensor(out, parents=(x,), vjp=lambda g: (g.astype(x.dtype),))


def reshape(x: Tensor, shape: int | Sequence[int]) -> Tensor:
    """The same values in another shape; one size may be -1. Raises ValueError if the sizes do not fit."""
    try:
        out = checks.tensor("reshape", x).data.reshape(shape)
    except ValueError:
        raise ValueError(f"reshape: {x.shape} holds {x.data.size} values, which do not fill "
                         f"{shape}") from None
    return Tensor(out, parents=(x,), vjp=lambda g: (g.reshape(x.shape),))


def transpose(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """The axes in another order (default: reversed), as in NumPy. Raises ValueError if it is no
    permutation."""
    axes = checks.permutation("transpose", axes, checks.tensor("transpose", x))
    inverse = sorted(range(x.ndim), key=lambda i: axes[i])
    return Tensor(x.data.transpose(axes), parents=(x,), vjp=lambda g: (g.transpose(inverse),))


def pad(x: Tensor, pad_width: Sequence[tuple[int, int]]) -> Tensor:
    """Zeros around x: pad_width[i] = (before, after) of axis i, as numpy.pad. Raises ValueError otherwise."""
    pairs = checks.pad_width("pad", pad_width, checks.tensor("pad", x))
    inside = tuple(slice(before, before + size) for (before, _), size in zip(pairs, x.shape, strict=True))
    shape = [before + size + after for (before, after), size in zip(pairs, x.shape, strict=True)]
    out = xp_of(x.data).zeros(shape, x.dtype)
    out[inside] = x.data
    return Tensor(out, parents=(x,), vjp=lambda g: (g[inside],))


def sum(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The sum over an axis, several axes, or all (None)."""
    axis = axis if axis is None or isinstance(axis, int) else tuple(axis)
    kept = checks.tensor("sum", x).data.sum(axis=axis, keepdims=True)
    xp, out = xp_of(kept), kept if keepdims else kept.squeeze(axis)
    return Tensor(out, parents=(x,), vjp=lambda g: (xp.broadcast_to(g.reshape(kept.shape), x.shape),))


def mean(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The arithmetic mean over an axis, several axes, or all (None). Raises ValueError over no elements."""
    total = sum(x, axis, keepdims)
    if total.data.size == 0 or x.data.size == 0:
        raise ValueError(f"mean: no elements to average in shape {x.shape} over axis {axis}")
    return total * (total.data.size / x.data.size)


def avg_pool2d(x: Tensor, size: int) -> Tensor:
    """Mean over windows of size x size that do not overlap: (N, H, W, C) -> (N, H // size, W // size, C).

    Rows and columns that fill no whole window are left out, as in PyTorch.
    Raises ValueError if x has not four axes, size is not an integer >= 1, or no window fits.
    """
    checks.window("avg_pool2d", size, checks.tensor("avg_pool2d", x, "(N, H, W, C)"))
    xp, (N, H, W, C) = xp_of(x.data), x.shape

    def windows(image: Array) -> Array:
        inside = image[:, :H // size * size, :W // size * size]
        return inside.reshape(N, H // size, size, W // size, size, C)

    out = xp.zeros((N, H // size, W // size, C), x.dtype)
    for i in range(size):
        for j in range(size):
            out += windows(x.data)[:, :, i, :, j]
    out /= size**2

    def vjp(g: Array) -> tuple[Array]:
        grad = xp.zeros((N, H, W, C), g.dtype)
        windows(grad)[...] = (g / size**2)[:, :, None, :, None]
        return (grad,)

    return Tensor(out, parents=(x,), vjp=vjp)


def global_avg_pool2d(x: Tensor) -> Tensor:
    """The mean over the pixels: (N, H, W, C) -> (N, C). Raises ValueError if x has not four axes."""
    return mean(checks.tensor("global_avg_pool2d", x, "(N, H, W, C)"), axis=(1, 2))


def softmax_cross_entropy(logits: Tensor, labels: Array) -> Tensor:
    """The mean over the batch of -log softmax(logits)[label], a scalar.

    logits: (N, classes). labels: (N,) integer array, 0 <= label < classes, of the same library as logits.
    Raises TypeError for labels of another kind, ValueError for shapes that do not fit or labels out of range
    (looked at on NumPy only).
    """
    labels = checks.labels("softmax_cross_entropy", labels, logits)
    xp, N = xp_of(logits.data), len(labels)
    rows = xp.arange(N)
    shifted = logits.data - logits.data.max(axis=1, keepdims=True)  # so that exp cannot overflow
    log_total = xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))

    def vjp(g: Array) -> tuple[Array]:
        softmax = xp.exp(shifted - log_total)
        softmax[rows, labels] -= 1
        return (softmax * (g / N),)

    return Tensor((log_total[:, 0] - shifted[rows, labels]).mean(), parents=(logits,), vjp=vjp)
