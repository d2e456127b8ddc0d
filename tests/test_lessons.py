"""Every lesson runs, draws its picture, and what it claims is so."""
from __future__ import annotations

import numpy
import pytest
from PIL import Image, ImageColor

from tinyres.lessons import depth, graph
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
