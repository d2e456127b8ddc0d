"""What layers, networks and optimizers ask of their arguments, kept apart so that those read as mathematics.

Each check raises an error that names the value, what was expected, and what to do. `name` is the name of the
class or function that was called.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy

from .. import backend
from ..backend import Array, xp_of
from ..tensor import Tensor
from . import operation_checks as checks


def parameters(name: str, parameters: Any) -> list[Tensor]:
    """One or more tensors that require a gradient."""
    if hasattr(parameters, "parameters"):
        raise ValueError(f"{name}: expected parameters, got a {type(parameters).__name__}: write "
                         f"{name}(net.parameters(), ...) for a network net")
    if isinstance(parameters, Tensor):
        raise ValueError(f"{name}: expected a list of parameters, got one Tensor: write {name}([w], ...)")
    parameters = list(parameters) if isinstance(parameters, Iterable) else []
    if not parameters or not all(isinstance(p, Tensor) and p.requires_grad for p in parameters):
        raise ValueError(f"{name}: expected at least one parameter, each a Tensor with requires_grad=True: "
                         "pass net.parameters()")
    if any(p.node is not None for p in parameters):
        raise ValueError(f"{name}: expected leaves, got a tensor that an operation computed, which gets no "
                         ".grad: make it as Tensor(array, requires_grad=True), from the values it should "
                         "start with")
    seen: dict[int, int] = {}
    for i, p in enumerate(parameters):
        if (first := seen.setdefault(id(p), i)) != i:
            raise ValueError(f"{name}: parameter {i}, of shape {p.shape}, is parameter {first} again, and "
                             "would be moved twice: leave it out, or give the parameters of one module that "
                             "holds both layers")
    return parameters


def gradients(name: str, parameters: Sequence[Tensor]) -> None:
    """At least one parameter with a gradient."""
    if all(p.is_spent() for p in parameters):
        raise RuntimeError(f"{name}.step(): no parameter has a gradient of its present values: call "
                           "loss.backward() before each step, on a loss that was computed from these "
                           "parameters, outside tr.no_grad()")


def positive(name: str, value: float) -> float:
    """A finite number above 0."""
    return _number(name, value, 0 < value < math.inf, "above 0")


def not_negative(name: str, value: float) -> float:
    """A finite number, 0 or more."""
    return _number(name, value, 0 <= value < math.inf, ">= 0")


def fraction(name: str, value: float) -> float:
    """A number from 0 to below 1."""
    return _number(name, value, 0 <= value < 1, ">= 0 and below 1")


def _number(name: str, value: float, fits: bool, expected: str) -> float:
    if not fits:
        raise ValueError(f"{name} {value!r}: expected a finite number {expected}")
    return float(value)


def sizes(shape: tuple[int, ...]) -> None:
    """The shape of weights, without a zero."""
    if min(shape) < 1:
        raise ValueError(f"weights of shape {shape}: every size must be >= 1")


def widening(name: str, in_channels: int, out_channels: int) -> None:
    """A block with a shortcut, which cannot remove channels."""
    if out_channels < in_channels:
        raise ValueError(f"{name}: out_channels {out_channels} must be >= in_channels {in_channels}: the "
                         "shortcut can add channels but not take them away")


def network(name: str, num_classes: int, blocks: Sequence[int], widths: Sequence[int]) -> None:
    """Stages of a residual network."""
    if (not widths or len(blocks) != len(widths) or min(blocks) < 1 or min(widths) < 1
            or list(widths) != sorted(widths) or num_classes < 2):
        raise ValueError(f"{name}: expected blocks >= 1 for each stage, non-decreasing widths >= 1, "
                         f"num_classes >= 2, got blocks {list(blocks)}, widths {list(widths)}, num_classes "
                         f"{num_classes}")


def attribute(module: object, name: str, value: Any) -> None:
    """What may become an attribute of a module: no array of floats, which would be neither trained nor
    saved."""
    if backend.is_array(value) and value.dtype.kind == "f":
        raise TypeError(f"{type(module).__name__}.{name} = an array of shape {value.shape}: a module keeps "
                        "Tensors. For a weight write Tensor(array, requires_grad=True), for a constant "
                        f"Tensor(array), or to set the values of a weight .{name}.data[...] = array")
    if isinstance(getattr(module, name, None), Tensor) and not isinstance(value, Tensor):
        raise TypeError(f"{type(module).__name__}.{name} is a Tensor, and would become a "
                        f"{type(value).__name__}: write .{name}.data[...] = ... to set its values")


def layers(name: str, layers: Sequence[Any]) -> list[Callable[[Tensor], Tensor]]:
    """Modules or functions."""
    for layer in layers:
        if isinstance(layer, type) or not callable(layer):
            raise TypeError(f"{name}: expected modules or functions such as tr.relu as separate arguments, "
                            f"got {layer!r:.60}")
    return list(layers)


def name_layer(error: Any, module: Any) -> None:
    """Put the name of the layer at fault before an error, seen from the module that was called, such as
    "blocks.3.conv1"."""
    if not hasattr(error, "layer"):
        error.layer, error.text = module, str(error)
    name = next((name for name, inner in module.named_modules() if inner is error.layer), "")
    place = f"{name} ({type(error.layer).__name__})" if name else type(error.layer).__name__
    error.args = (error.text if error.text.startswith(f"{place}: ") else f"{place}: {error.text}",)


def channels(name: str, x: Any, channels: int) -> None:
    """An image (N, H, W, channels)."""
    if checks.tensor(name, x, "(N, H, W, C)").shape[3] != channels:
        raise ValueError(f"{name}: expected (N, H, W, {channels}), got {x.shape}")


def several(name: str, x: Tensor) -> int:
    """The number of values of each channel, two or more."""
    count = x.data.size // max(x.shape[-1], 1)
    if count < 2:
        raise ValueError(f"{name}: in training each channel needs two values or more, got {x.shape}")
    return count


def load(owner: str, arrays: Mapping[str, Array], state: Mapping[str, numpy.ndarray]) -> None:
    """Copy a saved state into arrays, in place. Nothing is changed unless all names, shapes and kinds fit."""
    missing, unknown = sorted(arrays.keys() - state.keys()), sorted(state.keys() - arrays.keys())
    if missing or unknown:
        raise ValueError(f"the state does not fit this {owner}: missing {missing[:3]!s:.200} "
                         f"({len(missing)} in all), unknown {unknown[:3]!s:.200} ({len(unknown)} in all): "
                         "build the same network first")
    for name, array in arrays.items():
        if state[name].shape != array.shape or state[name].dtype.kind != "f":
            raise ValueError(f"the state does not fit this {owner}: {name!r} is {state[name].dtype} of shape "
                             f"{state[name].shape}, expected floats of shape {array.shape}: build the same "
                             "network first")
    for name, array in arrays.items():
        array[...] = xp_of(array).asarray(state[name], dtype=array.dtype)
