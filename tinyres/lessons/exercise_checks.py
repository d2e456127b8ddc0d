"""What each exercise in exercises.py must do. This prints what is wrong, and the score:

    python -m tinyres.lessons.exercise_checks

A check raises AssertionError with an explanation of what is wrong.
"""
from __future__ import annotations

import inspect
import itertools
import math
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy

from .. import arithmetic, conv, ops, optim, tensor
from ..arithmetic import multiply as product
from ..backend import Array, is_array
from ..gradcheck import gradcheck
from ..kernel import plain
from ..nn import ResidualBlock
from ..support.pipes import end_with_reader
from ..tensor import Tensor

EXERCISES = Path(__file__).with_name("exercises.py")  # the file to fill in


def _tensor(*shape: int, seed: int = 0) -> Tensor:
    return Tensor(numpy.random.default_rng(seed).standard_normal(shape), requires_grad=True)


def _same(got: object, expected: Array, what: str) -> None:
    got = got.data if isinstance(got, Tensor) else got
    assert is_array(got) or isinstance(got, numpy.generic), f"{what} is a {type(got).__name__}, not an array"
    assert got.shape == expected.shape, f"{what} has shape {got.shape}, expected {expected.shape}"
    assert numpy.allclose(got, expected, rtol=1e-4, atol=1e-6), (
        f"{what} has wrong values: {numpy.ravel(got)[:4].astype(float).round(4).tolist()}..., expected "
        f"{numpy.ravel(expected)[:4].astype(float).round(4).tolist()}...")


def _gradients(function: Callable[..., Tensor], *tensors: Tensor) -> None:
    out = function(*tensors)
    assert isinstance(out, Tensor), f"it returned a {type(out).__name__}, not a Tensor"
    assert out.requires_grad, "its result has no parents: pass parents=(...) and vjp=... to Tensor(...)"
    error = gradcheck(function, *tensors)
    assert error < 1e-6, (f"the values are right, but the vjp is not: it differs from difference quotients "
                          f"by {error:.0%}. Work out d loss / d parent for one number, and sum over its uses")


def relu_gradient(f: Callable[..., Any]) -> None:
    """It passes where y is positive, stops at 0, and keeps g."""
    g, y = numpy.array([1.0, -2.0, 3.0, 4.0]), numpy.array([2.0, 5.0, 0.0, 0.0])
    result = f(g, y)
    _same(result, numpy.array([1.0, -2.0, 0.0, 0.0]), "for g = [1 -2 3 4] and y = [2 5 0 0] the result")


def multiply(f: Callable[..., Any]) -> None:
    """Values, then gradients."""
    a, b = _tensor(2, 3), _tensor(2, 3, seed=1)
    _same(f(a, b), a.data * b.data, "a * b")
    _gradients(f, a, b)


def unbroadcast(f: Callable[..., Any]) -> None:
    """New axes, axes of size 1, both, none."""
    g = numpy.arange(24.0).reshape(2, 3, 4)
    for shape, axes in ((2, 3, 4), ()), ((4,), (0, 1)), ((1, 3, 4), (0,)), ((3, 1), (0, 2)), ((), (0, 1, 2)):
        _same(f(g, shape), g.sum(axis=axes).reshape(shape), f"the gradient (2, 3, 4) for an operand {shape}")


def matmul(f: Callable[..., Any]) -> None:
    """Values, then gradients."""
    a, b = _tensor(2, 3), _tensor(3, 4, seed=1)
    _same(f(a, b), a.data @ b.data, "a @ b")
    _gradients(f, a, b)


def softmax_cross_entropy(f: Callable[..., Any]) -> None:
    """Values, large logits, gradients."""
    logits, labels = _tensor(4, 3), numpy.array([2, 0, 1, 1])
    p = numpy.exp(logits.data) / numpy.exp(logits.data).sum(axis=1, keepdims=True)
    _same(f(logits, labels), -numpy.log(p[range(4), labels]).mean(), "the loss")
    with numpy.errstate(all="ignore"):
        large = f(Tensor([[1000.0, 0.0]]), numpy.array([0])).item()
    assert math.isfinite(large), f"for logits 1000 and 0 it is {large}: subtract the largest logit before exp"
    _gradients(lambda x: f(x, labels), logits)


def topological_order(f: Callable[..., Any]) -> None:
    """A graph in which a tensor is used three times, and one that needs no gradient."""
    a, constant = _tensor(2), Tensor(numpy.ones(2))
    b = product(a, constant)
    root = product(product(b, a), b).node
    order = f(root)
    assert isinstance(order, list), f"it returned a {type(order).__name__}, not a list"
    assert order and order[0] is root, "root must come first"
    assert len(order) == len(set(map(id, order))), "a node is listed twice: remember those you have seen"
    places = {id(node): place for place, node in enumerate(order)}
    assert id(constant) not in places, "a tensor is listed that has requires_grad=False"
    assert len(order) == 4, f"{len(order)} nodes are listed, expected 4: follow all parents to the leaves"
    for node in order:
        for parent in () if isinstance(node, Tensor) else node.parents:
            assert not parent.requires_grad or places[id(parent)] > places[id(node)], (
                "a parent is listed before a node that uses it: list a node after all its parents, then "
                "reverse the list")


def windows(f: Callable[..., Any]) -> None:
    """Windows of several images and channels, strides that differ."""
    x = numpy.arange(2 * 5 * 6 * 2.0).reshape(2, 5, 6, 2)
    for stride in (1, 1), (2, 1):
        places = [[x[:, i:i + 3, j:j + 2] for j in range(0, 5, stride[1])] for i in range(0, 3, stride[0])]
        expected = numpy.moveaxis(numpy.array(places), 2, 0)
        _same(f(x, (3, 2, 2, 4), stride), expected, f"with stride {stride} the array of windows")


def convolve(f: Callable[..., Any]) -> None:
    """Against the package's definition, without and with padding and stride."""
    x, w = _tensor(2, 5, 6, 2).data, _tensor(3, 2, 2, 4, seed=1).data
    for stride, padding in ((1, 1), (0, 0)), ((1, 1), (1, 2)), ((2, 1), (1, 0)):
        expected = conv.convolve.definition(x, w, stride, padding)
        _same(f(x, w, stride, padding), expected, f"with stride {stride} and padding {padding} the result")


def sgd_update(f: Callable[..., Any]) -> None:
    """Two weights, two steps, in place."""
    weights, velocities = [numpy.ones(2), numpy.full(3, 2.0)], [numpy.zeros(2), numpy.zeros(3)]
    moved, speeds = [w.copy() for w in weights], [v.copy() for v in velocities]
    for step in 1, 2:
        f(weights, [numpy.ones(2), numpy.ones(3)], velocities, 0.1, 0.9, 0.5)
        for i in range(2):
            speeds[i] = 0.9 * speeds[i] + 1 + 0.5 * moved[i]
            moved[i] = moved[i] - 0.1 * speeds[i]
            _same(velocities[i], speeds[i], f"after step {step} (in place: v[...] = ...) a velocity")
            _same(weights[i], moved[i], f"after step {step} (in place: w -= ...) a weight")


def residual_block(f: Callable[..., Any]) -> None:
    """With identity, with a shortcut that changes the shape, and without a shortcut."""
    x = Tensor(numpy.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(numpy.float32))
    for channels, stride, residual in (3, 1, True), (4, 2, True), (3, 1, False):
        block = ResidualBlock(3, channels, stride, residual=residual, rng=numpy.random.default_rng(1))
        h = block.conv2(ops.relu(block.conv1(x))).data
        expected = block.shortcut(x).data + h if residual else numpy.maximum(h, 0)
        _same(f(block, x), expected, f"for 3 -> {channels} channels, stride {stride}, residual={residual} it")


# The checks, and what each exercise asks for, as the package has it: a solution must not call it.
OWN: dict[Callable[..., None], Callable[..., Any]] = {
    relu_gradient: ops.relu_gradient, multiply: arithmetic.multiply, unbroadcast: arithmetic.unbroadcast,
    matmul: arithmetic.matmul, softmax_cross_entropy: ops.softmax_cross_entropy,
    topological_order: tensor._topological_order, windows: conv._windows, convolve: conv.convolve,
    sgd_update: optim.sgd_update, residual_block: ResidualBlock.__call__}
CHECKS = {check.__name__: check for check in OWN}


def _code(function: Any) -> CodeType | None:
    """What Python runs when a function, or the formula within an operation or a kernel, is called."""
    return getattr(inspect.unwrap(function), "__code__", None)


def _check(name: str, function: Callable[..., Any]) -> None:
    """The check of that name, and then whether the function calls the package's own."""
    check, calls = CHECKS[name], []
    own = OWN[check]
    code = _code(own)

    def profile(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code is code:
            calls.append(frame)

    def watched(*arguments: Any) -> Any:
        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            with plain():
                return function(*arguments)
        finally:
            sys.setprofile(before)

    check(watched)
    assert not calls or function is own, (
        f"right, but it calls the package's own {own.__name__}: write here what that does")


def explain(name: str, function: Callable[..., Any] | str) -> str:
    """What is wrong with a solution: "" if it is right, "to be filled in" if it is missing.

    function: or why there is none, which is returned.
    """
    if isinstance(function, str):
        return function
    try:
        _check(name, function)
    except Exception as error:  # of the checks, of the student's code, or of the engine about a student's vjp
        frames = traceback.extract_tb(error.__traceback__)
        code = _code(function)
        theirs = [frame for frame in frames if code and frame.filename == code.co_filename]
        if isinstance(error, AssertionError) and frames[-1].filename == __file__:
            return str(error)
        if isinstance(error, NotImplementedError) and theirs:
            return f"{theirs[-1].name}, which it calls, is " * (theirs[-1].name != name) + "to be filled in"
        place = f" ({theirs[-1].name}, line {theirs[-1].lineno})" if theirs else ""
        return f"{type(error).__name__}: {error}{place}"
    return ""


def read(path: Path) -> dict[str, Any]:
    """The functions in a file of solutions by name. A function that Python cannot read is replaced by the
    reason, and the others are there all the same."""
    names: dict[str, Any] = {"__name__": f"{__package__}.exercises", "__package__": __package__}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    starts = [0, *(i for i, line in enumerate(lines) if re.match(r"(async )?def |class |if __name__", line)),
              len(lines)]
    for start, end in itertools.pairwise(starts):
        part = "".join(lines[start:end])
        try:  # the empty lines in front keep the numbers of the lines
            exec(compile("\n" * start + part, str(path), "exec", annotations.compiler_flag), names)
        except Exception as error:
            last = error if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {getattr(error, 'msg', error)} (line {last.lineno})"
            found = re.match(r"def (\w+)", part)
            names |= dict.fromkeys([found[1]] if found else CHECKS, reason)
    return names


def score(functions: Mapping[str, Callable[..., Any] | str]) -> int:
    """Print a line for each exercise and then the score; return the score."""
    right = 0
    for number, name in enumerate(CHECKS, 1):
        wrong = explain(name, functions.get(name, "there is no function of this name"))
        right += not wrong
        print(f"{number:2}  {name:22} {wrong or 'right'}")
    print(f"\n{right} of {len(CHECKS)}")
    return right


def main(path: Path = EXERCISES) -> None:
    """Print the score of the solutions in a file."""
    if not __debug__:
        sys.exit("the checks are assertions, which python -O leaves out: run python without -O")
    print(f"The file to fill in: {path}\n")
    score(read(path))


if __name__ == "__main__":
    end_with_reader()
    main()
