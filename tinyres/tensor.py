"""Tensor: an array that remembers how it was computed, so that gradients can flow back through it.

Every operation returns `Tensor(out, parents=(a, b), vjp=...)`. The function `vjp` (vector-Jacobian product)
takes the gradient of the loss with respect to `out` and returns a tuple with one gradient for each parent, of
its shape and dtype, or None for a parent that needs none. That is the whole of automatic differentiation:
`backward` walks the graph from the loss to the leaves, the tensors that no operation computed, such as
weights, and calls each vjp in turn. For example, y = a * b is

    y = Tensor(a.data * b.data, parents=(a, b), vjp=lambda g: (g * b.data, g * a.data))
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import numpy

from . import backend
from .backend import Array
from .kernel import kernel, setting

VJP = Callable[[Array], "tuple[Array | None, ...]"]

recording: ContextVar[bool] = ContextVar("recording", default=True)  # False under no_grad()


@kernel
def sum_of_two(a: Array, b: Array) -> Array:
    """a + b, with broadcasting. Here, and not in arithmetic.py, because `backward` adds gradients too."""
    return a + b


@kernel
def leaf_gradient(gradient: Array) -> Array:
    """What a leaf keeps of a gradient: a copy, for others may hold the same array."""
    return backend.xp_of(gradient).array(gradient)


class Tensor:
    """An array of float16, float32 or float64 values with a gradient.

    data: array, nested list or number. An array of floats is kept as it is, not copied; one of integers
        becomes float32. Lists and Python's numbers become float32 in the library of `tr.backend.use`.
    requires_grad: whether `backward` should leave the gradient of this leaf in `.grad`.
    parents, vjp: how the tensor was computed; given by operations, not by users.

    Raises TypeError if data are not real numbers of up to 64 bits, or for parents that need a gradient
    without a vjp, and ValueError for lists of unequal lengths.
    """

    __slots__ = ("data", "grad", "requires_grad", "node", "__weakref__")
    __array_ufunc__ = None  # so that NumPy leaves `array + tensor` to Tensor.__radd__

    def __init__(self, data: object, requires_grad: bool = False, *,
                 parents: tuple[Tensor, ...] = (), vjp: VJP | None = None) -> None:
        self.data: Array = _as_float_array(data)
        self.grad: Array | None = None
        self.requires_grad, self.node = requires_grad, None
        if recording.get() and any(parent.requires_grad for parent in parents):
            self.requires_grad, self.node = True, Node(self.data, parents, vjp)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def dtype(self) -> numpy.dtype:
        return self.data.dtype

    def numpy(self) -> numpy.ndarray:
        """The values as a NumPy array; on the CPU it shares memory with the tensor."""
        return backend.to_numpy(self.data)

    def item(self) -> float:
        """The value of a tensor of one element as a float. Raises ValueError if it has more or none."""
        if self.data.size != 1:
            raise ValueError(f"item() needs a tensor of one element, this one has shape {self.shape}")
        return float(self.data.reshape(()))

    def detach(self) -> Tensor:
        """A tensor over the same memory that is cut off from the graph."""
        return Tensor(self.data)

    def __repr__(self) -> str:
        return f"Tensor({self.data!r}{', requires_grad=True' if self.requires_grad else ''})"

    def backward(self, grad: object = None) -> None:
        """Set `.grad` of every leaf that this tensor was computed from and that requires a gradient.

        grad: gradient of the loss with respect to this tensor, of its shape; may be left out for a single
            element, and is then 1.

        `.grad` is replaced, not added to: calling backward twice gives the same answer, and there is nothing
        to set to zero between steps. To accumulate over several losses, add the losses. Tensors that an
        operation computed get no `.grad`, and leaves outside this graph keep theirs.
        Raises RuntimeError without a graph, ValueError for a grad of the wrong shape, dtype or library.
        """
        if not self.requires_grad:
            raise RuntimeError("backward() on a tensor that no leaf with requires_grad=True leads to, "
                               "or that was computed under no_grad()")
        root = self.node or self  # a leaf stands for itself in the graph
        gradients = {id(root): self._initial_gradient(grad)}
        _check_gradient(gradients[id(root)], root, "the grad given to backward()")
        for node in _topological_order(root):
            gradient = gradients.pop(id(node))
            if isinstance(node, Tensor):  # a leaf
                node.grad = leaf_gradient(gradient)
                continue
            for parent, parent_gradient in zip(node.parents, node.gradients(gradient), strict=True):
                if not parent.requires_grad:
                    continue
                _check_gradient(parent_gradient, parent, f"a gradient computed by {node.operation}")
                if id(parent) in gradients:  # it was used more than once
                    parent_gradient = sum_of_two(gradients[id(parent)], parent_gradient)
                gradients[id(parent)] = parent_gradient

    def _initial_gradient(self, grad: object) -> Array:
        if grad is None and self.data.size != 1:
            raise ValueError(f"backward() without grad needs a tensor of one element, this one has shape "
                             f"{self.shape}: pass grad of that shape, or reduce with tr.sum or tr.mean first")
        if grad is None:
            return backend.xp_of(self.data).ones_like(self.data)
        grad = grad.data if isinstance(grad, Tensor) else grad
        return grad if backend.is_array(grad) else backend.xp_of(self.data).asarray(grad, self.dtype)


class Node:
    """What the graph keeps of a tensor that an operation computed: how to go back from it, not its values.

    y = a * b makes a Tensor y for the program, and for the graph Node(parents=(a, b), vjp). The values that
    some gradient needs are held by that `vjp`; all others are freed with their tensor. parents holds the
    nodes of computed tensors and, at the leaves, the tensors themselves.
    """

    __slots__ = ("parents", "vjp", "shape", "dtype", "library")
    requires_grad = True

    def __init__(self, out: Array, parents: tuple[Tensor, ...], vjp: VJP) -> None:
        if not callable(vjp) or isinstance(parents, Tensor):
            raise TypeError("an operation on tensors that require gradients needs parents=(x, ...), a tuple, "
                            "and vjp=, a function of g that returns one gradient for each, a tuple too: got "
                            f"parents {type(parents).__name__}, vjp {vjp!r:.60}")
        self.parents: tuple[Node | Tensor, ...] = tuple(parent.node or parent for parent in parents)
        self.vjp = vjp
        self.shape, self.dtype, self.library = out.shape, out.dtype, backend.xp_of(out)

    @property
    def operation(self) -> str:
        """The name of the function that defined the vjp, for messages."""
        return getattr(self.vjp, "__qualname__", "an operation").split(".<locals>")[0]

    def gradients(self, g: Array) -> tuple[Array | None, ...]:
        """What the vjp returns, one gradient for each parent. Raises TypeError if it does not."""
        gradients = self.vjp(g)
        if not isinstance(gradients, tuple) or len(gradients) != len(self.parents):
            got = f"a tuple of {len(gradients)}" if isinstance(gradients, tuple) else type(gradients).__name__
            raise TypeError(f"the vjp of {self.operation} returned {got}: expected a tuple of "
                            f"{len(self.parents)}, one gradient for each parent, such as (g,)")
        return gradients


def no_grad(function: Callable | None = None) -> contextlib.AbstractContextManager[None] | Callable:
    """Within this context operations record no graph: for evaluation, where no gradient is needed.

    Also a decorator of functions: @tr.no_grad() or @tr.no_grad.
    """
    context = setting(recording, False)
    return context(function) if function else context


def _topological_order(root: Node | Tensor) -> list[Node | Tensor]:
    """All that needs a gradient, each before its parents. No recursion: graphs can be deep."""
    order: list[Node | Tensor] = []
    seen = {id(root)}
    stack = [(root, _parents(root))]
    while stack:
        node, parents = stack[-1]
        for parent in parents:
            if parent.requires_grad and id(parent) not in seen:
                seen.add(id(parent))
                stack.append((parent, _parents(parent)))
                break
        else:
            order.append(node)
            stack.pop()
    return order[::-1]


def _parents(node: Node | Tensor) -> Iterator[Node | Tensor]:
    return iter(() if isinstance(node, Tensor) else node.parents)


def _check_gradient(gradient: Array, node: Node | Tensor, what: str) -> None:
    """Every gradient has its tensor's shape, dtype and library: this finds a faulty operation at once."""
    if not backend.is_array(gradient) and not isinstance(gradient, numpy.generic):
        raise TypeError(f"{what} is a {type(gradient).__name__}: expected an array of shape {node.shape}")
    library = backend.xp_of(node.data) if isinstance(node, Tensor) else node.library
    expected = (node.shape, node.dtype, library.__name__)
    got = (gradient.shape, gradient.dtype, backend.xp_of(gradient).__name__)
    if got != expected:
        raise ValueError(f"{what} has shape {got[0]}, dtype {got[1]} in {got[2]}, but its tensor has shape "
                         f"{expected[0]}, dtype {expected[1]} in {expected[2]}")


def _as_float_array(data: object) -> Array:
    if isinstance(data, Tensor):
        raise TypeError("Tensor(tensor): expected an array or numbers; tensor.detach() takes a tensor off "
                        "the graph")
    if isinstance(data, numpy.generic):
        data = numpy.asarray(data)
    if not backend.is_array(data):
        data = numpy.asarray(data)
        data = backend.current().asarray(data, numpy.float32 if data.dtype.kind in "biuf" else data.dtype)
    if data.dtype.kind == "f" and data.dtype.itemsize <= 8:
        return data
    if data.dtype.kind in "biu":
        return data.astype(numpy.float32)
    raise TypeError(f"a Tensor holds float16, float32 or float64, got an array of dtype {data.dtype}: "
                    "convert it first")
