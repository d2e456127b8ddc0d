"""What the operations and layers ask of their arguments, apart so that these read as mathematics.

Each check raises an error that names the value, what was expected, and what to do. `name` is the function
whose argument it is.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real

import numpy

from . import backend
from .backend import Array, xp_of
from .tensor import Tensor


def tensor(name: str, x: object, shape: str = "") -> Tensor:
    """x, which must be a Tensor, and have as many axes as `shape` names, such as "(N, C)"."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a Tensor, got {type(x).__name__}: wrap it as tr.Tensor(...)")
    if shape and x.ndim != shape.count(",") + 1:
        raise ValueError(f"{name}: expected shape {shape}, got {x.shape}")
    return x


def operands(name: str, a: object, b: object, broadcast: bool = False) -> tuple[Tensor, Tensor]:
    """Both operands of a binary operation as tensors of one dtype and library, of shapes that broadcast if
    asked.

    Numbers take the dtype of the other operand, so that a Python or NumPy scalar never widens float32.
    """
    a = a if isinstance(a, Tensor) else _constant(name, a, b)
    b = b if isinstance(b, Tensor) else _constant(name, b, a)
    libraries = [xp_of(x.data).__name__ for x in (a, b)]
    if libraries[0] != libraries[1]:
        raise TypeError(f"{name}: the first operand {a.shape} is a {libraries[0]} array, the second "
                        f"{b.shape} a {libraries[1]} array: make both with the library chosen by "
                        "tr.backend.use(...)")
    if a.dtype != b.dtype:
        raise TypeError(f"{name}: the first operand {a.shape} is {a.dtype}, the second {b.shape} is "
                        f"{b.dtype} (NumPy's numbers are float64 unless told otherwise): convert one, as in "
                        f"tr.astype(x, '{min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)}')")
    try:
        broadcast and numpy.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ValueError(f"{name}: shapes {a.shape} and {b.shape} do not broadcast: counted from the right, "
                         f"each pair of sizes must be equal or one of them 1") from None
    return a, b


def _constant(name: str, value: object, like: object) -> Tensor:
    if backend.is_array(value) and value.ndim > 0 and value.dtype.kind not in "biu":
        return Tensor(value)
    if isinstance(like, Tensor) and isinstance(value, Real):
        return Tensor(xp_of(like.data).full((), value, like.dtype))  # made there, not sent there
    if isinstance(like, Tensor) and (isinstance(value, (list, tuple)) or backend.is_array(value)):
        return Tensor(xp_of(like.data).asarray(value, dtype=like.dtype))
    raise TypeError(f"{name}: expected a Tensor, an array or a number, got {type(value).__name__}: "
                    f"{value!r:.60}")


def exponent(n: object) -> float:
    """The exponent of a power, which must be a number."""
    if not isinstance(n, Real):
        raise TypeError(f"power: expected a number as exponent, got {type(n).__name__}: "
                        f"write tr.exp(tr.log(a) * b) for a tensor exponent")
    return float(n)


def matrices(name: str, a: Tensor, b: Tensor) -> None:
    """Shapes (..., n, m) and (..., m, p)."""
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"{name}: shapes {a.shape} and {b.shape} do not fit: expected (..., n, m) and (..., "
                         f"m, p); reshape a vector to (1, m) or (m, 1)")


def permutation(name: str, axes: Sequence[int] | None, x: Tensor) -> tuple[int, ...]:
    """The axes of x in another order, by default reversed, each >= 0."""
    axes = range(x.ndim)[::-1] if axes is None else axes
    if sorted(axis % max(x.ndim, 1) for axis in axes) != list(range(x.ndim)):
        raise ValueError(f"{name}: axes {tuple(axes)} are not a permutation of the {x.ndim} axes of shape "
                         f"{x.shape}")
    return tuple(axis % x.ndim for axis in axes)


def pad_width(name: str, pad_width: Iterable[Sequence[int]], x: Tensor) -> list[tuple[int, int]]:
    """One (before, after) pair of sizes >= 0 for each axis."""
    pairs = [tuple(pair) for pair in pad_width]
    if len(pairs) != x.ndim or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        raise ValueError(f"{name}: expected a (before, after) pair >= 0 for each axis of shape {x.shape}, "
                         f"got {pairs}")
    return pairs


def window(name: str, size: object, x: Tensor) -> None:
    """The side of a square window that fits into the image x (N, H, W, C)."""
    if not isinstance(size, Integral) or not 1 <= size <= min(x.shape[1:3]):
        raise ValueError(f"{name}: size {size!r} must be an integer from 1 to the image's side, "
                         f"{x.shape[1]} x {x.shape[2]}")


def pair(name: str, value: object, minimum: int) -> tuple[int, int]:
    """One integer, or (vertical, horizontal), as a pair."""
    sizes = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(sizes) != 2 or not all(isinstance(size, Integral) and size >= minimum for size in sizes):
        raise ValueError(f"{name} {value!r} must be an integer >= {minimum}, or a pair of them")
    return sizes


def convolution(x: Tensor, w: Tensor, padding: tuple[int, int]) -> None:
    """A kernel w (KH, KW, C, O) with the channels of the image x (N, H, W, C), no larger than it when
    padded."""
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2]:
        raise ValueError(f"conv2d: x {x.shape} and w {w.shape} do not fit: expected (N, H, W, C) and (KH, "
                         "KW, C, O)")
    if 0 in w.shape or any(x.shape[1 + i] + 2 * padding[i] < w.shape[i] for i in (0, 1)):
        raise ValueError(f"conv2d: a kernel of {w.shape[0]} x {w.shape[1]} with {w.shape[2]} -> {w.shape[3]} "
                         f"channels does not fit an image of {x.shape[1]} x {x.shape[2]} padded by {padding}")


def labels(name: str, labels: object, logits: Tensor) -> Array:
    """Labels (N,) of logits (N, classes), N >= 1: integers from 0 to classes - 1, in the same library.

    Their values are looked at on NumPy only: on a GPU it would stall every step.
    """
    xp = xp_of(tensor(name, logits).data)
    labels = xp.asarray(labels) if isinstance(labels, (list, tuple)) else labels
    if not backend.is_array(labels) or labels.dtype.kind not in "iu" or xp_of(labels) is not xp:
        found = f"{type(labels).__module__}.{type(labels).__name__} of dtype {getattr(labels, 'dtype', None)}"
        raise TypeError(f"{name}: labels must be an integer {xp.__name__} array, got {found}")
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.data.size == 0:
        raise ValueError(f"{name}: expected logits (N, classes) and labels (N,) with N >= 1, got "
                         f"{logits.shape} and {labels.shape}")
    classes = logits.shape[1]
    if xp is numpy and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"{name}: labels go from {labels.min()} to {labels.max()}, expected 0 to "
                         f"{classes - 1} for {classes} logits")
    return labels


def parameters(name: str, parameters: Iterable[object]) -> list[Tensor]:
    """One or more tensors that require a gradient."""
    parameters = list(parameters) if isinstance(parameters, Iterable) else []
    if not parameters or not all(getattr(p, "requires_grad", False) for p in parameters):
        raise ValueError(f"{name}: expected at least one parameter, each a Tensor with requires_grad=True: "
                         "pass model.parameters()")
    return parameters


def positive(name: str, value: float) -> float:
    """A finite number above 0."""
    return _number(name, value, 0 < value < math.inf, "above 0")


def not_negative(name: str, value: float) -> float:
    """A finite number, 0 or more."""
    return _number(name, value, 0 <= value < math.inf, ">= 0")


def fraction(name: str, value: float) -> float:
    """A number from 0 to below 1."""
    return _number(name, value, 0 <= value < 1, ">= 0 and below 1")


def _number(name: str, value: float, fits: bool, expected: str) -> float:
    if not fits:
        raise ValueError(f"{name} {value!r}: expected a finite number {expected}")
    return float(value)


def sizes(shape: tuple[int, ...]) -> None:
    """The shape of weights, without a zero."""
    if min(shape) < 1:
        raise ValueError(f"weights of shape {shape}: every size must be >= 1")


def widening(name: str, in_channels: int, out_channels: int) -> None:
    """A block with a shortcut, which cannot take channels away."""
    if out_channels < in_channels:
        raise ValueError(f"{name}: out_channels {out_channels} must be >= in_channels {in_channels}: the "
                         "shortcut can add channels but not take them away")


def network(name: str, num_classes: int, blocks: Sequence[int], widths: Sequence[int]) -> None:
    """Stages of a residual network."""
    if (not widths or len(blocks) != len(widths) or min(blocks) < 1 or min(widths) < 1
            or list(widths) != sorted(widths) or num_classes < 2):
        raise ValueError(f"{name}: expected blocks >= 1 for each stage, non-decreasing widths >= 1, "
                         f"num_classes >= 2, got blocks {list(blocks)}, widths {list(widths)}, num_classes "
                         f"{num_classes}")


class NotFinite(FloatingPointError):
    """An array of a step is not finite. name: which one; remedy: what to do."""

    def __init__(self, name: str, remedy: str) -> None:
        super().__init__(f"{name} is not finite. {remedy}")
        self.name, self.remedy = name, remedy


def load(owner: str, arrays: Mapping[str, Array], state: Mapping[str, numpy.ndarray]) -> None:
    """Copy a saved state into arrays, in place. Nothing is changed unless all names, shapes and kinds fit."""
    missing, unknown = sorted(arrays.keys() - state.keys()), sorted(state.keys() - arrays.keys())
    if missing or unknown:
        raise ValueError(f"the state does not fit this {owner}: missing {missing[:3]} ({len(missing)} in "
                         f"all), unknown {unknown[:3]} ({len(unknown)} in all): build the same network first")
    for name, array in arrays.items():
        if state[name].shape != array.shape or state[name].dtype.kind != "f":
            raise ValueError(f"the state does not fit this {owner}: {name!r} is {state[name].dtype} of shape "
                             f"{state[name].shape}, expected floats of shape {array.shape}: build the same "
                             "network first")
    for name, array in arrays.items():
        array[...] = xp_of(array).asarray(state[name], dtype=array.dtype)
