"""Optimizers, which move parameters against their gradients, and learning rate schedules."""
from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy

from . import backend
from .backend import Array
from .kernel import kernel
from .support import layer_checks as checks
from .support import names
from .support.numerics import quietly
from .tensor import Tensor

__all__ = ["Adam", "Optimizer", "SGD", "clip_grad_norm_", "cosine_decay", "exponential_decay", "one_cycle",
           "step_decay"]
__getattr__, __dir__ = names.of_module("tinyres.optim", __all__)


class Optimizer:
    """What all optimizers share: parameters, a learning rate, and state that is saved. Subclasses define
    `step`.

    parameters: tensors that require a gradient. lr: the learning rate; set it before a step to follow a
    schedule. state: the arrays that the optimizer keeps from step to step, by name; see `zeros`.
    A gradient moves a parameter once: what had no part in any loss since the last step stays where it is.
    Raises ValueError for lr <= 0, no parameters, one given twice, or parameters that require no gradient.
    """

    def __init_subclass__(cls) -> None:
        if "step" in vars(cls):
            cls.step = _once(cls.step)  # type: ignore[method-assign, assignment]

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        self.name = type(self).__name__
        self.parameters = checks.parameters(self.name, parameters)
        self.lr = checks.positive(f"{self.name}: lr", lr)
        self.state: dict[str, Array] = {}

    def step(self) -> None:
        """Move every parameter, in place, according to its `.grad`; one whose `.grad` is None stays."""
        raise NotImplementedError(f"{type(self).__name__} must define step()")

    def zero_grad(self) -> None:
        """Forget all gradients. There is no need to after a step: `backward` replaces those of old values."""
        for parameter in self.parameters:
            parameter.grad = None

    def zeros(self, name: str) -> list[Array]:
        """An array of zeros like each parameter, saved with the state as name.0, name.1, ..."""
        arrays = [backend.xp_of(p.data).zeros_like(p.data) for p in self.parameters]
        self.state |= {f"{name}.{i}": array for i, array in enumerate(arrays)}
        return arrays

    def state_dict(self) -> dict[str, numpy.ndarray]:
        """A NumPy copy of the state."""
        return {name: numpy.array(backend.to_numpy(array)) for name, array in self.state.items()}

    def load_state_dict(self, state: Mapping[str, numpy.ndarray]) -> None:
        """Set the state, in place. Raises ValueError, and changes nothing, if names or shapes differ."""
        checks.load(self.name, self.state, state)


def _once(step: Callable[[Optimizer], None]) -> Callable[[Optimizer], None]:
    """A step that sees the gradients of present values only, which are those of old values afterwards."""
    @functools.wraps(step)
    def once(self: Optimizer) -> None:
        for p in self.parameters:
            if p.is_spent():
                p.grad = None
        with quietly():
            take(step, self)
        for p in self.parameters:
            if not p.is_spent():
                p.version += 1
    return once


@kernel
def take(step: Callable[[Optimizer], None], optimizer: Optimizer) -> None:
    """step(optimizer), a step of any optimizer; a kernel, so that a variant can do something before it."""
    step(optimizer)


@kernel
def sgd_update(weights: list[Array], gradients: list[Array], velocities: list[Array], lr: float,
               momentum: float, weight_decay: float) -> None:
    """v = momentum v + gradient + weight_decay w, then w -= lr v, in place."""
    for w, gradient, v in zip(weights, gradients, velocities, strict=True):
        v[...] = momentum * v + gradient + weight_decay * w
        w -= lr * v


class SGD(Optimizer):
    """Stochastic gradient descent: v = momentum v + gradient + weight_decay w, then w -= lr v (as in
    PyTorch).

    nesterov: w -= lr (gradient + weight_decay w + momentum v) instead, with the new v (Nesterov's momentum).
    Parameters without a gradient are left alone. Raises ValueError as `Optimizer` does, and for momentum
    outside [0, 1), nesterov without momentum or weight_decay < 0; `step` raises RuntimeError if no parameter
    has a gradient.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.9,
                 weight_decay: float = 0.0, nesterov: bool = False) -> None:
        super().__init__(parameters, lr)
        self.momentum = checks.fraction("SGD: momentum", momentum)
        if nesterov and not self.momentum:
            raise ValueError("SGD: nesterov=True needs a momentum above 0")
        self.nesterov = nesterov
        self.weight_decay = checks.not_negative("SGD: weight_decay", weight_decay)
        self.velocities = self.zeros("velocity")

    def step(self) -> None:
        """Move every parameter, in place, according to the gradient that the last `backward` left in it."""
        checks.gradients(self.name, self.parameters)
        moved = [(p.data, p.grad, v) for p, v in zip(self.parameters, self.velocities, strict=True)
                 if p.grad is not None]
        if not self.nesterov:
            sgd_update(*zip(*moved, strict=True), float(self.lr), self.momentum, self.weight_decay)
            return
        for w, gradient, v in moved:
            decayed = gradient + self.weight_decay * w
            v[...] = self.momentum * v + decayed
            w -= float(self.lr) * (decayed + self.momentum * v)


class Adam(Optimizer):
    """m and s are running means of the gradient and of its square, corrected for their start at 0; then w -=
    lr m / (sqrt(s) + eps) (Kingma and Ba, 2015; weight_decay w is added to the gradient, as in PyTorch).

    betas: the decay rates of the two running means. Parameters without a gradient are left alone.
    Raises ValueError as `Optimizer` does, and for betas outside [0, 1), eps <= 0 or weight_decay < 0.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float = 0.001,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0) -> None:
        super().__init__(parameters, lr)
        self.betas = tuple(checks.fraction("Adam: betas", beta) for beta in betas)
        self.eps = checks.positive("Adam: eps", eps)
        self.weight_decay = checks.not_negative("Adam: weight_decay", weight_decay)
        self.means, self.squares = self.zeros("mean"), self.zeros("square")
        self.steps = self.state["steps"] = numpy.zeros(len(self.parameters))  # of each parameter

    def step(self) -> None:
        """Move every parameter, in place, according to the gradient that the last `backward` left in it."""
        checks.gradients(self.name, self.parameters)
        for i, (p, m, s) in enumerate(zip(self.parameters, self.means, self.squares, strict=True)):
            if p.grad is None:
                continue
            self.steps[i] += 1
            corrections = [1 - beta ** float(self.steps[i]) for beta in self.betas]
            gradient = p.grad + self.weight_decay * p.data
            m += (1 - self.betas[0]) * (gradient - m)
            s += (1 - self.betas[1]) * (gradient**2 - s)
            p.data -= float(self.lr) * (m / corrections[0]) / ((s / corrections[1]) ** 0.5 + self.eps)


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients by one factor, in place, so that the norm of all their numbers together is at most
    max_norm; call it between `backward` and `step`. Returns the norm before, as in PyTorch.

    Parameters whose gradient is None or spent do not count. Raises ValueError for max_norm <= 0.
    """
    max_norm = checks.positive("clip_grad_norm_: max_norm", max_norm)
    parameters = [parameters] if isinstance(parameters, Tensor) else parameters
    gradients: list[Array] = [p.grad for p in parameters if not p.is_spent()]
    norm = math.fsum(float((g.astype("float64") ** 2).sum()) for g in gradients) ** 0.5
    for gradient in gradients if norm > max_norm else []:
        gradient *= max_norm / (norm + 1e-6)
    return norm


def step_decay(lr: float, drops: Sequence[int], factor: float = 0.1) -> Callable[[int], float]:
    """step -> learning rate, multiplied by factor at each step in drops (paper, 4.1: 30,000 and 50,000)."""
    return lambda step: lr * factor ** sum(step >= drop for drop in drops)


def exponential_decay(lr: float, factor: float, every: int) -> Callable[[int], float]:
    """step -> learning rate, multiplied by factor every `every` steps (paper, 4.2: 0.94 every two epochs)."""
    return lambda step: lr * factor ** (step // every)


def one_cycle(lr: float, steps: int, warmup: float = 0.2) -> Callable[[int], float]:
    """step -> learning rate: linearly up to lr during the first fraction `warmup` of the steps, then linearly
    down to 0 (Smith and Topin, 2018, "Super-convergence")."""
    top = max(1, round(warmup * steps))
    return lambda step: lr * min((step + 1) / top, (steps - step) / max(1, steps - top))


def cosine_decay(lr: float, steps: int) -> Callable[[int], float]:
    """step -> learning rate, from lr down to 0 along half a cosine (Loshchilov and Hutter, 2017, "SGDR",
    without its restarts)."""
    return lambda step: lr * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2
