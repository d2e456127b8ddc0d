"""What a Tensor and its graph ask of values and gradients, apart so that tensor.py reads as what it does.

Each check raises an error, or makes one, that names the value, what was expected, and what to do. A node is
a Node of the graph or, at a leaf, the Tensor itself.
"""
from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy

from .. import backend
from ..backend import Array

FLOATS = {numpy.dtype(name) for name in ("float16", "float32", "float64")}


def float_array(data: object) -> Array:
    """Data as an array of floats: one of floats as it is, but in this machine's byte order; integers, lists
    and numbers as float32."""
    if type(data) is numpy.ndarray and data.dtype in FLOATS:  # nearly always
        return data
    if _is_tensor(data):
        raise TypeError("Tensor(tensor): expected an array or numbers; tensor.detach() takes a tensor off "
                        "the graph")
    if isinstance(data, numpy.generic):
        data = numpy.asarray(data)
    if not backend.is_array(data):
        data = numpy.asarray(data)
        data = backend.current().asarray(data, numpy.float32 if data.dtype.kind in "biuf" else data.dtype)
    array: Array = plain(data)
    if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        return array
    if array.dtype.kind in "biu":
        return array.astype(numpy.float32)
    raise TypeError(f"a Tensor holds float16, float32 or float64, got an array of dtype {array.dtype}: "
                    "convert it first")


def plain(array: Array) -> Array:
    """An array without rules of its own, in this machine's byte order: the same, unless it has to change."""
    if isinstance(array, numpy.memmap):
        array = numpy.asarray(array)
    if isinstance(array, numpy.ndarray) and type(array) is not numpy.ndarray:
        raise TypeError(f"expected a NumPy array, got a {type(array).__name__}, a subclass of it with rules "
                        "of its own, such as a matrix's product or a mask, which gradients would not follow: "
                        "convert it, as by numpy.array(x), or x.filled(0) for a masked array")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _is_tensor(x: object) -> bool:
    """Whether x is a Tensor: it comes later, and PyTorch's has no node."""
    return hasattr(x, "requires_grad") and hasattr(x, "node")


def tensor_expected(name: str, x: object) -> TypeError:
    """The error for an argument of the function `name` that should be a Tensor."""
    return TypeError(f"{name}: expected a Tensor, got {type(x).__name__}: wrap it as tr.Tensor(...)")


def by_name(formula: Callable[..., Any], named: dict[str, Any]) -> tuple[Any]:
    """The first argument of an operation, given by name; TypeError if it is not given."""
    first = next(iter(inspect.signature(formula).parameters))
    if first not in named:
        formula(**named)  # raises the TypeError
    return (named.pop(first),)


def formula(name: str, result: Any, count: int) -> tuple[Any, ...]:
    """What a formula of `count` operands returns: its result, and a function for each operand's gradient."""
    if not isinstance(result, tuple) or len(result) != 1 + count or not all(map(callable, result[1:])):
        raise TypeError(f"{name}: a formula returns its result and, for each of {count} operands, the "
                        "function from the result's gradient to the operand's, as in `return x ** 2, lambda "
                        f"g: 2 * x * g`; got {result!r:.60}")
    return result


def of_tensors(operation: Callable[..., Any], count: int) -> None:
    """Let help() show the first `count` parameters of an operation, and its result, as Tensors."""
    signature = inspect.signature(operation)
    parameters = [parameter.replace(annotation="Tensor") if i < count else parameter
                  for i, parameter in enumerate(signature.parameters.values())]
    operation.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation="Tensor")


def vjp_of(parents: object, vjp: Any) -> Callable[[Array], tuple[Array | None, ...]]:
    """The vjp of an operation, which says what it was computed from: a tuple of tensors, and a function."""
    if not callable(vjp) or _is_tensor(parents):
        raise TypeError("an operation on tensors that require gradients needs parents=(x, ...), a tuple, "
                        "and vjp=, a function of g that returns one gradient for each, a tuple too: got "
                        f"parents {type(parents).__name__}, vjp {vjp!r:.60}")
    return vjp


def unchanged(node: Any) -> None:
    """That no operation computed the values that are to be replaced."""
    if node is not None:
        raise RuntimeError(f"the values of a tensor that {node.operation} computed were changed: gradients "
                           "through it would be wrong. Compute it again, and then a new tensor, as in y = y "
                           "+ 5, or change a copy, as y.numpy().copy()")


def parents_unchanged(node: Any) -> None:
    """That the parents of a node still hold the values from which it was computed."""
    for number, (parent, version) in enumerate(zip(node.parents, node.versions, strict=True), 1):
        if getattr(parent, "version", version) != version:
            raise RuntimeError(f"{node.operation}: the values of operand {number}, of shape {parent.shape}, "
                               "have changed since it was computed, as by an optimizer's step: gradients "
                               "through it would be wrong. Call backward() before the change, or compute "
                               "the loss again after it")


def kept_gradient(gradient: Array | None, node: Any) -> None:
    """Warn who asks for a gradient that `backward` does not keep."""
    if gradient is None and node is not None and not hasattr(node.vjp, "__wrapped__"):  # see retain_grad
        warnings.warn(f"this tensor was computed by {node.operation}, and backward() keeps gradients of "
                      "leaves only: call y.retain_grad() before backward() for that of y", stacklevel=3)


def first_gradient(grad: Any, x: Any) -> Array:
    """The gradient from which `backward` starts at x: the one given, or 1 for a single element."""
    if not x.requires_grad:
        raise RuntimeError("backward() on a tensor that no leaf with requires_grad=True leads to, "
                           "or that was computed under no_grad()")
    if grad is None and x.data.size != 1:
        raise ValueError(f"backward() without grad needs a tensor of one element, this one has shape "
                         f"{x.shape}: pass grad of that shape, or reduce with tr.sum or tr.mean first")
    if grad is None:
        return backend.xp_of(x.data).ones_like(x.data)
    grad = grad.data if _is_tensor(grad) else grad
    grad = plain(grad) if backend.is_array(grad) else backend.xp_of(x.data).asarray(grad, x.dtype)
    gradient(grad, x.node or x, "the grad given to backward()")
    return grad


def gradient(gradient: Any, node: Any, what: str) -> None:
    """Every gradient has its tensor's shape, dtype and library: this finds a faulty operation at once."""
    if not backend.is_array(gradient) and not isinstance(gradient, numpy.generic):
        raise TypeError(f"{what} is a {type(gradient).__name__}: expected an array of shape {node.shape}")
    library = node.library if hasattr(node, "library") else backend.xp_of(node.data)
    if (gradient.shape, gradient.dtype, backend.xp_of(gradient)) != (node.shape, node.dtype, library):
        raise ValueError(f"{what} has shape {gradient.shape}, dtype {gradient.dtype} in "
                         f"{backend.xp_of(gradient).__name__}, but its tensor has shape {node.shape}, dtype "
                         f"{node.dtype} in {library.__name__}")


def gradients(gradients: Any, node: Any) -> None:
    """What a vjp returns: a tuple with one gradient for each parent."""
    if not isinstance(gradients, tuple) or len(gradients) != len(node.parents):
        got = f"a tuple of {len(gradients)}" if isinstance(gradients, tuple) else type(gradients).__name__
        raise TypeError(f"the vjp of {node.operation} returned {got}: expected a tuple of "
                        f"{len(node.parents)}, one gradient for each parent, such as (g,)")
