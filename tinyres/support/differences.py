"""Difference quotients, with which `gradcheck` compares gradients."""
from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy

from ..backend import to_numpy
from ..tensor import Tensor


def gradient_error(function: Callable[[], float], leaves: Sequence[Tensor], step: float,
                   size: float) -> float:
    """The largest relative error of an entry of `.grad` of the leaves, of which function() is computed.

    size: of what function() adds up, to which its rounding is relative.
    """
    middle, worst = function(), 0.0
    analytic = [numpy.zeros(x.shape) if x.grad is None else to_numpy(x.grad) for x in leaves]
    largest = max(float(abs(gradient).max(initial=0.0)) for gradient in analytic)
    least = max(1e-8, 1e-4 * size, 1e-3 * largest)  # a smaller one drowns in the rounding of function()
    for number, (leaf, gradient) in enumerate(zip(leaves, analytic, strict=True)):
        sides = numpy.array([one_sided(function, leaf, index, middle, step)
                             for index in numpy.ndindex(leaf.shape)]).reshape(*leaf.shape, 2)
        error = relative_error(gradient, sides.mean(axis=-1), least)
        no_kink("gradcheck", number, sides[..., 0], sides[..., 1], error)
        worst = max(worst, error)
    return worst


def one_sided(function: Callable[[], float], x: Tensor, index: tuple[int, ...], middle: float,
              step: float) -> tuple[float, float]:
    """The derivatives of function() on the left and on the right, with respect to an entry of x, which is
    moved, in place, and moved back whatever happens. middle: function() where it stands."""
    kept, values = x.data[index].copy(), []
    try:
        for signed in -step, step:
            x.data[index] = kept + signed
            values.append(function())
    finally:
        x.data[index] = kept
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
