"""Numerical against analytic gradients: how every operation is tested."""
from __future__ import annotations

from collections.abc import Callable

import numpy

from . import backend
from .support import operation_checks as checks
from .tensor import Tensor, no_grad


def gradcheck(fn: Callable[..., Tensor], *tensors: Tensor, step: float = 1e-5, seed: int = 0) -> float:
    """The largest relative error of the gradients that `backward` gives for fn(*tensors), over the tensors.

    The result of fn, one Tensor, is multiplied by random numbers of its shape, the cotangent, and summed, so
    that one backward pass checks every output. For each tensor that requires a gradient the derivative is
    computed by central differences, one entry at a time; the error is ||analytic - numerical|| /
    max(||analytic||, ||numerical||, 1e-8). That the forward pass is right needs a test of its own.
    Arguments may also be one tuple of tensors. Numbers and arrays of floats become tensors that require a
    gradient; anything else is handed to fn unchanged.
    Warns where fn has a kink, as relu at 0. Raises TypeError unless the tensors are float64, since in float32
    rounding drowns the difference; ValueError if none of them requires a gradient.
    """
    arguments, leaves = checks.differentiable("gradcheck", tensors)
    out = checks.tensor("gradcheck: what fn returns", fn(*arguments))
    cotangent = backend.xp_of(out.data).asarray(numpy.random.default_rng(seed).standard_normal(out.shape))
    for leaf in leaves:
        leaf.grad = None
    out.backward(cotangent)

    def contracted() -> float:
        with no_grad():
            return float((fn(*arguments).data * cotangent).sum())

    worst, middle = 0.0, contracted()
    for number, leaf in enumerate(leaves):
        left, right = numpy.zeros(leaf.shape), numpy.zeros(leaf.shape)  # derivatives on either side
        for index in numpy.ndindex(leaf.shape):
            value = float(leaf.data[index])
            leaf.data[index] = value + step
            right[index] = (contracted() - middle) / step
            leaf.data[index] = value - step
            left[index] = (middle - contracted()) / step
            leaf.data[index] = value
        numerical = (left + right) / 2
        analytic = numpy.zeros(leaf.shape) if leaf.grad is None else backend.to_numpy(leaf.grad)
        scale = max(1e-8, *(float(numpy.linalg.norm(array)) for array in (analytic, numerical)))
        error = float(numpy.linalg.norm(analytic - numerical)) / scale
        checks.no_kink("gradcheck", number, left, right, error)
        worst = max(worst, error)
    return worst
