"""Tensor: an array that remembers how it was computed, so that gradients can flow back through it.

Every operation returns `Tensor(out, parents=(a, b), vjp=...)`. The function `vjp` (vector-Jacobian product)
takes g, the gradient of the loss with respect to `out`, and returns a tuple with one gradient for each
parent, of its shape and dtype, or None for a parent that needs none. For example, y = a * b is

    y = Tensor(a.data * b.data, parents=(a, b), vjp=lambda g: (g * b.data, g * a.data))

That is the whole of automatic differentiation: `backward` walks the graph from the loss to the leaves, the
tensors that no operation computed, such as weights, and calls each vjp in turn.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from . import backend
from .backend import Array
from .extras.methods import Methods
from .kernel import kernel
from .support import names
from .support import tensor_checks as checks
from .support.context import no_grad, operations, recording
from .support.numerics import quietly

__all__ = ["Node", "Tensor", "no_grad", "operation"]

VJP = Callable[[Array], tuple[Array | None, ...]]
Formula = tuple[Array, Callable[[Array], Array]]  # a result, and from its gradient to that of x
P = ParamSpec("P")


@kernel
def sum_of_two(a: Array, b: Array) -> Array:
    """a + b, with broadcasting; `backward` adds gradients too."""
    return a + b


@kernel
def leaf_gradient(gradient: Array) -> Array:
    """What a leaf keeps of a gradient: a copy, since others may hold the array."""
    return backend.xp_of(gradient).array(gradient)


class Tensor(Methods):
    """An array of float16, float32 or float64 values with a gradient.

    data: array, nested list or number. An array of floats is kept, not copied; one of integers becomes
        float32. Lists and Python's numbers become float32 in the library of `tr.backend.use`.
    requires_grad: whether `backward` should leave the gradient of this leaf in `.grad`.
    parents, vjp: how the tensor was computed; given by operations, not by users.

    Raises TypeError if data are not real numbers of up to 64 bits, ValueError for lists of unequal lengths.
    """

    __slots__ = ("_data", "_grad", "_grad_version", "version", "requires_grad", "node", "__weakref__")

    def __init__(self, data: object, requires_grad: bool = False, *,
                 parents: tuple[Tensor, ...] = (), vjp: VJP | None = None) -> None:
        self._data, self._grad, self.version = checks.float_array(data), None, 0
        self.requires_grad, self.node = requires_grad, None
        if recording.get() and any(parent.requires_grad for parent in parents):
            self.requires_grad, self.node = True, Node(self._data, parents, vjp)

    @property
    def data(self) -> Array:
        """The values, an array; RuntimeError if those of a computed tensor are replaced."""
        return self._data

    @data.setter
    def data(self, data: Array) -> None:
        checks.unchanged(self.node)
        self._data, self.version = checks.float_array(data), self.version + 1

    @property
    def grad(self) -> Array | None:
        """The gradient, an array, of the values that there were when `backward` set it; before that, None."""
        checks.kept_gradient(self._grad, self.node)
        return self._grad

    @grad.setter
    def grad(self, grad: Array | None) -> None:
        self._grad, self._grad_version = grad, self.version

    def backward(self, grad: object = None) -> None:
        """Set `.grad` of every leaf that this tensor was computed from and that requires a gradient.

        grad: the gradient of the loss with respect to this tensor; default, for a single element: 1.

        A gradient of the present values is added to, one of earlier values replaced: those of several losses
        accumulate, and after an optimizer's step there is nothing to set to zero.
        Raises RuntimeError without a graph or if a leaf has changed, ValueError for an unfit grad.
        """
        gradients = {self.node or self: checks.first_gradient(grad, self)}
        with quietly():
            for node in _topological_order(self.node or self):
                g = gradients.pop(node)
                if isinstance(node, Tensor):  # a leaf
                    node.grad = leaf_gradient(g) if node.is_spent() else sum_of_two(node.grad, g)
                    continue
                for parent, part in zip(node.parents, node.gradients(g), strict=True):
                    if parent.requires_grad:
                        checks.gradient(part, parent, f"a gradient computed by {node.operation}")
                        known = gradients.get(parent)  # a tensor that is used twice gets the sum
                        gradients[parent] = part if known is None else sum_of_two(known, part)

    # What operators call returns Tensors, so it comes after this class: arithmetic.py fills in `operations`.
    def __add__(self, other: object) -> Tensor: return operations.add(self, other)
    def __radd__(self, other: object) -> Tensor: return operations.add(other, self)
    def __sub__(self, other: object) -> Tensor: return operations.subtract(self, other)
    def __rsub__(self, other: object) -> Tensor: return operations.subtract(other, self)
    def __mul__(self, other: object) -> Tensor: return operations.multiply(self, other)
    def __rmul__(self, other: object) -> Tensor: return operations.multiply(other, self)
    def __truediv__(self, other: object) -> Tensor: return operations.divide(self, other)
    def __rtruediv__(self, other: object) -> Tensor: return operations.divide(other, self)
    def __matmul__(self, other: object) -> Tensor: return operations.matmul(self, other)
    def __rmatmul__(self, other: object) -> Tensor: return operations.matmul(other, self)
    def __pow__(self, other: object) -> Tensor: return operations.power(self, other)
    def __rpow__(self, other: object) -> Tensor: return operations.power(other, self)
    def __neg__(self) -> Tensor: return operations.multiply(self, -1.0)


class Node:
    """What the graph keeps of a computed tensor: how to go back from it, not its values.

    Values that some gradient needs are held by the `vjp`; all others are freed with their tensor. parents
    holds the nodes of computed tensors and, at the leaves, the tensors themselves.
    """

    __slots__ = ("parents", "versions", "vjp", "shape", "dtype", "library")
    requires_grad = True

    def __init__(self, out: Array, parents: tuple[Tensor, ...], vjp: VJP | None) -> None:
        self.vjp = checks.vjp_of(parents, vjp)
        self.parents: tuple[Node | Tensor, ...] = tuple(parent.node or parent for parent in parents)
        self.versions = tuple(parent.version for parent in parents)
        self.shape, self.dtype, self.library = out.shape, out.dtype, backend.xp_of(out)

    @property
    def operation(self) -> str:
        """The name of the function that defined the vjp, for messages."""
        return getattr(self.vjp, "__qualname__", "an operation").split(".<locals>")[0]

    def gradients(self, g: Array) -> tuple[Array | None, ...]:
        """What the vjp returns, one gradient for each parent; TypeError if it does not."""
        checks.parents_unchanged(self)
        gradients = self.vjp(g)
        checks.gradients(gradients, self)
        return gradients


def _topological_order(root: Node | Tensor) -> list[Node | Tensor]:
    """What needs a gradient, each before its parents. No recursion: graphs can be deep."""
    order: list[Node | Tensor] = []
    seen, stack = set(), [(root, False)]
    while stack:
        node, parents_are_done = stack.pop()
        if parents_are_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            parents = () if isinstance(node, Tensor) else node.parents
            stack += [(node, True), *((parent, False) for parent in parents[::-1] if parent.requires_grad)]
    return order[::-1]


def operation(formula: Callable[Concatenate[Array, P], Formula]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """Turn a formula for arrays into an operation on a Tensor, which raises TypeError for anything else.

    y, vjp = formula(x, ...), where vjp is the function from the gradient of y to that of x, becomes
    Tensor(y, parents=(x,), vjp=lambda g: (vjp(g),)).
    """
    name = formula.__name__

    @functools.wraps(formula)
    def on_tensor(*arguments: Any, **named: Any) -> Tensor:
        x, *rest = arguments or checks.by_name(formula, named)
        names.keywords(formula, named)
        if not isinstance(x, Tensor):
            raise checks.tensor_expected(name, x)
        with quietly():
            result = formula(x.data, *rest, **named)
        out, gradient_of_x = checks.formula(name, result, 1)

        def vjp(g: Array) -> tuple[Array]:
            return (gradient_of_x(g),)

        vjp.__qualname__ = name  # for Node.operation
        return Tensor(out, parents=(x,), vjp=vjp)

    checks.of_tensors(on_tensor, 1)
    return on_tensor
