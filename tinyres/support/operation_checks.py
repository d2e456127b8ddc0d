"""What operations ask of their arguments, kept apart so that operations read as mathematics.

Each check raises an error that names the value, what was expected, and what to do. `name` is the name of the
function that was called.
"""
from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy

from .. import backend
from ..backend import Array, xp_of
from ..extras.methods import Axes
from ..tensor import Tensor
from .tensor_checks import plain, tensor_expected


def tensor(name: str, x: object, shape: str = "") -> Tensor:
    """x, which must be a Tensor, and have as many axes as `shape` names, such as "(N, C)"."""
    if not isinstance(x, Tensor):
        raise tensor_expected(name, x)
    if shape and x.ndim != shape.count(",") + 1:
        raise ValueError(f"{name}: expected shape {shape}, got {x.shape}")
    return x


def operands(name: str, a: object, b: object) -> tuple[Tensor, Tensor]:
    """Both operands of an operation as tensors of one dtype and library.

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
        wide, dtype = (0, b.dtype) if a.dtype.itemsize > b.dtype.itemsize else (1, a.dtype)
        raise TypeError(f"{name}: the first operand {a.shape} is {a.dtype}, {_origin(a)}, the second "
                        f"{b.shape} is {b.dtype}, {_origin(b)}; NumPy's numbers are float64 unless told "
                        f"otherwise. Convert the {('first', 'second')[wide]}: x.astype('{dtype}')")
    return a, b


def broadcast(name: str, a: Tensor, b: Tensor) -> None:
    """Shapes that broadcast."""
    try:
        if a.shape != b.shape:
            numpy.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ValueError(f"{name}: shapes {a.shape} and {b.shape} do not broadcast: counted from the right, "
                         f"each pair of sizes must be equal or one of them 1") from None


def _origin(x: Tensor) -> str:
    if x.node is not None:
        return f"computed by {x.node.operation}"
    return "a leaf with requires_grad, such as a weight" if x.requires_grad else "made from an array"


def _constant(name: str, value: Any, like: object) -> Tensor:
    if backend.is_array(value) and value.ndim > 0 and value.dtype.kind not in "biu":
        return Tensor(value)
    if isinstance(like, Tensor) and isinstance(value, Real):
        return Tensor(xp_of(like.data).full((), value, like.dtype))  # made there, not sent there
    if isinstance(like, Tensor) and (isinstance(value, (list, tuple)) or backend.is_array(value)):
        value = plain(value) if backend.is_array(value) else value
        return Tensor(xp_of(like.data).asarray(value, dtype=like.dtype))
    raise TypeError(f"{name}: expected a Tensor, an array or a number, got {type(value).__name__}: "
                    f"{value!r:.60}")


def exponent(n: object) -> float:
    """The exponent of a power, which must be a number."""
    if not isinstance(n, Real):
        raise TypeError(f"power: expected a number, an array or a Tensor as exponent, got {type(n).__name__}")
    return float(n)


def matrices(name: str, a: Tensor, b: Tensor) -> None:
    """Shapes (..., n, m) and (..., m, p)."""
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"{name}: shapes {a.shape} and {b.shape} do not fit: expected (..., n, m) and (..., "
                         "m, p), or a vector (m,)")


def vectors(name: str, a: Tensor, b: Tensor) -> None:
    """Operands of which one is a vector (m,), and the other has m values in the axis that meets it."""
    if 0 in (a.ndim, b.ndim) or a.shape[-1] != b.shape[-2 if b.ndim > 1 else -1]:
        raise ValueError(f"{name}: shapes {a.shape} and {b.shape} do not fit: a vector (m,) goes with (m,), "
                         "(..., m, p) on its right or (..., n, m) on its left")


def filled(shape: Any, x: Array) -> None:
    """A shape, one size of which may be -1, that the values of x fill."""
    sizes: tuple[Any, ...] = tuple(shape) if isinstance(shape, Sequence) or numpy.ndim(shape) else (shape,)
    if not all(hasattr(size, "__index__") for size in sizes):
        return  # NumPy says what is wrong
    known = math.prod(int(size) for size in sizes if size != -1)
    fits = sizes.count(-1) <= 1 and min(sizes, default=0) >= -1
    if not fits or (known != x.size if -1 not in sizes else known == 0 or x.size % known):
        raise ValueError(f"reshape: {x.shape} holds {x.size} values, which do not fill {shape}")


def permutation(axes: Sequence[int] | None, x: Array) -> tuple[int, ...]:
    """The axes of x in another order, by default reversed, each >= 0."""
    order = tuple(range(x.ndim)[::-1] if axes is None else axes)
    found = tuple(axis + x.ndim if axis < 0 else axis for axis in order)
    if sorted(found) != list(range(x.ndim)):
        raise ValueError(f"transpose: axes {order} are not a permutation of the {x.ndim} axes of shape "
                         f"{x.shape}")
    return found


def pad_width(pad_width: int | Iterable[Sequence[int]], x: Array) -> list[tuple[int, int]]:
    """One (before, after) pair of sizes >= 0 for each axis; one size stands for all."""
    pairs: list[Any] = ([(int(pad_width),) * 2] * x.ndim if isinstance(pad_width, (int, Integral)) else
                        [tuple(map(operator.index, pair)) for pair in pad_width])
    if len(pairs) != x.ndim or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        raise ValueError(f"pad: expected a (before, after) pair >= 0 for each axis of shape {x.shape}, "
                         f"got {pairs}")
    return pairs


def float_dtype(dtype: Any) -> str:
    """"float16", "float32" or "float64", from a name, a type or a NumPy dtype."""
    try:
        found = numpy.dtype(dtype).name
    except TypeError:
        found = str(dtype)
    if found not in ("float16", "float32", "float64"):
        raise TypeError(f"astype: expected float16, float32 or float64, got {found}")
    return found


def axes(axis: Axes, x: Array) -> tuple[int, ...]:
    """An axis, several of them, or all (None), as a tuple of axes >= 0."""
    return numpy.lib.array_utils.normalize_axis_tuple(range(x.ndim) if axis is None else axis, x.ndim)


def elements(name: str, x: Array, axis: Axes) -> tuple[tuple[int, ...], int]:
    """The axes as a tuple, and how many elements each group along them has: one or more."""
    found = axes(axis, x)
    count = math.prod(x.shape[axis] for axis in found)
    if count == 0:
        raise ValueError(f"{name}: no elements in shape {x.shape} over axis {axis}")
    return found, count


def kept_index(index: Any) -> Any:
    """An index of which nothing changes before `backward`: arrays and lists in it are copied."""
    if isinstance(index, tuple):
        return tuple(kept_index(part) for part in index)
    if isinstance(index, list):
        return index.copy()
    return plain(index).copy() if backend.is_array(index) else index


def parts(name: str, tensors: Any, axis: int | None = None) -> tuple[Tensor, ...]:
    """One or more tensors of one dtype and library, and of one shape but for the axis; some may be arrays."""
    if isinstance(tensors, Tensor) or not isinstance(tensors, Iterable):
        raise TypeError(f"{name}: expected a list or tuple of Tensors, got {type(tensors).__name__}")
    tensors = tuple(tensors)
    if not tensors:
        raise ValueError(f"{name}: expected one or more Tensors, got none")
    first = next((x for x in tensors if isinstance(x, Tensor)), None)
    tensors = tuple(tensor(name, x) if first is None or not backend.is_array(x) else _constant(name, x, first)
                    for x in tensors)
    for x in tensors[1:]:
        operands(name, tensors[0], x)
    shapes: list[Any] = [x.shape for x in tensors]
    if axis is not None:
        if not -tensors[0].ndim <= axis < tensors[0].ndim:
            raise ValueError(f"{name}: axis {axis} is out of range for shape {tensors[0].shape}")
        along = axis % tensors[0].ndim
        shapes = [(len(shape), shape[:along], shape[along + 1:]) for shape in shapes]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"{name}: shapes {', '.join(str(x.shape) for x in tensors)} must be equal"
                         + ("" if axis is None else f" but for axis {axis}"))
    return tensors


def differentiable(name: str, arguments: tuple[Any, ...]) -> tuple[list[Any], list[Tensor]]:
    """Arguments for a function, floats as float64 tensors, and those tensors that require a gradient."""
    if len(arguments) == 1 and isinstance(arguments[0], (tuple, list)):
        arguments = tuple(arguments[0])
    made = []
    for x in arguments:
        if isinstance(x, Real) or backend.is_array(x) and x.dtype.kind == "f":
            x = Tensor(x if backend.is_array(x) else numpy.array(float(x)), requires_grad=True)
        if isinstance(x, Tensor) and x.dtype != numpy.float64:
            raise TypeError(f"{name}: expected float64 tensors, got {x.dtype} of shape {x.shape}: write "
                            "Tensor(x.numpy().astype('float64'), requires_grad=True)")
        made.append(x)
    tensors = [x for x in made if isinstance(x, Tensor) and x.requires_grad]
    if not tensors:
        raise ValueError(f"{name}: no argument requires a gradient: make one as Tensor(array, "
                         "requires_grad=True)")
    return made, tensors


def pair(name: str, value: Any, minimum: int) -> tuple[int, int]:
    """One integer, or (vertical, horizontal), as a pair."""
    try:
        first, second = map(operator.index, value if isinstance(value, (tuple, list)) else (value, value))
    except (TypeError, ValueError):  # no integers, or not two
        first = second = minimum - 1
    if first < minimum or second < minimum:
        raise ValueError(f"{name} {value!r} must be an integer >= {minimum}, or a pair of them")
    return first, second


def convolution(x: Tensor, w: Tensor, stride: Any,
                padding: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """A kernel w (KH, KW, C, O) with the channels of the image x (N, H, W, C), no larger than it when padded;
    stride and padding as pairs."""
    s, p = pair("conv2d: stride", stride, 1), pair("conv2d: padding", padding, 0)
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2]:
        raise ValueError(f"conv2d: x {x.shape} and w {w.shape} do not fit: expected (N, H, W, C) and (KH, "
                         "KW, C, O)")
    if 0 in w.shape or any(x.shape[1 + i] + 2 * p[i] < w.shape[i] for i in (0, 1)):
        raise ValueError(f"conv2d: a kernel of {w.shape[0]} x {w.shape[1]} with {w.shape[2]} -> {w.shape[3]} "
                         f"channels does not fit an image of {x.shape[1]} x {x.shape[2]} padded by {p}")
    return s, p


def labels(labels: Any, logits: Array, name: str = "softmax_cross_entropy") -> Array:
    """Labels (N,) of logits (N, classes), N >= 1: integers from 0 to classes - 1, in the same library.

    Their values are checked on NumPy only: on a GPU that would stall every step.
    """
    xp = xp_of(logits)
    labels = xp.asarray(labels) if isinstance(labels, (list, tuple)) else labels
    if not backend.is_array(labels) or labels.dtype.kind not in "iu" or xp_of(labels) is not xp:
        found = f"{type(labels).__module__}.{type(labels).__name__} of dtype {getattr(labels, 'dtype', None)}"
        raise TypeError(f"{name}: labels must be an integer {xp.__name__} array, got {found}")
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or logits.size == 0:
        raise ValueError(f"{name}: expected logits (N, classes) and labels (N,) with N >= 1, got "
                         f"{logits.shape} and {labels.shape}")
    labels, classes = plain(labels), logits.shape[1]
    if xp is numpy and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"{name}: labels go from {labels.min()} to {labels.max()}, expected 0 to "
                         f"{classes - 1} for {classes} logits")
    return labels
