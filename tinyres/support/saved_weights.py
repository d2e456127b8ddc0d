"""Weights from a checkpoint of any origin: the network that its settings describe must be theirs, and is not
made if it would be much larger."""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy
from numpy.random import PCG64, Generator

from ..module import Module

ROOM = 50_000_000, 1000  # numbers and arrays of any network like the paper's, for which an error names a key
OTHERS = "the weights in the checkpoint are not those of the network that its settings describe"


class LimitedGenerator(Generator):
    """The generator of initial weights that a checkpoint's will replace: it gives not many more
    than those.

    seed: as in numpy.random.default_rng. model: the checkpoint's weights by name.
    Raises ValueError for more than twice their numbers, or twice as many arrays, and the margin ROOM.
    """

    def __init__(self, seed: int, model: Mapping[str, numpy.ndarray]) -> None:
        super().__init__(PCG64(seed))
        self.numbers, self.arrays = sum(value.size for value in model.values()), len(model)
        self.numbers_left, self.arrays_left = 2 * self.numbers + ROOM[0], 2 * self.arrays + ROOM[1]

    def standard_normal(self, size: Any = None, *arguments: Any, **keywords: Any) -> Any:
        self.numbers_left -= math.prod(numpy.atleast_1d(() if size is None else size).tolist())
        self.arrays_left -= 1
        if min(self.numbers_left, self.arrays_left) < 0:
            raise ValueError(f"{OTHERS}: they are {self.numbers:,} numbers in {self.arrays:,} arrays, and "
                             "the network is much larger")
        return super().standard_normal(size, *arguments, **keywords)


def load(network: Module, model: Mapping[str, numpy.ndarray]) -> None:
    """Set the weights of a network to a checkpoint's. Raises ValueError, and changes nothing, if a name or a
    shape differs; it names the first."""
    expected = {name: tensor.shape for name, tensor in network.named_tensors()}
    for name in [*expected, *model]:
        if name not in model:
            raise ValueError(f"{OTHERS}: {name!r}, of shape {expected[name]}, is missing")
        if expected.get(name) != model[name].shape:
            needed = f"shape {expected[name]}" if name in expected else "no such name"
            raise ValueError(f"{OTHERS}: {name!r:.60} is {model[name].dtype} of shape {model[name].shape}, "
                             f"expected {needed}")
    network.load_state_dict(model)
