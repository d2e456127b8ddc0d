"""Difference quotients, with which `gradcheck` compares gradients."""
from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from ..backend import to_numpy, xp_of
from ..tensor import Tensor

LARGE = 1e-3  # an error along the random direction for which no entry needs to be looked at


def gradient_error(function: Callable[[], float], leaves: Sequence[Tensor], rng: numpy.random.Generator,
                   step: float, one_direction: bool, size: float) -> float:
    """The largest relative error of `.grad` of the leaves, of which function() is computed: along one random
    direction, and for every entry unless that is large or enough.

    size: of what function() adds up, to which its rounding is relative.
    """
    middle = function()
    analytic = [numpy.zeros(x.shape) if x.grad is None else to_numpy(x.grad) for x in leaves]
    largest = max(float(abs(gradient).max(initial=0.0)) for gradient in analytic)
    least = max(1e-8, 1e-4 * size, 1e-3 * largest)  # a smaller one drowns in the rounding of function()

    directions = [rng.standard_normal(x.shape) for x in leaves]
    left, right = one_sided(function, [(x, ..., direction) for x, direction in
                                       zip(leaves, directions, strict=True)], middle, step)
    expected = sum(float((a * d).sum()) for a, d in zip(analytic, directions, strict=True))
    error = relative_error(expected, (left + right) / 2, least)
    if one_direction or error > LARGE and abs(right - left) < 0.01 * max(abs(left), abs(right)):
        return error

    worst = 0.0
    for number, (leaf, gradient) in enumerate(zip(leaves, analytic, strict=True)):
        sides = numpy.array([one_sided(function, [(leaf, index, 1.0)], middle, step)
                             for index in numpy.ndindex(leaf.shape)]).reshape(*leaf.shape, 2)
        error = relative_error(gradient, sides.mean(axis=-1), least)
        no_kink("gradcheck", number, sides[..., 0], sides[..., 1], error)
        worst = max(worst, error)
    return worst


def one_sided(function: Callable[[], float], moves: Sequence[tuple[Tensor, Any, Any]], middle: float,
              step: float) -> tuple[float, float]:
    """The derivatives of function() on the left and on the right, along a direction.

    moves: (tensor, index, direction), the values that are moved, in place, and moved back whatever happens.
    middle: function() where it stands.
    """
    kept, values = [x.data[index].copy() for x, index, _ in moves], []
    try:
        for signed in -step, step:
            for (x, index, direction), value in zip(moves, kept, strict=True):
                x.data[index] = value + signed * xp_of(x.data).asarray(direction)
            values.append(function())
    finally:
        for (x, index, _), value in zip(moves, kept, strict=True):
            x.data[index] = value
    return (middle - values[0]) / step, (values[1] - middle) / step


def relative_error(analytic: Any, numerical: Any, least: float) -> float:
    """The largest difference of two entries, relative to the larger of them, or to `least`; inf for nan."""
    sizes = numpy.maximum(numpy.maximum(abs(analytic), abs(numerical)), least)
    error = float(numpy.max(abs(analytic - numerical) / sizes, initial=0.0))
    return math.inf if math.isnan(error) else error


def no_kink(name: str, number: int, left: numpy.ndarray, right: numpy.ndarray, error: float) -> None:
    """Warn if an error is large because the derivatives on the two sides of a point differ."""
    jump = abs(right - left)
    if error > 1e-4 and jump.size and jump.max() > 0.01 * max(abs(left).max(), abs(right).max()):
        index = numpy.unravel_index(jump.argmax(), jump.shape)
        place = f"[{', '.join(map(str, index))}]" if index else ""
        warnings.warn(f"{name}: tensor {number}{place} is at a kink: the derivative is {left[index]:.3g} on "
                      f"its left and {right[index]:.3g} on its right (times the cotangent), and no gradient "
                      "can be both, so the error says nothing. Choose a point away from it, such as 0.5 "
                      "instead of 0 for relu", stacklevel=4)
