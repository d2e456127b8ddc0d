"""Every lesson runs, draws its picture, and what it claims is so."""
from __future__ import annotations

import re

import numpy
import pytest
from PIL import Image, ImageColor

import tinyres as tr
from tinyres.lessons import chain_rule, convolution, depth, exercise_checks, exercises, graph, optimizers
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
    results = convolution.main(tmp_path)
    printed = capsys.readouterr().out
    assert printed.count("the same as") == 3 and "DIFFERENT" not in printed
    assert results["columns"].shape == (9, 9) and results["image_gradient"].shape == (5, 5)
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


SOLUTIONS = {
    "relu_gradient": tr.ops.relu_gradient, "multiply": tr.arithmetic.multiply,
    "unbroadcast": tr.arithmetic.unbroadcast, "matmul": tr.matmul,
    "softmax_cross_entropy": tr.softmax_cross_entropy, "topological_order": tr.tensor._topological_order,
    "windows": tr.conv._windows, "convolve": tr.conv.convolve, "sgd_update": tr.optim.sgd_update,
    "residual_block": tr.nn.ResidualBlock.__call__}

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
