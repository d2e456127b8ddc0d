"""Module: something with weights, which it finds by itself, shows as a table and names in its errors."""
from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy
from numpy.random import Generator

from .support import generators
from .support import layer_checks as checks
from .tensor import Tensor

Found = TypeVar("Found")


class Module:
    """Something with weights. A subclass sets tensors and modules as attributes and defines `__call__`.

    Tensors are found by walking the attributes, and lists, tuples and dicts of them, in the order in which
    they were set. Those that require a gradient are the module's parameters; the others, its constants, are
    saved with it. So are the states of NumPy's random number generators (`numpy.random.Generator`) that it
    holds: a module that is loaded draws the numbers that the saved one would have drawn next.

    Processes that train together average a constant that a step has replaced, such as BatchNorm2d's running
    mean (`constant.data = ...`, also `+=`).
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
        return self._once(Tensor)

    def named_generators(self) -> Iterator[tuple[str, Generator]]:
        """Every random number generator once, by dotted name, such as "layers.2.rng"."""
        return self._once(Generator)

    def _once(self, kind: type[Found]) -> Iterator[tuple[str, Found]]:
        seen = set()
        for name, found in _walk(self, ""):
            if isinstance(found, kind) and id(found) not in seen:
                seen.add(id(found))
                yield name, found

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
        """A NumPy copy of every parameter and constant, and of every generator's state, by name."""
        return {**{name: numpy.array(tensor.numpy()) for name, tensor in self.named_tensors()},
                **{name: generators.words(generator) for name, generator in self.named_generators()}}

    def load_state_dict(self, state: Mapping[str, numpy.ndarray]) -> None:
        """Set every parameter and constant, in place, and every generator whose state is there: older
        files have none. Raises ValueError, and changes nothing, if names or shapes differ."""
        tensors = dict(self.named_tensors())
        drawing = {name: generator for name, generator in self.named_generators() if name in state}
        states = {name: generators.state_of(drawing[name], name, state[name]) for name in drawing}
        checks.load(type(self).__name__, {name: tensor.data for name, tensor in tensors.items()},
                    {name: values for name, values in state.items() if name not in drawing})
        for tensor in tensors.values():
            tensor.version += 1
        for name, generator in drawing.items():
            generator.bit_generator.state = states[name]

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


@contextmanager
def evaluating(model: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within this context every module of a model is in evaluation mode, and then as it was before."""
    modules = [module for _, module in model.named_modules()] if isinstance(model, Module) else []
    modes = [module.training for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


@contextmanager
def unchanged(model: Module) -> Iterator[None]:
    """Within this context a model may be tried out in training mode: afterwards its constants, such as
    running means, and its random number generators are as before."""
    constants = [(tensor, tensor.data.copy()) for _, tensor in model.named_tensors()
                 if not tensor.requires_grad]
    states = [(generator, generator.bit_generator.state) for _, generator in model.named_generators()]
    try:
        yield
    finally:
        for tensor, values in constants:
            tensor.data[...] = values
        for generator, state in states:
            generator.bit_generator.state = state


def _tensors(value: object) -> list[Tensor]:
    return [found for _, found in _walk(value, "", into_modules=False) if isinstance(found, Tensor)]


def _walk(value: object, name: str, into_modules: bool = True) -> Iterator[tuple[str, Any]]:
    """Every tensor, module and random number generator in a value, by dotted name."""
    if isinstance(value, (Tensor, Module, Generator)):
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
