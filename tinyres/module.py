"""Module: something with weights, which it finds by itself, shows as a table and names in its errors."""
from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy

from .support import layer_checks as checks
from .tensor import Tensor


class Module:
    """Something with weights. A subclass sets tensors and modules as attributes and defines `__call__`.

    Tensors are found by walking the attributes, and lists, tuples and dicts of them, in the order in which
    they were set. Those that require a gradient are the module's parameters; the others are saved with it.
    """

    training = True  # read by Dropout and BatchNorm2d; set by `train` and `eval`
    out_shape: tuple[int, ...] | None = None  # of the last call, for the table

    def __init_subclass__(cls) -> None:
        if "__call__" in vars(cls):
            cls.__call__ = _watched(cls.__call__)  # type: ignore[method-assign]

    def __call__(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define __call__(self, x), which PyTorch calls "
                                  "forward")

    def __setattr__(self, name: str, value: object) -> None:
        checks.attribute(self, name, value)
        super().__setattr__(name, value)

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """The module itself, named "", and every module in it by dotted name, such as "blocks.0.conv1"."""
        return ((name, module) for name, module in _walk(self, "") if isinstance(module, Module))

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter and constant once, by dotted name, such as "blocks.0.conv1.weight"."""
        seen = set()
        for name, tensor in _walk(self, ""):
            if isinstance(tensor, Tensor) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield name, tensor

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Those tensors that require a gradient."""
        return ((name, tensor) for name, tensor in self.named_tensors() if tensor.requires_grad)

    def parameters(self) -> list[Tensor]:
        """The tensors of `named_parameters`."""
        return [tensor for _, tensor in self.named_parameters()]

    def num_parameters(self) -> int:
        """How many trainable numbers the module holds."""
        return sum(tensor.data.size for tensor in self.parameters())

    def train(self, mode: bool = True) -> Module:
        """Make this module and all modules in it behave as in training: Dropout drops values, BatchNorm2d
        uses the mean of the batch."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Make this module and all modules in it behave as in evaluation."""
        return self.train(False)

    def state_dict(self) -> dict[str, numpy.ndarray]:
        """A NumPy copy of every parameter and constant by name."""
        return {name: numpy.array(tensor.numpy()) for name, tensor in self.named_tensors()}

    def load_state_dict(self, state: Mapping[str, numpy.ndarray]) -> None:
        """Set every parameter and constant, in place. Raises ValueError, and changes nothing, if names or
        shapes differ."""
        tensors = dict(self.named_tensors())
        checks.load(type(self).__name__, {name: tensor.data for name, tensor in tensors.items()}, state)
        for tensor in tensors.values():
            tensor.version += 1

    def __repr__(self) -> str:
        """A table of the layers: the modules that hold tensors of their own, or no other module."""
        rows, seen = [("layer", "", "output shape", "parameters")], set()
        for name, module in self.named_modules():
            own = [tensor for value in vars(module).values() if not isinstance(value, Module)
                   for tensor in _tensors(value)]
            inner = any(isinstance(child, Module) and child is not module for _, child in _walk(module, ""))
            if own or not inner:
                new = [p for p in own if p.requires_grad and id(p) not in seen]
                seen |= {id(p) for p in new}
                shape = module.out_shape and f"({', '.join(['N', *map(str, module.out_shape[1:])])})"
                rows.append((name, type(module).__name__, shape or "", f"{sum(p.data.size for p in new):,}"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=False)),
                            row[3].rjust(widths[3])]) for row in rows]
        known = "" if self.out_shape else "; output shapes are known after the first call"
        return "\n".join([*lines, f"{type(self).__name__}: {self.num_parameters():,} parameters{known}"])


def _tensors(value: object) -> list[Tensor]:
    return [found for _, found in _walk(value, "", into_modules=False) if isinstance(found, Tensor)]


def _walk(value: object, name: str, into_modules: bool = True) -> Iterator[tuple[str, Tensor | Module]]:
    if isinstance(value, (Tensor, Module)):
        yield name, value
    children = vars(value) if isinstance(value, Module) and into_modules else value
    if isinstance(children, (list, tuple)):
        children = dict(enumerate(children))
    if isinstance(children, dict):
        for key, child in children.items():
            yield from _walk(child, f"{name}.{key}" if name else str(key), into_modules)


def _watched(call: Callable[..., Any]) -> Callable[..., Any]:
    """A module's `__call__` that remembers the shape of its result and names the layer at fault in errors."""
    @functools.wraps(call)
    def watched(self: Module, *arguments: Any, **keywords: Any) -> Any:
        try:
            out = call(self, *arguments, **keywords)
        except (TypeError, ValueError) as error:
            checks.name_layer(error, self)
            raise
        if isinstance(out, Tensor):
            self.__dict__["out_shape"] = out.shape
        return out
    return watched
