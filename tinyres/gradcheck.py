"""Numerical against analytic gradients: how every operation in this package is tested."""
from __future__ import annotations

from collections.abc import Callable

import numpy

from . import backend
from .tensor import Tensor, no_grad


def gradcheck(fn: Callable[..., Tensor], *tensors: Tensor, step: float = 1e-5, seed: int = 0) -> float:
    """The largest relative error of the gradients that `backward` gives for fn(*tensors), over the tensors.

    fn must return one Tensor. Its result is multiplied by random numbers of its shape, the cotangent, and
    summed to a scalar, so that one backward pass, which starts from them, checks every output. For each
    tensor that requires a gradient the derivative is computed by central
    differences with the given step, one entry at a time, and the error is ||analytic - numerical|| /
    max(||analytic||, ||numerical||, 1e-8). That the forward pass is right needs a test of its own.
    Raises TypeError unless the tensors are float64: in float32 rounding drowns the difference.
    """
    for tensor in tensors:
        if tensor.dtype != numpy.float64:
            raise TypeError(f"gradcheck: expected float64 tensors, got {tensor.dtype} of shape "
                            f"{tensor.shape}")
    out = fn(*tensors)
    xp = backend.xp_of(out.data)
    cotangent = xp.asarray(numpy.random.default_rng(seed).standard_normal(out.shape))
    for tensor in tensors:
        tensor.grad = None
    out.backward(cotangent)

    def contracted() -> float:
        with no_grad():
            return float((fn(*tensors).data * cotangent).sum())

    worst = 0.0
    for tensor in tensors:
        if not tensor.requires_grad:
            continue
        numerical = numpy.zeros(tensor.shape)
        for index in numpy.ndindex(tensor.shape):
            value = float(tensor.data[index])
            tensor.data[index] = value + step
            above = contracted()
            tensor.data[index] = value - step
            below = contracted()
            tensor.data[index] = value
            numerical[index] = (above - below) / (2 * step)
        analytic = numpy.zeros(tensor.shape) if tensor.grad is None else backend.to_numpy(tensor.grad)
        scale = max(numpy.linalg.norm(analytic), numpy.linalg.norm(numerical), 1e-8)
        worst = max(worst, float(numpy.linalg.norm(analytic - numerical) / scale))
    return worst
