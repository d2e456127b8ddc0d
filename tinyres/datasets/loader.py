"""Batches, prepared in other threads while the network computes on the ones before."""
from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy

from ..backend import Array
from .dataset import Split

ORDER, AUGMENTATION = 0, 1  # one stream of random numbers for each
AHEAD = 2  # batches in preparation: one is read from its files while the other is put together
EVERYTHING = slice(None)


def training_batch(split: Split, batch_size: int, seed: int, step: int,
                   share: slice = EVERYTHING) -> tuple[Array, Array]:
    """The batch of a step: standardized float32 images (batch_size, H, W, C), augmented, and labels
    (batch_size,), or the share of it that one of several processes trains on.

    Each epoch goes through the images in a new random order, leaving out the last ones that fill no batch.
    All of it is a function of seed and step alone: a resumed run goes on with the same batches, and threads
    cannot change them.
    """
    epoch, position = divmod(step, len(split.labels) // batch_size)
    chosen = _order(seed, epoch, len(split.labels))[position * batch_size:(position + 1) * batch_size]
    return split.augmented(chosen, _generator(seed, AUGMENTATION, step), share)


def training_batches(split: Split, batch_size: int, seed: int, first: int, last: int,
                     share: slice = EVERYTHING) -> Iterator[tuple[Array, Array]]:
    """`training_batch` for the steps first, ..., last - 1, ahead of the reader.

    Raises ValueError if batch_size is not between 1 and the number of images.
    """
    if not 1 <= batch_size <= len(split.labels):
        raise ValueError(f"batch_size {batch_size} must be from 1 to the number of training images, "
                         f"{len(split.labels)}")
    return _ahead(lambda step: training_batch(split, batch_size, seed, step, share), range(first, last))


def evaluation_batches(split: Split, batch_size: int,
                       share: slice = EVERYTHING) -> Iterator[tuple[Array, Array]]:
    """Every image of a split once, or of a share of it, standardized and in order, ahead of the reader."""
    numbers = numpy.arange(len(split.labels))[share]
    return _ahead(lambda start: split.plain(numbers[start:start + batch_size]),
                  range(0, len(numbers), batch_size))


def _ahead(prepare: Callable[[int], tuple[Array, Array]],
           numbers: Iterable[int]) -> Iterator[tuple[Array, Array]]:
    """prepare(number) for each number, in order, the next AHEAD of them in preparation."""
    numbers, pending = iter(numbers), deque()
    threads = ThreadPoolExecutor(AHEAD)
    try:
        while True:
            while len(pending) <= AHEAD and (number := next(numbers, None)) is not None:
                pending.append(threads.submit(prepare, number))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


@functools.lru_cache(maxsize=AHEAD)
def _order(seed: int, epoch: int, images: int) -> numpy.ndarray:
    return _generator(seed, ORDER, epoch).permutation(images)


def _generator(seed: int, stream: int, number: int) -> numpy.random.Generator:
    return numpy.random.default_rng(numpy.random.SeedSequence(seed, spawn_key=(stream, number)))
