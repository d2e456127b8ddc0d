"""The chain rule: five vector-Jacobian products by hand, each checked numerically.

Let L be the loss and g = dL/dy its gradient with respect to a result y; g has the shape of y. An operation
y = f(x) owes its parents one thing: dL/dx_i = sum over j of g_j dy_j/dx_i. This is g times the Jacobian, a
vector-Jacobian product, or vjp. The Jacobian itself, often huge and nearly all zeros, is never built.
"""
from __future__ import annotations

from collections.abc import Callable

import numpy

from ..gradcheck import gradcheck
from ..support.pipes import end_with_reader
from ..tensor import Tensor


def add(a: Tensor, b: Tensor) -> Tensor:
    """1. y = a + b, of one shape

    y_j = a_j + b_j, so dy_j/da_i is 1 for i = j, else 0: only g_i is left of the sum over j. The same holds
    for b. A sum passes its gradient on to both sides unchanged. This is why x + h(x) lets a gradient through.
    """
    return Tensor(a.data + b.data, parents=(a, b), vjp=lambda g: (g, g))


def add_row(a: Tensor, b: Tensor) -> Tensor:
    """2. broadcasting: y = a + b, with a (N, O) and b (O,)

    y_no = a_no + b_o: every b_o is used N times, and every use counts. So the gradients of all uses add up:
    dL/db_o = sum over n of g_no. Repeating on the way forward is summing on the way back, and vice versa.
    """
    return Tensor(a.data + b.data, parents=(a, b), vjp=lambda g: (g, g.sum(axis=0)))


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """3. y = a @ b, with a (N, M) and b (M, O)

    y_no = sum over m of a_nm b_mo. So a_nm appears in row n of y only, multiplied by b_mo; b_mo likewise:
        dL/da_nm = sum over o of g_no b_mo,    that is    g @ b^T    of shape (N, O) @ (O, M) = (N, M)
        dL/db_mo = sum over n of a_nm g_no,    that is    a^T @ g    of shape (M, N) @ (N, O) = (M, O)
    If you forget the formulas: the shapes fit in only one way.
    """
    return Tensor(a.data @ b.data, parents=(a, b), vjp=lambda g: (g @ b.data.T, a.data.T @ g))


def relu(x: Tensor) -> Tensor:
    """4. y = max(x, 0)

    dy_j/dx_i = 0 for i != j; dy_i/dx_i is 1 where x_i > 0 and 0 where x_i < 0; at x_i = 0 we choose 0. The
    gradient passes where the value passed, and stops where the value was stopped.
    """
    return Tensor(numpy.maximum(x.data, 0), parents=(x,), vjp=lambda g: (g * (x.data > 0),))


def softmax_cross_entropy(z: Tensor, labels: numpy.ndarray) -> Tensor:
    """5. L = mean over n of -log p_n,label with p = softmax(z), z (N, classes)

    p_k = e^z_k / sum over j of e^z_j, so for one example   -log p_label = log(sum over j of e^z_j) - z_label.
    With respect to z_k the first term has the derivative e^z_k / sum e^z_j = p_k, and the second has -1 for
    k = label, else 0. Together: p_k - [k = label], what the network says minus what is true. The mean over N
    examples divides it by N.
    """
    rows, e = numpy.arange(len(labels)), numpy.exp(z.data - z.data.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    truth = numpy.eye(z.shape[1])[labels]
    return Tensor(-numpy.log(p[rows, labels]).mean(), parents=(z,), vjp=lambda g: (g * (p - truth) / len(p),))


def main() -> dict[str, float]:
    """Print each derivation and its error against difference quotients; return the errors by name."""
    print(__doc__)
    rng, errors = numpy.random.default_rng(0), {}

    def tensor(*shape: int) -> Tensor:
        return Tensor(rng.standard_normal(shape), requires_grad=True)

    labels = numpy.array([2, 0, 1, 1])
    cases: list[tuple[Callable[..., Tensor], list[Tensor], list[numpy.ndarray]]] = [
        (add, [tensor(4, 3), tensor(4, 3)], []), (add_row, [tensor(4, 3), tensor(3)], []),
        (matmul, [tensor(4, 5), tensor(5, 3)], []), (relu, [tensor(4, 3)], []),
        (softmax_cross_entropy, [tensor(4, 3)], [labels])]
    for function, tensors, rest in cases:
        error = gradcheck(lambda *x, function=function, rest=rest: function(*x, *rest), *tensors)
        errors[function.__name__] = error
        print(function.__doc__.replace("\n    ", "\n").rstrip())
        print(f"    -> (L(x + h) - L(x - h)) / 2h for every number: relative error {error:.0e}\n")
    print("All five together, a network of two layers: ", end="")

    def network(x: Tensor, v: Tensor, b: Tensor, w: Tensor) -> Tensor:
        hidden = relu(add_row(matmul(x, v), b))
        return softmax_cross_entropy(add(matmul(hidden, w), x), labels)

    errors["network"] = gradcheck(network, tensor(4, 3), tensor(3, 6), tensor(6), tensor(6, 3))
    print(f"relative error {errors['network']:.0e}. The chain rule did the rest.")
    return errors


if __name__ == "__main__":
    end_with_reader()
    main()
