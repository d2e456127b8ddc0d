"""Every lesson runs, draws its picture, and what it claims is so."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageColor

import tinyres as tr
from tinyres.lessons import (
    chain_rule,
    convolution,
    depth,
    exercise_checks,
    exercises,
    graph,
    normalization,
    optimizers,
)
from tinyres.plot import PALETTE


def size(path):
    with Image.open(path) as image:
        return image.size


def test_depth_keeps_the_gradient_and_loses_the_images(tmp_path):
    measured = depth.main(steps=5, out=tmp_path)
    for fractions, gradients in (measured["plain"][:2], measured["plain"][2:]):
        assert fractions[0] > 0.8 and fractions[15] < 0.4
        assert min(gradients) > 1e-3 and max(gradients) < 10 * min(gradients)
    for fractions in measured["residual"][0], measured["residual"][2]:
        assert min(fractions) > 0.5
    gradients = numpy.array([measured[name][1] for name in ("plain", "residual")])
    assert gradients.max() < 10 * gradients.min()
    assert size(tmp_path / "depth.png") > (2000, 1500)


@pytest.mark.parametrize(("activations", "expected"), [
    (numpy.ones((4, 2, 2, 3)), 0.0),  # the same for every image
    (numpy.array([[1.0], [-1.0]]), 1.0),  # nothing in common
    (numpy.array([[3.0], [1.0]]), 0.2),  # mean 2, variance 1: 1 / (4 + 1)
])
def test_the_fraction_that_differs_between_images(activations, expected):
    assert depth.varying_fraction(activations) == pytest.approx(expected)


def test_the_walk_through_a_graph_gives_the_gradients_of_backward(tmp_path, capsys):
    graph.main(tmp_path)
    assert capsys.readouterr().out.count("to the last bit") == 2
    with Image.open(tmp_path / "graph.png") as image:
        colors = {color for _, color in image.getcolors(2**20)}
    assert {ImageColor.getrgb(PALETTE[i]) for i in (3, 4, 5)} <= colors  # leaves, operations, gradients


def test_the_vjps_by_hand_agree_with_difference_quotients():
    errors = chain_rule.main()
    assert len(errors) == 6 and max(errors.values()) < 1e-6


def test_im2col_and_the_gradient_as_a_convolution_are_what_conv2d_computes(tmp_path, capsys):
    convolution.main(tmp_path)
    printed = capsys.readouterr().out
    assert printed.count("the same as") == 3 and "DIFFERENT" not in printed
    assert size(tmp_path / "convolution.png") == (2560, 1220)
    assert size(tmp_path / "convolution_gradient.png") == (2560, 1160)


def test_momentum_and_adam_come_further_than_sgd(tmp_path):
    (path, sgd), (_, momentum), (adam_path, adam) = optimizers.main(tmp_path).values()
    assert momentum[-1] < sgd[-1] / 2 and adam[-1] < sgd[-1] / 2
    assert numpy.all(numpy.diff(numpy.sign(path[:20, 1])) != 0)  # SGD zigzags across the valley
    assert abs(adam_path[1] - adam_path[0]) == pytest.approx([0.5, 0.5], rel=1e-6)
    diverged = optimizers.descend(optimizers.optim.SGD, lr=0.051, momentum=0.0)[1]
    assert diverged[-1] > diverged[0]  # above 2 / 40
    assert size(tmp_path / "optimizers.png") == (2560, 1760)


def test_identity_and_normalization_keep_images_apart_and_let_a_deep_network_learn(tmp_path):
    data = tr.datasets.shapes(400, 200)
    images, _ = data.test.evaluation_batch(numpy.arange(200))
    apart = {kind: depth.varying_fractions(normalization.network(kind, 15), images)[15]
             for kind in normalization.KINDS}
    assert apart.pop("plain") < 0.3 and min(apart.values()) > 0.5

    def learned(kind, rate):
        return normalization.losses(kind, 15, rate, 12, data.train)
    plain, both = learned("plain", 0.08), learned("residual, normalized", 0.08)
    assert max(abs(loss - numpy.log(10)) for loss in plain) < 0.05 and min(both) < 2
    diverged = learned("residual", 1.28)
    assert len(diverged) < 12 and numpy.isnan(normalization.last_losses([diverged], 12))
    assert normalization.last_losses([[5.0] * 8 + [1.0, 3.0]], 10) == [2]

    measured = normalization.main(steps=1, out=tmp_path)
    assert {blocks: set(map(len, found.values())) for blocks, found in measured.items()} == {5: {5}, 31: {5}}
    assert size(tmp_path / "normalization.png") > (2000, 1500)


SOLUTIONS = {check.__name__: own for check, own in exercise_checks.OWN.items()}

BROKEN = [
    ("relu_gradient", lambda g, y: g, "wrong values"),
    ("multiply", lambda a, b: tr.Tensor(a.data * b.data, parents=(a, b), vjp=lambda g: (g, g)),
     "the vjp is not"),
    ("multiply", lambda a, b: a.data * b.data, "not a Tensor"),
    ("unbroadcast", lambda g, shape: g, "has shape"),
    ("matmul", lambda a, b: tr.Tensor(a.data @ b.data), "has no parents"),
    ("softmax_cross_entropy", lambda z, labels: -tr.mean(tr.log(
        tr.exp(z) / tr.sum(tr.exp(z), axis=1, keepdims=True))), "wrong values"),
    ("topological_order", lambda root: [root], "expected 4"),
    ("windows", lambda x, shape, stride: tr.conv._windows(x, shape, (1, 1)), "stride \\(2, 1\\)"),
    ("convolve", lambda x, w, stride, padding: tr.conv.convolve(x, w, stride, (0, 0)), "padding \\(1, 2\\)"),
    ("sgd_update", lambda w, g, v, lr, m, d: tr.optim.sgd_update(w, g, v, lr, 0.0, d), "after step 2"),
    ("residual_block", lambda block, x: block.h(x), "wrong values"),
    ("residual_block", lambda block, x: x + block.h(x), "stride 2|broadcast|shape"),
]


def test_the_packages_own_functions_solve_all_ten_exercises(capsys):
    assert exercise_checks.score(SOLUTIONS) == 10 and "10 of 10" in capsys.readouterr().out


def test_exercises_wait_to_be_filled_in(capsys):
    assert exercise_checks.score(vars(exercises)) == 0
    assert capsys.readouterr().out.count("to be filled in") == 10


@pytest.mark.parametrize(("name", "function", "explanation"), BROKEN)
def test_a_wrong_solution_is_caught_and_explained(name, function, explanation):
    assert re.search(explanation, exercise_checks.explain(name, function))


def test_every_exercise_is_broken_once():
    assert {name for name, _, _ in BROKEN} == set(exercise_checks.CHECKS)


# A file of solutions, written in exercises.py with nothing but what it imports

WRITTEN = {
    "relu_gradient": "return numpy.where(y > 0, g, 0)",
    "multiply": "return Tensor(a.data * b.data, parents=(a, b), vjp=lambda g: (g * b.data, g * a.data))",
    "unbroadcast": """extra = gradient.ndim - len(shape)
    axes = (*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1))
    return numpy.sum(gradient, axes, keepdims=True).reshape(shape)""",
    "matmul": "return Tensor(a.data @ b.data, parents=(a, b), vjp=lambda g: (g @ b.data.T, a.data.T @ g))",
    "softmax_cross_entropy": """rows = numpy.arange(len(labels))
    z = logits.data - logits.data.max(axis=1, keepdims=True)
    p = numpy.exp(z) / numpy.exp(z).sum(axis=1, keepdims=True)
    truth = numpy.eye(p.shape[1])[labels]
    loss = (numpy.log(numpy.exp(z).sum(axis=1)) - z[rows, labels]).mean()
    return Tensor(loss, parents=(logits,), vjp=lambda g: (g * (p - truth) / len(p),))""",
    "topological_order": """order = []
    def visit(node):
        if node.requires_grad and node not in order:
            for parent in () if isinstance(node, Tensor) else node.parents:
                visit(parent)
            order.append(node)
    visit(root)
    return order[::-1]""",
    "windows": """KH, KW = w_shape[:2]
    OH, OW = (padded.shape[1] - KH) // stride[0] + 1, (padded.shape[2] - KW) // stride[1] + 1
    out = numpy.empty((len(padded), OH, OW, *w_shape[:3]), padded.dtype)
    for i in range(OH):
        for j in range(OW):
            top, left = i * stride[0], j * stride[1]
            out[:, i, j] = padded[:, top:top + KH, left:left + KW]
    return out""",
    "convolve": """padded = numpy.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    return numpy.tensordot(windows(padded, w.shape, stride), w, 3)""",
    "sgd_update": """for w, g, v in zip(weights, gradients, velocities):
        v[...] = momentum * v + g + weight_decay * w
        w -= lr * v""",
    "residual_block": """h = block.conv2(relu(block.conv1(x)))
    return block.shortcut(x) + h if block.residual else relu(h)""",
}


def solved(path, **others):
    """A copy of exercises.py with the solutions, some replaced by others; its lines."""
    text = Path(exercises.__file__).read_text()
    for name, body in {**WRITTEN, **others}.items():
        before, found, after = text.partition(f"def {name}(")
        text = before + found + after.replace("raise TODO", body, 1)
    path.write_text(text)
    return text.splitlines()


def scored(path, capsys):
    """The lines that the program prints: one for each exercise by name, and all."""
    exercise_checks.main(path)
    printed = capsys.readouterr().out
    assert str(path) in printed
    return {line.split()[1]: line.split(maxsplit=2)[2] for line in printed.splitlines()[2:12]}, printed


def test_solutions_need_nothing_that_the_file_does_not_import(tmp_path, capsys):
    solved(tmp_path / "mine.py")
    assert "10 of 10" in scored(tmp_path / "mine.py", capsys)[1]


@pytest.mark.parametrize("body, error", [
    ("return g * (y > 0", "SyntaxError"), ("return g * (y > 0))", "SyntaxError"),
    ("return g ** ** y", "SyntaxError"), ("if True:\n    return g", "IndentationError"),
    ('return """', "SyntaxError")])
@pytest.mark.parametrize("name", ["relu_gradient", "unbroadcast", "residual_block"])
def test_a_syntax_error_costs_one_exercise(tmp_path, capsys, name, body, error):
    lines = solved(tmp_path / "mine.py", **{name: body})
    results, printed = scored(tmp_path / "mine.py", capsys)
    number, = re.findall(rf"^{error}: .* \(line (\d+)\)$", results[name])
    first = next(i for i, line in enumerate(lines, 1) if line.startswith(f"def {name}"))
    assert first < int(number) <= first + 12
    assert all((result == "right") != (other == name) for other, result in results.items()), printed


def test_an_error_outside_the_functions_costs_no_more_than_that(tmp_path, capsys):
    solved(tmp_path / "mine.py", multiply=WRITTEN["multiply"] + "\n\nprint(undefined)")
    results, printed = scored(tmp_path / "mine.py", capsys)
    assert "9 of 10" in printed and "NameError" in results["multiply"]
    path = tmp_path / "mine.py"
    path.write_text(path.read_text().replace("def matmul", "def matrix_product"))
    assert scored(path, capsys)[0]["matmul"] == "there is no function of this name"


@pytest.mark.parametrize("name, body, marked", [
    ("matmul", "return Tensor(a.data @ b, parents=(a, b), vjp=lambda g: (g, g))  # here", None),
    ("matmul", "return Tensor(numpy.dot(a.data, b.data.T), parents=(a, b))  # here", "# here"),
    ("matmul", "return Tensor(a.data @ b.data, parents=(a, b), vjp=lambda g: (  # no\n"
               "        g @ b.data,  # here\n        a.data.T @ g))", "# here"),
    ("windows", "return numpy.lib.stride_tricks.as_strided(padded, 'abc')  # here", "# here"),
    ("sgd_update", "weights[5] = 0  # here", "# here"),
    ("multiply", "assert a is b  # here", "# here")])
def test_an_error_is_placed_in_the_students_file(tmp_path, capsys, name, body, marked):
    lines = solved(tmp_path / "mine.py", **{name: body})
    result = scored(tmp_path / "mine.py", capsys)[0][name]
    if marked:
        number = next(i for i, line in enumerate(lines, 1) if line.endswith(marked))
        assert re.search(rf"Error: .*\(.*, line {number}\)$", result), result
    else:
        assert result != "right"


def test_a_solution_that_needs_one_still_missing_says_so(tmp_path, capsys):
    solved(tmp_path / "mine.py", windows="raise TODO")
    results, printed = scored(tmp_path / "mine.py", capsys)
    assert results["windows"] == "to be filled in" and "8 of 10" in printed
    assert results["convolve"] == "windows, which it calls, is to be filled in"


@pytest.mark.parametrize("name, body", [
    ("matmul", "return a @ b"), ("multiply", "return a * b"), ("multiply", "return b * a"),
    ("softmax_cross_entropy", "from tinyres import softmax_cross_entropy as f; return f(logits, labels)"),
    ("relu_gradient", "from tinyres import ops; return ops.relu_gradient(g, y)"),
    ("unbroadcast", "from tinyres import arithmetic; return arithmetic.unbroadcast(gradient, shape)"),
    ("topological_order", "from tinyres import tensor; return tensor._topological_order(root)"),
    ("windows", "from tinyres import conv; return conv._windows(padded, w_shape, stride)"),
    ("convolve", "from tinyres import conv; return conv.convolve(x, w, stride, padding)"),
    ("convolve", "from tinyres import conv2d; return conv2d(Tensor(x), Tensor(w), stride, padding).data"),
    ("sgd_update", "from tinyres.optim import sgd_update as f\n"
                   "    f(weights, gradients, velocities, lr, momentum, weight_decay)"),
    ("residual_block", "return block(x)")])
def test_to_call_what_is_to_be_written_is_no_solution(tmp_path, capsys, name, body):
    solved(tmp_path / "mine.py", **{name: body})
    results, printed = scored(tmp_path / "mine.py", capsys)
    assert "calls the package's own" in results[name] and "9 of 10" in printed, printed


def test_ctrl_c_ends_a_page_without_a_traceback():
    program = ("import os, signal\nfrom tinyres.support.pipes import end_with_reader\nend_with_reader()\n"
               "os.kill(os.getpid(), signal.SIGINT)\nprint('went on')")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120,
                          cwd=Path(tr.__file__).parent.parent)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_the_program_names_the_file_to_edit():
    for module in "exercises", "exercise_checks":
        done = subprocess.run([sys.executable, "-m", f"tinyres.lessons.{module}"], capture_output=True,
                              text=True, timeout=120, cwd=Path(tr.__file__).parent.parent)
        assert str(Path(exercises.__file__)) in done.stdout and "0 of 10" in done.stdout, done.stderr
        assert done.stdout.count("to be filled in") == 10
