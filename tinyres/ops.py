"""The differentiable functions that the networks and the theory need, in the order of increasing complexity.

Each one computes its result with the array's own library and returns it as a Tensor together with its
vector-Jacobian product, forward and backward side by side. g is the gradient of the loss with respect to the
result.
"""
from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from . import backend, gpu
from .backend import Array
from .cpu import elementwise
from .tensor import Tensor

Axes = int | Sequence[int] | None


def _tensor(name: str, x: object) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a Tensor, got {type(x).__name__}: wrap it as tr.Tensor(...)")
    return x


def exp(x: Tensor) -> Tensor:
    """e ** x elementwise."""
    out = backend.xp_of(_tensor("exp", x).data).exp(x.data)
    return Tensor(out, parents=(x,), vjp=lambda g: (g * out,))


def log(x: Tensor) -> Tensor:
    """The natural logarithm elementwise: -inf at 0 and nan below, as in NumPy."""
    xp = backend.xp_of(_tensor("log", x).data)
    return Tensor(xp.log(x.data), parents=(x,), vjp=lambda g: (g / x.data,))


def relu(x: Tensor) -> Tensor:
    """max(x, 0) elementwise, with derivative 0 at 0."""
    xp = backend.xp_of(_tensor("relu", x).data)
    out = elementwise(xp.maximum, x.data, 0)  # xp.maximum(x.data, 0), with several threads

    def gradient(g: Array, y: Array, out: Array | None = None) -> Array:
        return xp.multiply(g, y > 0, out=out)

    if xp is not backend.numpy:
        return Tensor(out, parents=(x,), vjp=lambda g: (gpu.relu_gradient(g, out),))
    return Tensor(out, parents=(x,), vjp=lambda g: (elementwise(gradient, g, out),))


def astype(x: Tensor, dtype: str) -> Tensor:
    """The same values as float16, float32 or float64, rounded where need be; its gradient is converted back.

    Raises TypeError for another dtype.
    """
    if str(dtype) not in ("float16", "float32", "float64"):
        raise TypeError(f"astype: expected float16, float32 or float64, got {dtype}")
    return Tensor(_tensor("astype", x).data.astype(dtype), parents=(x,), vjp=lambda g: (g.astype(x.dtype),))


def reshape(x: Tensor, shape: int | Sequence[int]) -> Tensor:
    """The same values in another shape; one size may be -1. Raises ValueError if the sizes do not fit."""
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    try:
        out = _tensor("reshape", x).data.reshape(shape)
    except ValueError:
        raise ValueError(f"reshape: {x.shape} holds {x.data.size} values, which do not fill "
                         f"{shape}") from None
    return Tensor(out, parents=(x,), vjp=lambda g: (g.reshape(x.shape),))


def transpose(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    """The axes in another order (default: reversed), as in NumPy. Raises ValueError for a bad order."""
    axes = tuple(range(_tensor("transpose", x).ndim))[::-1] if axes is None else tuple(axes)
    if sorted(axis % max(x.ndim, 1) for axis in axes) != list(range(x.ndim)):
        raise ValueError(f"transpose: axes {axes} are no order of the {x.ndim} axes of shape {x.shape}")
    inverse = sorted(range(x.ndim), key=lambda i: axes[i] % x.ndim)
    return Tensor(x.data.transpose(axes), parents=(x,), vjp=lambda g: (g.transpose(inverse),))


def pad(x: Tensor, pad_width: Sequence[tuple[int, int]]) -> Tensor:
    """Zeros around x: pad_width[i] = (before, after) of axis i, as numpy.pad.

    Raises ValueError if pad_width does not have one pair of sizes >= 0 for each axis.
    """
    pad_width = [tuple(pair) for pair in pad_width]
    if len(pad_width) != _tensor("pad", x).ndim or any(len(pair) != 2 or min(pair) < 0 for pair in pad_width):
        raise ValueError(f"pad: expected a (before, after) pair >= 0 for each axis of shape {x.shape}, got "
                         f"{pad_width}")
    inside = tuple(slice(before, before + size) for (before, _), size in zip(pad_width, x.shape, strict=True))
    shape = [before + size + after for (before, after), size in zip(pad_width, x.shape, strict=True)]
    out = backend.xp_of(x.data).zeros(shape, x.dtype)
    out[inside] = x.data
    return Tensor(out, parents=(x,), vjp=lambda g: (g[inside],))


def sum(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The sum over an axis, several axes, or all (None)."""
    xp = backend.xp_of(_tensor("sum", x).data)
    axis = axis if axis is None or isinstance(axis, int) else tuple(axis)
    kept = x.data.sum(axis=axis, keepdims=True)
    out = kept if keepdims else kept.squeeze(axis)
    return Tensor(out, parents=(x,), vjp=lambda g: (xp.broadcast_to(g.reshape(kept.shape), x.shape),))


def mean(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The arithmetic mean over an axis, several axes, or all (None). Raises ValueError over no elements."""
    total = sum(x, axis, keepdims)
    if total.data.size == 0 or x.data.size == 0:
        raise ValueError(f"mean: no elements to average in shape {x.shape} over axis {axis}")
    return total * (total.data.size / x.data.size)


def avg_pool2d(x: Tensor, size: int) -> Tensor:
    """Average pooling over windows of size x size that do not overlap: (N, H, W, C) -> (N, H//size, W//size,
    C).

    Rows and columns that fill no whole window are left out, as in PyTorch.
    Raises ValueError if x has not four axes, size is not a whole number >= 1, or no window fits.
    """
    if _tensor("avg_pool2d", x).ndim != 4:
        raise ValueError(f"avg_pool2d: expected shape (N, H, W, C), got {x.shape}")
    N, H, W, C = shape = x.shape
    if not isinstance(size, Integral) or not 1 <= size <= min(H, W):
        raise ValueError(f"avg_pool2d: size {size!r} must be a whole number from 1 to the image's side, {H} "
                         f"x {W}")
    xp = backend.xp_of(x.data)
    rows, columns = H // size * size, W // size * size

    def windows(image: Array) -> Array:
        return image[:, :rows, :columns].reshape(N, H // size, size, W // size, size, C)

    out = xp.zeros((N, H // size, W // size, C), x.dtype)
    for i in range(size):
        for j in range(size):
            out += windows(x.data)[:, :, i, :, j]
    out /= size**2

    def vjp(g: Array) -> tuple[Array]:
        grad = xp.zeros(shape, g.dtype)
        windows(grad)[...] = (g / size**2)[:, :, None, :, None]
        return (grad,)

    return Tensor(out, parents=(x,), vjp=vjp)


def global_avg_pool2d(x: Tensor) -> Tensor:
    """The mean over the pixels: (N, H, W, C) -> (N, C). Raises ValueError if x has not four axes."""
    if _tensor("global_avg_pool2d", x).ndim != 4:
        raise ValueError(f"global_avg_pool2d: expected shape (N, H, W, C), got {x.shape}")
    return mean(x, axis=(1, 2))


def softmax_cross_entropy(logits: Tensor, labels: Array) -> Tensor:
    """The mean over the batch of -log softmax(logits)[label], one scalar.

    logits: (N, classes). labels: (N,) integer array, 0 <= label < classes, of the same library as logits.
    Raises TypeError for labels that are not an integer array of that library, ValueError for shapes that do
    not fit, an empty batch, or labels out of range (looked at on NumPy only: on a GPU it would stall every
    step).
    """
    xp = backend.xp_of(_tensor("softmax_cross_entropy", logits).data)
    labels = xp.asarray(labels) if isinstance(labels, (list, tuple)) else labels
    if not backend.is_array(labels) or labels.dtype.kind not in "iu" or backend.xp_of(labels) is not xp:
        found = f"{type(labels).__module__}.{type(labels).__name__} of dtype {getattr(labels, 'dtype', None)}"
        raise TypeError(f"softmax_cross_entropy: labels must be an integer {xp.__name__} array, got {found}")
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.data.size == 0:
        raise ValueError(f"softmax_cross_entropy: expected logits (N, classes) and labels (N,) with N >= 1, "
                         f"got {logits.shape} and {labels.shape}")
    N, classes = logits.shape
    if xp is backend.numpy and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"softmax_cross_entropy: labels go from {labels.min()} to {labels.max()}, "
                         f"expected 0 to {classes - 1} for {classes} logits")
    shifted = logits.data - logits.data.max(axis=1, keepdims=True)  # so that exp cannot overflow
    log_total = xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
    rows = xp.arange(N)

    def vjp(g: Array) -> tuple[Array]:
        softmax = xp.exp(shifted - log_total)
        softmax[rows, labels] -= 1
        return (softmax * (g / N),)

    return Tensor((log_total[:, 0] - shifted[rows, labels]).mean(), parents=(logits,), vjp=vjp)
