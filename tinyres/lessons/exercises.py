"""Ten functions of this package, for you to write again. Fill in this file, then ask for the score:

    python -m tinyres.lessons.exercise_checks

Each has a check that says what is wrong. Arrays are NumPy's; g is the gradient of the loss with respect to a
result. If you are stuck, look into the file in parentheses, which has the package's own function.
"""
from __future__ import annotations

import numpy  # noqa: F401  your solutions need it

from ..backend import Array
from ..nn import ResidualBlock
from ..ops import relu  # noqa: F401  exercise 10 needs it
from ..tensor import Node, Tensor

TODO = NotImplementedError


def relu_gradient(g: Array, y: Array) -> Array:
    """1. The vjp of y = max(x, 0): g where y is positive, else 0. (ops.py)"""
    raise TODO


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """2. The elementwise product of tensors of one shape: return Tensor(array, parents=(a, b),
    vjp=lambda g: (..., ...)). The arrays of a and b are a.data and b.data. (arithmetic.py)"""
    raise TODO


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """3. Sum a gradient over the axes along which broadcasting repeated an operand of this shape, so that the
    result has this shape. These are new axes in front, and axes of size 1. (arithmetic.py)"""
    raise TODO


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """4. The matrix product of a (n, m) and b (m, p), with its vjp. (arithmetic.py)"""
    raise TODO


def softmax_cross_entropy(logits: Tensor, labels: Array) -> Tensor:
    """5. The mean over the batch of -log softmax(logits)[label], a scalar; logits (N, classes), labels (N,).
    Logits of 1000 must not overflow. (ops.py)"""
    raise TODO


def topological_order(root: Node | Tensor) -> list[Node | Tensor]:
    """6. All nodes that lead to root and have .requires_grad, each once and before its .parents. root comes
    first. Leaves are Tensors and have no parents. (tensor.py)"""
    raise TODO


def windows(padded: Array, w_shape: tuple[int, ...], stride: tuple[int, int]) -> Array:
    """7. im2col: the windows of images (N, H, W, C) that a kernel of w_shape (KH, KW, C, O) covers, as
    (N, OH, OW, KH, KW, C), where OH = (H - KH) // stride[0] + 1. A loop over i and j will do. (conv.py)"""
    raise TODO


def convolve(x: Array, w: Array, stride: tuple[int, int], padding: tuple[int, int]) -> Array:
    """8. The convolution of x (N, H, W, C) with w (KH, KW, C, O), as (N, OH, OW, O): pad with zeros, take the
    windows, multiply. padding = (rows above and below, columns left and right). (conv.py)"""
    raise TODO


def sgd_update(weights: list[Array], gradients: list[Array], velocities: list[Array], lr: float,
               momentum: float, weight_decay: float) -> None:
    """9. For each weight v = momentum v + gradient + weight_decay w, then w -= lr v: in place. (optim.py)"""
    raise TODO


def residual_block(block: ResidualBlock, x: Tensor) -> Tensor:
    """10. What the block computes: block.shortcut(x) + h(x) if block.residual, else relu(h(x)), where h(x) is
    block.conv2(relu(block.conv1(x))). (nn.py)"""
    raise TODO


if __name__ == "__main__":
    from ..support.pipes import end_with_reader
    from .exercise_checks import main
    end_with_reader()
    main()
