"""The graph: what a network is to the engine, and how a gradient walks through it.

    y = relu(x @ w + b)              x (4, 3): 4 examples.    w (3, 5), b (5,): weights
    loss = softmax_cross_entropy(y, labels)

Every operation returns a tensor that remembers its parents, the tensors it was computed from, and a function
`vjp`, which turns the gradient of the loss with respect to its result into those with respect to its parents.
So the loss knows where it comes from, and all of backpropagation is a walk:

    order, gradients = [loss.node], [numpy.ones(())]                 # d loss / d loss = 1
    for node, gradient in zip(order, gradients):                     # both lists grow while we walk
        if not isinstance(node, Tensor):                             # a tensor is a leaf: the walk ends there
            order += node.parents
            gradients += node.gradients(gradient)                    # calls the vjp

These five lines are enough where every tensor is used once, as here. `backward` (tensor.py) is the same walk
for any graph: a tensor used twice gets the sum of two gradients, so it must wait for both, and a topological
order ensures that. In the picture values flow to the right and gradients to the left, and each gradient has
the shape of its value. x does not require a gradient, so none is computed.
"""
from __future__ import annotations

from pathlib import Path

import numpy
from numpy.linalg import norm

from .. import ops, plot
from ..backend import Array
from ..support.pipes import end_with_reader
from ..tensor import Node, Tensor
from . import PICTURES, picture


def walk(loss: Tensor) -> tuple[list[Node | Tensor], list[Array | None]]:
    """The nodes of a graph in which nothing is used twice, from the loss back, and the gradient of each."""
    order, gradients = [loss.node], [numpy.ones((), loss.dtype)]
    for node, gradient in zip(order, gradients, strict=True):
        if not isinstance(node, Tensor):
            order += node.parents
            gradients += node.gradients(gradient)
    return order, gradients


def main(out: Path = PICTURES) -> None:
    """Compute, walk, compare with `backward`, print and draw."""
    print(__doc__)
    rng = numpy.random.default_rng(0)
    x = Tensor(rng.standard_normal((4, 3)))
    w, b = Tensor(rng.standard_normal((3, 5)), requires_grad=True), Tensor(numpy.zeros(5), requires_grad=True)
    y = ops.relu(x @ w + b)
    loss = ops.softmax_cross_entropy(y, numpy.array([0, 1, 2, 3]))

    order, gradients = walk(loss)
    names = {id(x): "x", id(w): "w", id(b): "b"}
    for node, gradient in zip(order, gradients, strict=True):
        name = names.get(id(node)) or node.operation
        said = "not required" if gradient is None else f"{gradient.shape}, norm {norm(gradient):.3f}"
        print(f"{name:24} value {node.shape!s:8} gradient {said}")

    loss.backward()
    for tensor, name in (w, "w"), (b, "b"):
        walked = gradients[[id(node) for node in order].index(id(tensor))]
        assert numpy.array_equal(walked, tensor.grad)
        print(f"{name}.grad, from loss.backward(), is the gradient that the walk found, to the last bit")
    draw(order, gradients, names).save(picture(out, "graph.png"))


def draw(order: list[Node | Tensor], gradients: list[Array | None], names: dict[int, str]) -> plot.Drawing:
    """The loss stands on the right; each step back goes one column left, a second parent one row down."""
    place, arrows = {id(order[0]): (0, 0)}, []
    for node in order:
        column, row = place[id(node)]
        for i, parent in enumerate(() if isinstance(node, Tensor) else node.parents):
            place[id(parent)] = column + 1, row + i
            arrows.append((id(parent), id(node)))
    columns, rows = (max(position[i] for position in place.values()) + 1 for i in (0, 1))

    width, height, across, down = 350, 190, 510, 400
    page = plot.Drawing(columns * across + 60, rows * down + 260)
    page.text(page.image.width / 2, 70, "y = relu(x @ w + b),   loss = softmax_cross_entropy(y, labels)", 60)
    page.text(page.image.width / 2, 155, "values flow to the right, gradients of the loss to the left", 44,
              color=5)

    def middle(key: int) -> tuple[float, float]:
        column, row = place[key]
        return (columns - column - 0.5) * across + 30, row * down + 360

    flows = {id(node): gradient is not None for node, gradient in zip(order, gradients, strict=True)}
    for start, end in arrows:
        (x1, y1), (x2, y2) = middle(start), middle(end)
        x1, x2, y2 = x1 + width / 2, x2 - width / 2, y2 + (y1 != y2) * height / 4
        right, up = (x2 - x1) / numpy.hypot(x2 - x1, y2 - y1), (y1 - y2) / numpy.hypot(x2 - x1, y2 - y1)
        for side, color, ends in (1, 4, (0.12, 0.9)), (-1, 5, (0.86, 0.1)):  # the value, the gradient
            if color == 4 or flows[start]:
                points = [(x1 + t * (x2 - x1) - side * 22 * up, y1 + t * (y2 - y1) - side * 22 * right)
                          for t in ends]
                page.arrow(*points, color=color)
    for node, gradient in zip(order, gradients, strict=True):
        x, y = middle(id(node))
        leaf = isinstance(node, Tensor)
        name = names.get(id(node)) or node.operation.replace("softmax_", "softmax_\n")
        page.box(x, y, width, height, f"{name}\n{node.shape}", color=3 if leaf else 4, size=52)
        text = "gradient not required" if gradient is None else (
            f"gradient {gradient.shape}\nnorm {norm(gradient):.3f}")
        page.text(x, y + height / 2 + 62, text, 36, color="#57606A" if gradient is None else 5)
    return page


if __name__ == "__main__":
    end_with_reader()
    main()
