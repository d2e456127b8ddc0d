"""Stochastic gradient descent with momentum and weight decay, and the paper's two learning rate schedules."""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy

from . import backend, cpu, gpu
from .backend import Array
from .tensor import Tensor

PART = 2**16  # numbers updated at a time


class SGD:
    """v = momentum v + gradient + weight_decay w, then w -= lr v, in place for every parameter w (PyTorch's
    convention).

    lr: the learning rate, > 0; set `.lr` before a step to follow a schedule. Parameters without a gradient
    are left alone. loss_scale: what the loss was multiplied by before `backward`, to keep small gradients
    from vanishing in float16; the gradients are divided by it here. On a GPU float32 parameters become views
    of one flat array, so that a step is one kernel. Raises ValueError for lr <= 0, momentum outside [0, 1),
    weight_decay < 0, loss_scale <= 0, or parameters that require no gradient.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.9,
                 weight_decay: float = 0.0, loss_scale: float = 1.0) -> None:
        self.parameters = list(parameters)
        if not (0 < lr < math.inf and 0 <= momentum < 1 and 0 <= weight_decay < math.inf
                and 0 < loss_scale < math.inf):
            raise ValueError(f"SGD: expected lr > 0, 0 <= momentum < 1, weight_decay >= 0, loss_scale > 0, "
                             f"got lr {lr}, momentum {momentum}, weight_decay {weight_decay}, loss_scale "
                             f"{loss_scale}")
        if not self.parameters or not all(p.requires_grad for p in self.parameters):
            raise ValueError("SGD: expected at least one parameter, each a Tensor with requires_grad=True: "
                             "pass model.parameters()")
        self.momentum, self.weight_decay = float(momentum), float(weight_decay)
        self.loss_scale = float(loss_scale)
        self.velocities = [backend.xp_of(p.data).zeros_like(p.data) for p in self.parameters]
        on_gpu = all(not isinstance(p.data, numpy.ndarray) and p.dtype == "float32" for p in self.parameters)
        self._flat = gpu.FlatSGD(self.parameters, self.velocities) if on_gpu else None
        self.lr = lr

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self._lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self._lr = float(lr)
        if self._flat:
            self._flat.set(self._lr, self.momentum, self.weight_decay, 1 / self.loss_scale)

    def step(self) -> None:
        """Move every parameter by the gradient that the last `backward` left in it."""
        if self._flat and all(p.grad is p.grad_memory for p in self.parameters):
            self._flat.step()
            return
        lr = self.lr

        def update(part: tuple[Array, Array, Array]) -> None:
            weight, gradient, velocity = part
            velocity *= self.momentum
            velocity += gradient if self.loss_scale == 1 else gradient / self.loss_scale
            if self.weight_decay:
                velocity += self.weight_decay * weight
            weight -= lr * velocity

        if isinstance(self.velocities[0], numpy.ndarray):
            cpu.over(self._parts(), update)
        else:  # in this thread: CuPy's current stream is a thread's own
            for part in self._parts():
                update(part)

    def _parts(self) -> Iterator[tuple[Array, Array, Array]]:
        """(weight, gradient, velocity) of every parameter, on NumPy in parts that stay in the cache."""
        for parameter, velocity in zip(self.parameters, self.velocities, strict=True):
            arrays = parameter.data, parameter.grad, velocity
            if parameter.grad is None:
                continue
            if not isinstance(velocity, numpy.ndarray) or not all(a.flags.c_contiguous for a in arrays):
                yield arrays
                continue
            flat = [array.reshape(-1) for array in arrays]
            for start in range(0, velocity.size, PART):
                yield tuple(array[start:start + PART] for array in flat)

    def state_dict(self) -> dict[str, numpy.ndarray]:
        """A NumPy copy of every velocity, by the index of its parameter."""
        return {f"velocity.{i}": numpy.array(backend.to_numpy(v)) for i, v in enumerate(self.velocities)}

    def load_state_dict(self, state: Mapping[str, numpy.ndarray]) -> None:
        """Set every velocity, in place. Raises ValueError, and changes nothing, if names or shapes differ."""
        expected = {f"velocity.{i}": v.shape for i, v in enumerate(self.velocities)}
        if {name: value.shape for name, value in state.items()} != expected:
            raise ValueError(f"the optimizer's state ({len(state)} arrays) does not fit its {len(expected)} "
                             f"parameters: build the same network first")
        for i, velocity in enumerate(self.velocities):
            velocity[...] = backend.xp_of(velocity).asarray(state[f"velocity.{i}"], dtype=velocity.dtype)


def step_decay(lr: float, drops: Sequence[int], factor: float = 0.1) -> Callable[[int], float]:
    """step -> learning rate, times factor from each step in drops on (paper, 4.1: 30,000 and 50,000)."""
    return lambda step: lr * factor ** sum(step >= drop for drop in drops)


def exponential_decay(lr: float, factor: float, every: int) -> Callable[[int], float]:
    """step -> learning rate, times factor after every so many steps (paper, 4.2: 0.94 every two epochs)."""
    return lambda step: lr * factor ** (step // every)
