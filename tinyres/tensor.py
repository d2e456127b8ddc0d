"""Tensor: an array that remembers how it was computed, so that gradients can flow back through it.

Every operation returns `Tensor(out, parents=(a, b), vjp=...)`. The function `vjp` (vector-Jacobian product)
takes the gradient of the loss with respect to `out` and returns the gradients with respect to each parent.
That is the whole of automatic differentiation: `backward` walks the graph from the loss to the leaves and
calls them in turn.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from numbers import Real

import numpy

from . import backend, gpu
from .backend import Array
from .cpu import elementwise

VJP = Callable[[Array], "tuple[Array | None, ...]"]

_recording: ContextVar[bool] = ContextVar("recording", default=True)


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Within this context operations record no graph: for evaluation, where no gradient is wanted."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


class Node:
    """What the graph keeps of a tensor that an operation computed: how to go back from it, not its values.

    y = a * b makes a Tensor y for the program, and for the graph Node(parents=(a, b), vjp): as long as y's
    gradient may be wanted the node lives, and y's array only if a vjp after it needs it.

    The values that some gradient needs are held by that `vjp`; all others are freed with their tensor.
    parents holds the nodes of computed tensors and, at the leaves, the tensors themselves.
    """

    __slots__ = ("parents", "vjp", "shape", "dtype", "library")
    requires_grad = True

    def __init__(self, out: Array, parents: tuple[Tensor, ...], vjp: VJP) -> None:
        self.parents: tuple[Node | Tensor, ...] = tuple(parent.node or parent for parent in parents)
        self.vjp = vjp
        self.shape, self.dtype, self.library = out.shape, out.dtype, backend.xp_of(out)


class Tensor:
    """An array of float16, float32 or float64 values with a gradient.

    data: array, nested list or number. An array of floats is kept as it is, not copied. Everything else
        becomes float32, in the library chosen by `tr.backend.use`.
    requires_grad: whether `backward` should leave the gradient of this leaf in `.grad`.
    parents, vjp: how the tensor was computed; given by operations, not by users.

    Raises TypeError if data are not real numbers.
    """

    __slots__ = ("data", "grad", "grad_memory", "requires_grad", "node", "__weakref__")
    __array_ufunc__ = None  # so that NumPy leaves `array + tensor` to Tensor.__radd__

    def __init__(self, data: object, requires_grad: bool = False, *,
                 parents: tuple[Tensor, ...] = (), vjp: VJP | None = None) -> None:
        self.data: Array = _as_float_array(data)
        self.grad: Array | None = None
        self.grad_memory: Array | None = None  # where `backward` puts .grad if an optimizer wants it there
        if vjp is not None and _recording.get() and any(parent.requires_grad for parent in parents):
            self.requires_grad, self.node = True, Node(self.data, parents, vjp)
        else:
            self.requires_grad, self.node = requires_grad, None

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
        to set to zero between steps. To accumulate over several losses, add the losses. Where SGD gave a
        parameter memory for its gradient, on a GPU, that is written over: copy a gradient that you keep.
        Raises RuntimeError without a graph, ValueError for a grad of the wrong shape, dtype or library.
        """
        if not self.requires_grad:
            raise RuntimeError("backward() on a tensor that no leaf with requires_grad=True leads to, "
                               "or that was computed under no_grad()")
        xp = backend.xp_of(self.data)
        if grad is None:
            if self.data.size != 1:
                raise ValueError(f"backward() without grad needs a tensor of one element, this one has shape "
                                 f"{self.shape}: pass grad of that shape, or reduce with tr.sum or tr.mean "
                                 "first")
            grad = xp.ones_like(self.data)
        elif isinstance(grad, Tensor):
            grad = grad.data
        elif not backend.is_array(grad):
            grad = xp.asarray(grad, self.dtype)
        root = self.node or self
        _check_gradient(grad, root, "the grad given to backward()")

        gradients = {id(root): grad}
        for node in _topological_order(root):
            gradient = gradients.pop(id(node))
            if isinstance(node, Tensor):
                if node.grad_memory is None:
                    node.grad = xp.array(gradient)  # a copy: other leaves may hold the same array
                else:
                    node.grad_memory[...] = gradient
                    node.grad = node.grad_memory
                continue
            for parent, parent_gradient in zip(node.parents, node.vjp(gradient), strict=True):
                if not parent.requires_grad:
                    continue
                _check_gradient(parent_gradient, parent, "a gradient computed by an operation")
                if id(parent) in gradients:
                    # a new array, since the first one may be shared with another parent
                    parent_gradient = elementwise(xp.add, gradients[id(parent)], parent_gradient)
                gradients[id(parent)] = parent_gradient

    def __neg__(self) -> Tensor:
        return multiply(self, -1.0)

    def __add__(self, other: object) -> Tensor:
        return add(self, other)

    def __radd__(self, other: object) -> Tensor:
        return add(other, self)

    def __sub__(self, other: object) -> Tensor:
        return subtract(self, other)

    def __rsub__(self, other: object) -> Tensor:
        return subtract(other, self)

    def __mul__(self, other: object) -> Tensor:
        return multiply(self, other)

    def __rmul__(self, other: object) -> Tensor:
        return multiply(other, self)

    def __truediv__(self, other: object) -> Tensor:
        return divide(self, other)

    def __rtruediv__(self, other: object) -> Tensor:
        return divide(other, self)

    def __pow__(self, exponent: float) -> Tensor:
        return power(self, exponent)

    def __matmul__(self, other: object) -> Tensor:
        return matmul(self, other)

    def __rmatmul__(self, other: object) -> Tensor:
        return matmul(other, self)


def _as_float_array(data: object) -> Array:
    if isinstance(data, Tensor):
        raise TypeError("Tensor(tensor): expected an array or numbers; use tensor.detach() for a tensor off "
                        "the graph")
    if isinstance(data, numpy.generic):
        data = numpy.asarray(data)
    if not backend.is_array(data):
        data = numpy.asarray(data)
        kind = data.dtype.kind
        data = backend.current().asarray(data, dtype=numpy.float32 if kind in "biuf" else data.dtype)
    if data.dtype.kind == "f" and data.dtype.itemsize <= 8:
        return data
    if data.dtype.kind in "biu":
        return data.astype(numpy.float32)
    raise TypeError(f"a Tensor holds float16, float32 or float64, got an array of dtype {data.dtype}: "
                    "convert it first")


def _check_gradient(gradient: Array, node: Node | Tensor, what: str) -> None:
    """Every gradient has its tensor's shape, dtype and library: this finds a faulty operation at once."""
    library = backend.xp_of(node.data) if isinstance(node, Tensor) else node.library
    expected = (node.shape, node.dtype, library.__name__)
    got = (gradient.shape, gradient.dtype, backend.xp_of(gradient).__name__)
    if got != expected:
        raise ValueError(f"{what} has shape {got[0]}, dtype {got[1]} in {got[2]}, but its tensor has shape "
                         f"{expected[0]}, dtype {expected[1]} in {expected[2]}")


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


def operands(name: str, a: object, b: object) -> tuple[Tensor, Tensor]:
    """Both operands of a binary operation as tensors of one dtype and library.

    Numbers take the dtype of the other operand, so that a Python or NumPy scalar never widens float32.
    Raises TypeError, naming both operands, if the dtypes or libraries differ.
    """
    if not isinstance(a, Tensor):
        a = _constant(name, a, b)
    if not isinstance(b, Tensor):
        b = _constant(name, b, a)
    if backend.xp_of(a.data) is not backend.xp_of(b.data):
        libraries = [backend.xp_of(tensor.data).__name__ for tensor in (a, b)]
        raise TypeError(f"{name}: the first operand {a.shape} is a {libraries[0]} array, the second "
                        f"{b.shape} a {libraries[1]} array: make both with the library chosen by "
                        "tr.backend.use(...)")
    if a.dtype != b.dtype:
        raise TypeError(f"{name}: the first operand {a.shape} is {a.dtype}, the second {b.shape} is "
                        f"{b.dtype}: convert one with .astype(...) before making the Tensor")
    return a, b


def _constant(name: str, value: object, like: object) -> Tensor:
    if backend.is_array(value) and value.ndim > 0 and value.dtype.kind not in "biu":
        return Tensor(value)
    if isinstance(like, Tensor) and (isinstance(value, (Real, list, tuple)) or backend.is_array(value)):
        if isinstance(value, Real):
            return Tensor(backend.xp_of(like.data).full((), value, like.dtype))  # made there, not sent there
        return Tensor(backend.xp_of(like.data).asarray(value, dtype=like.dtype))
    raise TypeError(f"{name}: expected a Tensor, an array or a number, got {type(value).__name__}: "
                    f"{value!r:.60}")


def _broadcast_shape(name: str, a: Tensor, b: Tensor) -> None:
    try:
        numpy.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ValueError(f"{name}: shapes {a.shape} and {b.shape} do not broadcast: counted from the right, "
                         f"each pair of sizes must be equal or one of them 1") from None


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the axes along which an operand of this shape was repeated by broadcasting."""
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    repeated = tuple(extra + i for i, size in enumerate(shape) if size != gradient.shape[extra + i])
    return gradient.sum(axis=tuple(range(extra)) + repeated, keepdims=True).reshape(shape)


def add(a: object, b: object) -> Tensor:
    """a + b, with broadcasting."""
    a, b = operands("add", a, b)
    _broadcast_shape("add", a, b)
    xp = backend.xp_of(a.data)
    out = elementwise(xp.add, a.data, b.data) if a.shape == b.shape else a.data + b.data
    shapes = a.shape, b.shape  # so that the graph need not hold a and b
    return Tensor(out, parents=(a, b), vjp=lambda g: (unbroadcast(g, shapes[0]), unbroadcast(g, shapes[1])))


def subtract(a: object, b: object) -> Tensor:
    """a - b, with broadcasting."""
    a, b = operands("subtract", a, b)
    _broadcast_shape("subtract", a, b)
    shapes = a.shape, b.shape
    return Tensor(a.data - b.data, parents=(a, b),
                  vjp=lambda g: (unbroadcast(g, shapes[0]), unbroadcast(-g, shapes[1])))


def multiply(a: object, b: object) -> Tensor:
    """a * b elementwise, with broadcasting."""
    a, b = operands("multiply", a, b)
    _broadcast_shape("multiply", a, b)
    return Tensor(a.data * b.data, parents=(a, b),
                  vjp=lambda g: (unbroadcast(g * b.data, a.shape) if a.requires_grad else None,
                                 unbroadcast(g * a.data, b.shape) if b.requires_grad else None))


def divide(a: object, b: object) -> Tensor:
    """a / b elementwise, with broadcasting."""
    a, b = operands("divide", a, b)
    _broadcast_shape("divide", a, b)
    out = a.data / b.data
    return Tensor(out, parents=(a, b),
                  vjp=lambda g: (unbroadcast(g / b.data, a.shape) if a.requires_grad else None,
                                 unbroadcast(-g * out / b.data, b.shape) if b.requires_grad else None))


def power(a: Tensor, exponent: float) -> Tensor:
    """a ** exponent elementwise, for a fixed number as exponent. Raises TypeError for any other exponent."""
    if not isinstance(exponent, Real):
        raise TypeError(f"power: expected a number as exponent, got {type(exponent).__name__}: "
                        f"write tr.exp(tr.log(a) * b) for a tensor exponent")
    exponent = float(exponent)
    return Tensor(a.data ** exponent, parents=(a,),
                  vjp=lambda g: (g * (exponent * a.data ** (exponent - 1)) if exponent else g * 0.0,))


def matmul(a: object, b: object) -> Tensor:
    """Matrix product of a (..., n, m) and b (..., m, p), giving (..., n, p); leading axes broadcast as in
    NumPy.

    Raises ValueError if an operand has fewer than two axes or the inner sizes differ.
    """
    a, b = operands("matmul", a, b)
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: shapes {a.shape} and {b.shape} do not fit: expected (..., n, m) and (..., "
                         f"m, p); reshape a vector to (1, m) or (m, 1)")

    def vjp(g: Array) -> tuple[Array | None, Array | None]:
        return (unbroadcast(_product(g, b.data.swapaxes(-1, -2)), a.shape) if a.requires_grad else None,
                unbroadcast(_product(a.data.swapaxes(-1, -2), g), b.shape) if b.requires_grad else None)

    return Tensor(_product(a.data, b.data), parents=(a, b), vjp=vjp)


def _product(a: Array, b: Array) -> Array:
    xp = backend.xp_of(a)
    if xp is numpy or not a.ndim == b.ndim == 2:
        return a @ b
    out = xp.empty((len(a), b.shape[1]), a.dtype)
    return gpu.matmul(xp.ascontiguousarray(a), xp.ascontiguousarray(b), out)
