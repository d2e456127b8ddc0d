"""The operators + - * / ** @ on tensors, each as its formula.

g is the gradient of the loss with respect to the result. Operands broadcast as in NumPy. One of them may be a
number, list or integer array, which takes the tensor's dtype; floats of another dtype, or arrays of another
library, raise TypeError.
"""
from __future__ import annotations

import functools
from collections.abc import Callable

from .backend import Array
from .kernel import kernel
from .support import operation_checks as checks
from .support import tensor_checks
from .support.context import operations
from .support.numerics import quietly, total
from .tensor import Formula, Tensor, operation, sum_of_two

FormulaOfTwo = tuple[Array, Callable[[Array], Array], Callable[[Array], Array]]


def operation_of_two(formula: Callable[[Array, Array], FormulaOfTwo],
                     check_shapes: Callable[..., None] = checks.broadcast
                     ) -> Callable[[object, object], Tensor]:
    """Turn a formula for two arrays into an operation on Tensors, of which one may be a number or an array.

    y, of_a, of_b = formula(a, b): the last two are functions from the gradient of y to those of a and b.
    """
    @functools.wraps(formula)
    def on_tensors(a: object, b: object) -> Tensor:
        a, b = checks.operands(formula.__name__, a, b)
        check_shapes(formula.__name__, a, b)
        with quietly():
            result = formula(a.data, b.data)
        out, of_a, of_b = tensor_checks.formula(formula.__name__, result, 2)
        gradient_of_a, gradient_of_b = _of_operand(a, of_a), _of_operand(b, of_b)

        def vjp(g: Array) -> tuple[Array | None, Array | None]:
            return gradient_of_a(g), gradient_of_b(g)

        vjp.__qualname__ = formula.__name__
        return Tensor(out, parents=(a, b), vjp=vjp)

    tensor_checks.of_tensors(on_tensors, 2)
    return on_tensors


def _of_operand(x: Tensor, gradient: Callable[[Array], Array]) -> Callable[[Array], Array | None]:
    """The same for an operand that may have been broadcast; None for one that requires no gradient."""
    node = x.node or x  # what the graph holds of it
    return lambda g: unbroadcast(gradient(g), node.shape) if node.requires_grad else None


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the axes along which an operand of this shape was repeated by broadcasting."""
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    repeated = tuple(extra + i for i, size in enumerate(shape) if size != gradient.shape[extra + i])
    return total(gradient, (*range(extra), *repeated)).reshape(shape)


@operation_of_two
def add(a: Array, b: Array) -> FormulaOfTwo:
    """a + b, with broadcasting."""
    return sum_of_two(a, b), lambda g: g, lambda g: g


@operation_of_two
def subtract(a: Array, b: Array) -> FormulaOfTwo:
    """a - b, with broadcasting."""
    return a - b, lambda g: g, lambda g: -g


@operation_of_two
def multiply(a: Array, b: Array) -> FormulaOfTwo:
    """a * b elementwise, with broadcasting."""
    return a * b, lambda g: g * b, lambda g: g * a


@operation_of_two
def divide(a: Array, b: Array) -> FormulaOfTwo:
    """a / b elementwise, with broadcasting."""
    y = a / b
    return y, lambda g: g / b, lambda g: -g * y / b


@operation
def power(a: Array, exponent: float) -> Formula:
    """a ** exponent elementwise; TypeError unless the exponent is a number."""
    n = checks.exponent(exponent)
    return a ** n, lambda g: g * (n * a ** (n - 1)) if n else g * 0.0  # no 0 * inf at a = 0


@kernel
def matrix_product(a: Array, b: Array) -> Array:
    """a (..., n, m) @ b (..., m, p): (..., n, p)."""
    return a @ b


@functools.partial(operation_of_two, check_shapes=checks.matrices)
def matmul(a: Array, b: Array) -> FormulaOfTwo:
    """a (..., n, m) @ b (..., m, p): (..., n, p); leading axes broadcast. ValueError for other shapes."""
    return (matrix_product(a, b), lambda g: matrix_product(g, b.swapaxes(-1, -2)),
            lambda g: matrix_product(a.swapaxes(-1, -2), g))


operations.add, operations.subtract, operations.multiply, operations.divide = add, subtract, multiply, divide
operations.power, operations.matmul = power, matmul
