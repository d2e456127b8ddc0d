"""What users of NumPy and PyTorch expect of a Tensor besides its operators: x.sum(), len(x), x > 0,
f"{x:.3f}", x.retain_grad(), and an error where a gradient would silently go wrong."""
from __future__ import annotations

import functools
import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy

from .. import backend
from ..backend import Array
from ..support import names
from ..support.context import operations, recording

Axes = int | Sequence[int] | None
ndarray = numpy.ndarray  # below, numpy is a method
Same = TypeVar("Same", bound="Methods")


class Methods:
    """The methods of a Tensor besides its operators and `backward`."""

    __slots__ = ()
    __array_ufunc__ = None  # so that NumPy leaves `array + tensor` to Tensor.__radd__
    __hash__ = object.__hash__  # two tensors of equal values are two tensors

    data: Any
    grad: Any
    node: Any
    requires_grad: bool
    version: int  # rises when the values are replaced, or an optimizer moves them
    _grad: Any
    _grad_version: int

    # Operations, as methods. These are the functions of that name themselves, which `add_methods` puts here:
    if TYPE_CHECKING:
        def sum(self: Same, axis: Axes = None, keepdims: bool = False) -> Same: ...
        def mean(self: Same, axis: Axes = None, keepdims: bool = False) -> Same: ...
        def max(self: Same, axis: Axes = None, keepdims: bool = False) -> Same: ...
        def min(self: Same, axis: Axes = None, keepdims: bool = False) -> Same: ...
        def var(self: Same, axis: Axes = None, keepdims: bool = False, correction: int = 1) -> Same: ...
        def std(self: Same, axis: Axes = None, keepdims: bool = False, correction: int = 1) -> Same: ...
        def clip(self: Same, low: Any = None, high: Any = None) -> Same: ...
        def squeeze(self: Same, axis: Axes = None) -> Same: ...
        def unsqueeze(self: Same, axis: int) -> Same: ...
        def flatten(self: Same, start_axis: int = 0, end_axis: int = -1) -> Same: ...
        def split(self: Same, size: int | Sequence[int], axis: int = 0) -> tuple[Same, ...]: ...
        def astype(self: Same, dtype: Any) -> Same: ...

    def reshape(self: Same, *shape: Any) -> Same:
        """`tr.reshape`, as x.reshape((2, 3)) or x.reshape(2, 3)."""
        return operations.reshape(self, shape[0] if len(shape) == 1 else shape)

    def transpose(self: Same, *axes: Any) -> Same:
        """`tr.transpose`, as x.transpose(), x.transpose((1, 0)) or x.transpose(1, 0)."""
        one_by_one = axes and hasattr(axes[0], "__index__")
        return operations.transpose(self, axes if one_by_one else axes[0] if axes else None)

    @property
    def T(self: Same) -> Same:
        """The axes in reversed order."""
        return operations.transpose(self)

    def __getitem__(self: Same, index: Any) -> Same:
        """x[index], index as in NumPy."""
        return operations.getitem(self, index)

    def __abs__(self: Same) -> Same:
        return operations.abs(self)

    def __getattr__(self, name: str) -> Any:
        raise names.missing("a Tensor", name, "(x)")

    def __array_function__(self, function: Any, types: Any, arguments: Any, named: Any) -> Any:
        """numpy.sum(x) and others that have a counterpart here, which gradients go through, name it; to all
        others the values go, as to numpy.asarray."""
        if here := names.function_of(function.__name__):
            raise TypeError(f"numpy.{function.__name__} does not take a Tensor, for what NumPy computes is "
                            f"not in the graph: write {here}, or give it x.numpy()")
        return function._implementation(*arguments, **named)

    # Values out of a tensor, as Python and NumPy ask for them. None of these is recorded.

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the axes."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.data.ndim

    @property
    def dtype(self) -> numpy.dtype:
        """float16, float32 or float64."""
        return self.data.dtype

    @property
    def size(self) -> int:
        """The number of values."""
        return self.data.size

    def numpy(self) -> ndarray:
        """The values as a NumPy array; on the CPU it shares memory with the tensor."""
        return backend.to_numpy(self.data)

    def detach(self: Same) -> Same:
        """A tensor over the same memory, cut off from the graph."""
        return type(self)(self.data)  # type: ignore[call-arg]

    def item(self) -> float:
        """The value of a tensor of one element as a float. Raises ValueError if it has more or none."""
        if self.size != 1:
            raise ValueError(f"item() needs a tensor of one element, this one has shape {self.shape}")
        return float(self.data.reshape(()))

    def argmax(self, axis: int | None = None) -> Array:
        """Where the largest value is, an array of indices: no gradient goes through it."""
        return self.data.argmax(axis)

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a tensor without axes")
        return len(self.data)

    def __iter__(self: Same) -> Iterator[Same]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(f"a tensor of shape {self.shape} is neither true nor false: compare its "
                             "values, as in (x > 0).all()")
        return bool(self.item())

    def __repr__(self) -> str:
        return f"Tensor({self.data!r}{', requires_grad=True' if self.requires_grad else ''})"

    def __float__(self) -> float:
        return self.item()

    def __format__(self, form: str) -> str:
        if form and self.size != 1:
            raise TypeError(f"format {form!r} needs a tensor of one element, this one has shape "
                            f"{self.shape}")
        return format(self.item(), form) if form else str(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> ndarray:
        """A copy of the values for numpy.asarray and everything that calls it."""
        if self.requires_grad and recording.get():
            raise TypeError("a Tensor that requires a gradient does not turn into a NumPy array by itself, "
                            "for what NumPy computes is not in the graph: write x.numpy() for its values, or "
                            "use the functions of tinyres, as tr.stack for a list of tensors")
        if copy is False:
            raise ValueError("a Tensor turns into a NumPy array by a copy only: write x.numpy()")
        return numpy.array(self.numpy(), dtype)

    # Comparisons give arrays of truth values, elementwise.

    def _compare(self, compare: Callable[[Any, Any], Any], other: object) -> Any:
        if isinstance(other, Methods):
            other = other.data
        elif not (backend.is_array(other) or isinstance(other, (int, float, list, tuple, numpy.generic))):
            return NotImplemented  # x == None is False
        return compare(self.data, other)

    def __lt__(self, other: object) -> Array: return self._compare(operator.lt, other)
    def __le__(self, other: object) -> Array: return self._compare(operator.le, other)
    def __gt__(self, other: object) -> Array: return self._compare(operator.gt, other)
    def __ge__(self, other: object) -> Array: return self._compare(operator.ge, other)
    def __eq__(self, other: object) -> Array: return self._compare(operator.eq, other)
    def __ne__(self, other: object) -> Array: return self._compare(operator.ne, other)

    # Changes in place, where a gradient could go wrong.

    def _in_place(self: Same, sign: str, operation: Callable[..., Any], other: object) -> Same:
        """The result as a new tensor under the old name; for a leaf under no_grad(), in place."""
        leaf = self.node is None and self.requires_grad
        if leaf and recording.get():
            raise RuntimeError(f"w {sign}= ... would make of the leaf w a tensor that an operation computed, "
                               f"which gets no .grad: write w.data {sign}= ..., or put it into `with "
                               "tr.no_grad():`, or use an optimizer of tr.optim")
        result = operation(self, other)
        if not leaf:
            return result
        if result.shape != self.shape:
            raise ValueError(f"w {sign}= ...: a result of shape {result.shape} does not fit into w, of shape "
                             f"{self.shape}")
        self.data[...] = result.data
        self.version += 1
        return self

    def __iadd__(self: Same, other: object) -> Same: return self._in_place("+", operations.add, other)
    def __isub__(self: Same, other: object) -> Same: return self._in_place("-", operations.subtract, other)
    def __imul__(self: Same, other: object) -> Same: return self._in_place("*", operations.multiply, other)
    def __itruediv__(self: Same, other: object) -> Same: return self._in_place("/", operations.divide, other)

    def __setitem__(self, index: object, value: object) -> None:
        raise TypeError("a tensor is not changed in place: write x.data[index] = value for a leaf, before it "
                        "is used, or compute a new tensor")

    def is_spent(self) -> bool:
        """Whether `.grad` is None or belongs to values that the tensor no longer has."""
        return self._grad is None or self._grad_version != self.version

    def retain_grad(self) -> None:
        """Let `backward` set `.grad` of this tensor too, though an operation computed it.

        Raises RuntimeError if it requires no gradient.
        """
        if not self.requires_grad:
            raise RuntimeError("retain_grad() on a tensor that requires no gradient")
        if self.node is not None:
            vjp, reference = self.node.vjp, weakref.ref(self)  # the graph must not hold the values

            @functools.wraps(vjp)
            def keeping(g: Array) -> tuple[Array | None, ...]:
                if (x := reference()) is not None:
                    x.grad = g.copy() if x.is_spent() else x.grad + g
                return vjp(g)

            self.node.vjp = keeping


def add_methods(*functions: Callable[..., Any]) -> None:
    """Make methods of a Tensor of functions whose first argument is one, so that x.sum() is sum(x)."""
    for function in functions:
        setattr(Methods, function.__name__, function)
