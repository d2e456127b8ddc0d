"""What users of NumPy and PyTorch expect of a Tensor besides its operators: x.sum(), x[1:], x > 0,
f"{x:.3f}", x.retain_grad(), and that no gradient silently goes wrong because a tensor was changed.

Methods are the functions of ops.py and more_ops.py; the rest are Python's special methods.
"""
from __future__ import annotations

import functools
import operator
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from .. import backend, ops
from ..backend import Array
from ..support import operation_checks as checks
from ..tensor import Tensor, recording
from . import functions as more_ops

Tensor.sum, Tensor.mean, Tensor.max = ops.sum, ops.mean, more_ops.max
Tensor.astype, Tensor.__getitem__, Tensor.__abs__ = ops.astype, more_ops.getitem, more_ops.abs
Tensor.T = property(ops.transpose, doc="The axes in reversed order.")
Tensor.size = property(lambda x: x.data.size, doc="The number of values.")


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """`tr.reshape`, as x.reshape((2, 3)) or x.reshape(2, 3)."""
    return ops.reshape(x, shape[0] if len(shape) == 1 else shape)


def transpose(x: Tensor, *axes: Any) -> Tensor:
    """`tr.transpose`, as x.transpose(), x.transpose((1, 0)) or x.transpose(1, 0)."""
    return ops.transpose(x, axes[0] if axes and not isinstance(axes[0], int) else axes or None)


def argmax(x: Tensor, axis: int | None = None) -> Array:
    """Where the largest value is, an array of indices: no gradient goes through it."""
    return x.data.argmax(axis)


def _missing(x: Tensor, name: str) -> Any:
    hint = {"view": ": x.reshape(...)", "flatten": ": x.reshape(len(x), -1)", "pow": ": x ** 2"}.get(
        name, f": tr.{name}(x)" if hasattr(more_ops, name) or hasattr(ops, name) else "")
    raise AttributeError(f"a Tensor has no {name!r}{hint}")


Tensor.reshape, Tensor.transpose, Tensor.argmax, Tensor.__getattr__ = reshape, transpose, argmax, _missing


# Values out of a tensor, as Python and NumPy ask for them. None of these is recorded.

def _length(x: Tensor) -> int:
    if x.ndim == 0:
        raise TypeError("len() of a tensor without axes")
    return x.shape[0]


def _iterate(x: Tensor) -> Iterator[Tensor]:
    return (x[i] for i in range(len(x)))


def _truth(x: Tensor) -> bool:
    if x.size != 1:
        raise ValueError(f"a tensor of shape {x.shape} is neither true nor false: compare its values, as in "
                         "(x > 0).all()")
    return bool(x.item())


def _format(x: Tensor, form: str) -> str:
    if form and x.size != 1:
        raise TypeError(f"format {form!r} needs a tensor of one element, this one has shape {x.shape}")
    return format(x.item(), form) if form else str(x)


def _array(x: Tensor, dtype: Any = None, copy: bool | None = None) -> numpy.ndarray:
    """A copy of the values for numpy.asarray and everything that calls it."""
    if x.requires_grad and recording.get():
        raise TypeError("a Tensor that requires a gradient does not turn into a NumPy array by itself, for "
                        "what NumPy computes is not in the graph: write x.numpy() for its values, or use the "
                        "functions of tinyres, as tr.stack for a list of tensors")
    if copy is False:
        raise ValueError("a Tensor turns into a NumPy array by a copy only: write x.numpy()")
    return numpy.array(x.numpy(), dtype)


Tensor.__len__, Tensor.__iter__, Tensor.__bool__ = _length, _iterate, _truth
Tensor.__float__, Tensor.__format__, Tensor.__array__ = Tensor.item, _format, _array


def _comparison(compare: Callable[[Array, Any], Array]) -> Callable[[Tensor, object], Array]:
    def method(x: Tensor, other: object) -> Array:
        if isinstance(other, Tensor):
            other = other.data
        elif not (backend.is_array(other) or isinstance(other, (int, float, list, tuple, numpy.generic))):
            return NotImplemented  # x == None is False
        return compare(x.data, other)
    method.__doc__ = "An array of truth values, elementwise."
    return method


for _name in "lt", "le", "gt", "ge", "eq", "ne":
    setattr(Tensor, f"__{_name}__", _comparison(getattr(operator, _name)))
Tensor.__hash__ = object.__hash__  # two tensors of equal values are two tensors


# What would change a tensor that the graph needs as it was.

def _in_place(sign: str, name: str) -> Callable[[Tensor, object], Tensor]:
    compute = getattr(operator, name.strip("_").replace("i", "", 1))
    change = getattr(operator, name.strip("_"))

    def method(x: Tensor, other: object) -> Tensor:
        if x.node is not None or not x.requires_grad:
            return compute(x, other)  # a new tensor under the old name
        if recording.get():
            raise RuntimeError(f"w {sign}= ... would make of the leaf w a tensor that an operation computed, "
                               f"which gets no .grad: write w.data {sign}= ..., or put it into `with "
                               "tr.no_grad():`, or use an optimizer of tr.optim")
        change(x.data, checks.operands(f"{sign}=", x, other)[1].data)
        return x
    method.__doc__ = f"x {sign}= other: a new tensor, or, for a leaf under no_grad(), in place."
    return method


for _sign, _name in ("+", "__iadd__"), ("-", "__isub__"), ("*", "__imul__"), ("/", "__itruediv__"):
    setattr(Tensor, _name, _in_place(_sign, _name))


def _set_item(x: Tensor, index: object, value: object) -> None:
    raise TypeError("a tensor is not changed in place: write x.data[index] = value for a leaf, before it is "
                    "used, or compute a new tensor")


Tensor.__setitem__ = _set_item
_data, _grad = Tensor.data, Tensor.grad  # the slots, to which the two properties below add a word


def _set_data(x: Tensor, data: Array) -> None:
    if getattr(x, "node", None) is not None:
        raise RuntimeError(f"the values of a tensor that {x.node.operation} computed were changed: gradients "
                           "through it would be wrong. Compute it again, and then a new tensor, as in y = y "
                           "+ 5, or change a copy, as y.numpy().copy()")
    _data.__set__(x, data)


def _get_grad(x: Tensor) -> Array | None:
    gradient = _grad.__get__(x)
    if gradient is None and x.node is not None and not hasattr(x.node.vjp, "__wrapped__"):
        warnings.warn(f"this tensor was computed by {x.node.operation}, and backward() keeps gradients of "
                      "leaves only: call y.retain_grad() before backward() for that of y", stacklevel=2)
    return gradient


Tensor.data = property(_data.__get__, _set_data, doc="The values, a NumPy or CuPy array.")
Tensor.grad = property(_get_grad, _grad.__set__, doc="The gradient, an array, once `backward` has set it.")


def retain_grad(x: Tensor) -> None:
    """Let `backward` set `.grad` of this tensor too, though an operation computed it.

    Raises RuntimeError if it requires no gradient.
    """
    if not x.requires_grad:
        raise RuntimeError("retain_grad() on a tensor that requires no gradient")
    if x.node is not None:
        vjp, reference = x.node.vjp, weakref.ref(x)  # the graph must not hold the values

        @functools.wraps(vjp)
        def keeping(g: Array) -> tuple[Array | None, ...]:
            if (x := reference()) is not None:
                x.grad = g.copy()
            return vjp(g)

        x.node.vjp = keeping


Tensor.retain_grad = retain_grad
