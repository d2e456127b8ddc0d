"""Batches, prepared in other threads while the network computes on earlier ones.

The loader draws which images make a batch and how each is augmented; the split gives their pixels; the loader
augments and standardizes them.
"""
from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy

from ..backend import Array
from .augment import PADDING, crop_flip, draw_crops, standardize
from .dataset import Split
from .decoding import draw_windows
from .image_folder import FolderSplit, submit

ORDER, AUGMENTATION = 0, 1  # one stream of random numbers for each
PREFETCH = 2  # batches in preparation: one is read from its files while the other is put together
EVERYTHING = slice(None)


def batch_of_step(split: Split | FolderSplit, batch_size: int, seed: int, step: int,
                   shard: slice = EVERYTHING, crop_padding: int = PADDING) -> tuple[Array, Array]:
    """The batch of a step: augmented and standardized float32 images (batch_size, H, W, C) and labels
    (batch_size,), or the shard of it that one of several processes trains on. crop_padding: pixels by which
    a crop may lie beside an image of a `Split`.

    Each epoch goes through the images in a new random order, leaving out the last ones that fill no batch.
    Everything is a function of seed and step alone: a resumed run goes on with the same batches, and threads
    cannot change them. Random numbers are drawn for the whole batch, so that shards are parts of one batch.
    """
    epoch, position = divmod(step, len(split.labels) // batch_size)
    indices = _order(seed, epoch, len(split.labels))[position * batch_size:(position + 1) * batch_size]
    rng = _generator(seed, AUGMENTATION, step)
    if isinstance(split, FolderSplit):  # which decodes only what it cuts out
        windows, flips = draw_windows(batch_size, rng)
        images, labels = split.pixels(indices[shard], windows[shard], flips[shard])
    else:
        images, labels = split.pixels(indices[shard])
        crops = draw_crops(batch_size, rng, crop_padding)
        images = crop_flip(images, crops[shard], crop_padding)
    return standardize(images), labels


def training_batches(split: Split | FolderSplit, batch_size: int, seed: int, first: int, last: int,
                     shard: slice = EVERYTHING,
                     crop_padding: int = PADDING) -> Iterator[tuple[Array, Array]]:
    """`batch_of_step` for the steps first, ..., last - 1, prepared ahead of the reader.

    Raises ValueError if batch_size is not between 1 and the number of images.
    """
    if not 1 <= batch_size <= len(split.labels):
        raise ValueError(f"batch_size {batch_size} must be from 1 to the number of training images, "
                         f"{len(split.labels)}")
    return _prefetch(lambda step: batch_of_step(split, batch_size, seed, step, shard, crop_padding),
                     range(first, last))


def evaluation_batches(split: Split | FolderSplit, batch_size: int,
                       shard: slice = EVERYTHING) -> Iterator[tuple[Array, Array]]:
    """Every image of a split, or of a shard of it, standardized, in order, prepared ahead of the reader."""
    indices = numpy.arange(len(split.labels))[shard]
    return _prefetch(lambda start: split.evaluation_batch(indices[start:start + batch_size]),
                  range(0, len(indices), batch_size))


def _prefetch(prepare: Callable[[int], tuple[Array, Array]],
              numbers: Iterable[int]) -> Iterator[tuple[Array, Array]]:
    """prepare(number) for each number, in order, while the next PREFETCH of them are in preparation."""
    pending, threads = deque[Future[tuple[Array, Array]]](), ThreadPoolExecutor(PREFETCH)
    try:
        for number in numbers:
            pending.append(submit(threads, prepare, number))
            if len(pending) > PREFETCH:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


@functools.lru_cache(maxsize=PREFETCH)
def _order(seed: int, epoch: int, images: int) -> numpy.ndarray:
    return _generator(seed, ORDER, epoch).permutation(images)


def _generator(seed: int, stream: int, number: int) -> numpy.random.Generator:
    return numpy.random.default_rng(numpy.random.SeedSequence(seed, spawn_key=(stream, number)))
