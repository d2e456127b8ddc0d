"""Numerical against analytic gradients: how every operation in this package is tested."""
from __future__ import annotations

from collections.abc import Callable

import numpy

from . import backend
from .support import operation_checks as checks
from .tensor import Tensor, no_grad


def gradcheck(fn: Callable[..., Tensor], *tensors: Tensor, step: float = 1e-5, seed: int = 0) -> float:
    """The largest relative error of the gradients that `backward` gives for fn(*tensors), over the tensors.

    fn must return one Tensor. Its result is multiplied by random numbers of its shape, the cotangent, and
    summed to a scalar, so that one backward pass, which starts from them, checks every output. For each
    tensor that requires a gradient the derivative is computed by central differences with the given step, one
    entry at a time, and the error is ||analytic - numerical|| / max(||analytic||, ||numerical||, 1e-8). That
    the forward pass is right needs a test of its own.
    Arguments may also be one tuple of tensors, as in PyTorch, which raises where this returns a number;
    numbers and arrays of floats become tensors that require a gradient, all else is handed to fn as it is.
    Warns where fn has a kink, as relu at 0. Raises TypeError unless the tensors are float64: in float32
    rounding drowns the difference; ValueError if none of them requires a gradient.
    """
    arguments, tensors = checks.differentiable("gradcheck", tensors)
    out = checks.tensor("gradcheck: what fn returns", fn(*arguments))
    xp = backend.xp_of(out.data)
    cotangent = xp.asarray(numpy.random.default_rng(seed).standard_normal(out.shape))
    for tensor in tensors:
        tensor.grad = None
    out.backward(cotangent)

    def contracted() -> float:
        with no_grad():
            return float((fn(*arguments).data * cotangent).sum())

    worst, middle = 0.0, contracted()
    for number, tensor in enumerate(tensors):
        left, right = numpy.zeros(tensor.shape), numpy.zeros(tensor.shape)  # derivatives on either side
        for index in numpy.ndindex(tensor.shape):
            value = float(tensor.data[index])
            tensor.data[index] = value + step
            right[index] = (contracted() - middle) / step
            tensor.data[index] = value - step
            left[index] = (middle - contracted()) / step
            tensor.data[index] = value
        numerical = (left + right) / 2
        analytic = numpy.zeros(tensor.shape) if tensor.grad is None else backend.to_numpy(tensor.grad)
        scale = max(numpy.linalg.norm(analytic), numpy.linalg.norm(numerical), 1e-8)
        error = float(numpy.linalg.norm(analytic - numerical) / scale)
        checks.no_kink("gradcheck", number, left, right, error)
        worst = max(worst, error)
    return worst
