"""The states of random number generators: as arrays that a checkpoint can hold, and apart in each process."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy
from numpy.random import Generator, SeedSequence

WORD = 2**64
LAST_POSITION = 624  # of the Mersenne Twister, which reads beyond its memory at a later one


def words(generator: Generator) -> numpy.ndarray:
    """The state of a generator as uint64 numbers, two for each integer, since some have 128 bits."""
    integers = _integers(generator.bit_generator.state)
    return numpy.array([word for number in integers for word in divmod(number, WORD)], numpy.uint64)


def state_of(generator: Generator, name: str, saved: numpy.ndarray) -> dict[str, Any]:
    """What `words` saved, as a state for the generator, which stays as it is.

    name: of the generator, for the message. Raises ValueError if it is not the state of such a generator.
    """
    bits = generator.bit_generator
    try:
        if saved.dtype != numpy.uint64 or saved.shape != words(generator).shape:
            raise ValueError(f"it is {saved.dtype} of shape {saved.shape}")
        numbers = saved.tolist()
        found = _filled(bits.state, iter([high * WORD + low for high, low in
                                          zip(numbers[::2], numbers[1::2], strict=True)]))
        type(bits)().state = found
    except (ValueError, OverflowError, TypeError) as error:
        raise ValueError(f"{name!r} is not the state of a {type(bits).__name__} ({error}): build the same "
                         "network first") from None
    return found


@contextmanager
def stream_of_process(rank: int, generators: Sequence[Generator]) -> Iterator[None]:
    """Within this context generators that are equal in all processes draw other numbers in each; after it
    they are equal again, however many numbers each has drawn."""
    keys = [int(generator.integers(2**63)) for generator in generators]
    states = [generator.bit_generator.state for generator in generators]
    try:
        for generator, key in zip(generators, keys, strict=True):
            bits = generator.bit_generator
            bits.state = type(bits)(SeedSequence((key, rank))).state
        yield
    finally:
        for generator, before in zip(generators, states, strict=True):
            generator.bit_generator.state = before


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _integers(part)
    elif isinstance(value, numpy.ndarray):
        yield from map(int, value.flat)
    elif isinstance(value, int):
        yield value


def _filled(value: Any, numbers: Iterator[int], name: str = "") -> Any:
    """A state with other integers, in the order of `_integers`."""
    if isinstance(value, dict):
        return {key: _filled(part, numbers, key) for key, part in value.items()}
    if isinstance(value, numpy.ndarray):
        return numpy.array([next(numbers) for _ in value.flat], value.dtype)
    if not isinstance(value, int):
        return value
    number = next(numbers)
    if name == "pos" and number > LAST_POSITION:
        raise ValueError(f"its position is {number}")
    return number
