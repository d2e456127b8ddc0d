"""The operators + - * / ** @ on tensors, each beside its vector-Jacobian product.

g is the gradient of the loss with respect to the result. Operands broadcast as in NumPy; numbers and arrays
may stand on either side. Numbers, lists and integer arrays take the tensor's dtype; floats of another dtype,
or arrays of another library, are a TypeError.
"""
from __future__ import annotations

from .backend import Array
from .kernel import kernel
from .support import operation_checks as checks
from .tensor import Tensor, sum_of_two


@kernel
def matrix_product(a: Array, b: Array) -> Array:
    """a (..., n, m) @ b (..., m, p): (..., n, p)."""
    return a @ b


def add(a: object, b: object) -> Tensor:
    """a + b, with broadcasting."""
    a, b = checks.operands("add", a, b, broadcast=True)
    a_shape, b_shape = a.shape, b.shape  # so that the graph need not hold a and b
    return Tensor(sum_of_two(a.data, b.data), parents=(a, b),
                  vjp=lambda g: (unbroadcast(g, a_shape), unbroadcast(g, b_shape)))


def subtract(a: object, b: object) -> Tensor:
    """a - b, with broadcasting."""
    a, b = checks.operands("subtract", a, b, broadcast=True)
    a_shape, b_shape = a.shape, b.shape
    return Tensor(a.data - b.data, parents=(a, b),
                  vjp=lambda g: (unbroadcast(g, a_shape), unbroadcast(-g, b_shape)))


def multiply(a: object, b: object) -> Tensor:
    """a * b elementwise, with broadcasting."""
    a, b = checks.operands("multiply", a, b, broadcast=True)
    return Tensor(a.data * b.data, parents=(a, b),
                  vjp=lambda g: (unbroadcast(g * b.data, a.shape) if a.requires_grad else None,
                                 unbroadcast(g * a.data, b.shape) if b.requires_grad else None))


def divide(a: object, b: object) -> Tensor:
    """a / b elementwise, with broadcasting."""
    a, b = checks.operands("divide", a, b, broadcast=True)
    out = a.data / b.data
    return Tensor(out, parents=(a, b),
                  vjp=lambda g: (unbroadcast(g / b.data, a.shape) if a.requires_grad else None,
                                 unbroadcast(-g * out / b.data, b.shape) if b.requires_grad else None))


def power(a: Tensor, exponent: float) -> Tensor:
    """a ** exponent elementwise, for a fixed number as exponent. Raises TypeError for any other exponent."""
    n = checks.exponent(exponent)
    return Tensor(a.data ** n, parents=(a,),
                  vjp=lambda g: (g * (n * a.data ** (n - 1)) if n else g * 0.0,))  # no 0 * inf at a = 0


def matmul(a: object, b: object) -> Tensor:
    """Matrix product a (..., n, m) @ b (..., m, p), giving (..., n, p); leading axes broadcast as in NumPy.

    Raises ValueError if an operand has fewer than two axes or the inner sizes differ.
    """
    a, b = checks.operands("matmul", a, b)
    checks.matrices("matmul", a, b)

    def vjp(g: Array) -> tuple[Array | None, Array | None]:
        a_t, b_t = a.data.swapaxes(-1, -2), b.data.swapaxes(-1, -2)
        return (unbroadcast(matrix_product(g, b_t), a.shape) if a.requires_grad else None,
                unbroadcast(matrix_product(a_t, g), b.shape) if b.requires_grad else None)

    return Tensor(matrix_product(a.data, b.data), parents=(a, b), vjp=vjp)


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the axes along which an operand of this shape was repeated by broadcasting."""
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    repeated = tuple(extra + i for i, size in enumerate(shape) if size != gradient.shape[extra + i])
    return gradient.sum(axis=tuple(range(extra)) + repeated, keepdims=True).reshape(shape)


Tensor.__add__, Tensor.__radd__ = add, lambda b, a: add(a, b)
Tensor.__sub__, Tensor.__rsub__ = subtract, lambda b, a: subtract(a, b)
Tensor.__mul__, Tensor.__rmul__ = multiply, lambda b, a: multiply(a, b)
Tensor.__truediv__, Tensor.__rtruediv__ = divide, lambda b, a: divide(a, b)
Tensor.__matmul__, Tensor.__rmatmul__ = matmul, lambda b, a: matmul(a, b)
Tensor.__pow__, Tensor.__neg__ = power, lambda a: multiply(a, -1.0)
