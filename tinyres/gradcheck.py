"""Numerical against analytic gradients: how every operation is tested."""
from __future__ import annotations

from collections.abc import Callable

import numpy

from . import backend
from .support import operation_checks as checks
from .support.differences import gradient_error
from .tensor import Tensor, no_grad


def gradcheck(fn: Callable[..., Tensor], *tensors: Tensor, step: float = 1e-5, seed: int = 0) -> float:
    """The largest relative error of an entry of the gradients that `backward` gives for fn(*tensors).

    The result of fn, one Tensor, is multiplied by random numbers of its shape, the cotangent, and summed, so
    that one backward pass checks every output. The derivative is taken by central differences for every
    entry of the tensors that require a gradient. That the forward pass is right needs a test of its own.
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

    size = float(abs(out.data * cotangent).sum())
    return gradient_error(contracted, leaves, step, size)
