"""Weights from a checkpoint of any origin: the network that its settings describe must be theirs, and is not
made if it would be much larger."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
from numpy.random import PCG64, Generator

from ..module import Module

ROOM = 50_000_000, 1000  # numbers and arrays of any network like the paper's, for which an error names a key
OLD_NAMES = {"least_area": "min_area"}  # of settings, in checkpoints of version 0.1.0
OTHERS = "the weights in {} are not those of the network that its settings describe"


def build(make: Callable[[int | Generator], Module], seed: int,
          model: Mapping[str, numpy.ndarray] | None, path: Path | None = None) -> Module:
    """The network that `make` makes from a seed or a generator, with a checkpoint's weights by name if given.
    path: of the checkpoint, for errors.

    Raises ValueError for more than twice their numbers, or twice as many arrays, and the margin ROOM, before
    those are made; and if a name or a shape differs.
    """
    if model is None:
        return make(seed)
    rng = LimitedGenerator(PCG64(seed))  # the one that default_rng(seed) gives
    rng.others = OTHERS.format(path or "the checkpoint")
    rng.held = sum(value.size for value in model.values()), len(model)
    rng.made = 0, 0
    try:
        network = make(rng)
    except MemoryError as error:
        if rng.made[0] > rng.held[0]:
            raise rng.too_large() from error
        raise
    rng.made = None  # a layer may keep the generator
    try:
        network.load_state_dict(model)
    except ValueError as error:
        raise ValueError(f"{rng.others}: {error}") from error
    return network


def todays_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's settings under the names that they have today."""
    config = {OLD_NAMES.get(name, name): value for name, value in config.items()}
    if isinstance(config.get("plain"), bool):  # until there were four networks
        config["network"] = "plain" if config.pop("plain") else "residual"
    return config


class LimitedGenerator(Generator):
    """A generator of so many initial weights."""

    others: str  # what is wrong with a network that is not the checkpoint's
    held: tuple[int, int]  # numbers and arrays of the checkpoint
    made: tuple[int, int] | None = None  # and of the network so far; None: no limit

    def standard_normal(self, size: Any = None, *arguments: Any, **keywords: Any) -> Any:
        if self.made:
            count = math.prod(size) if isinstance(size, tuple) else size or 1
            self.made = self.made[0] + count, self.made[1] + 1
            if any(made > 2 * held + room for made, held, room in
                   zip(self.made, self.held, ROOM, strict=True)):
                raise self.too_large()
        return super().standard_normal(size, *arguments, **keywords)

    def too_large(self) -> ValueError:
        """The error to raise for a network that cannot be the checkpoint's."""
        return ValueError(f"{self.others}: they are {self.held[0]:,} numbers in {self.held[1]:,} arrays, and "
                          "the network is much larger")
