"""Training batches, each prepared in a second thread while the network computes on the one before."""
from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy

from ..backend import Array, xp_of
from .augment import random_crop_flip, standardize
from .dataset import Split

ORDER, AUGMENTATION = 0, 1  # one stream of random numbers for each


def training_batch(split: Split, batch_size: int, seed: int, step: int) -> tuple[Array, Array]:
    """The batch of a step: standardized float32 images (batch_size, H, W, C), augmented, and labels
    (batch_size,).

    Each epoch goes through the images in a new random order, leaving out the last ones that fill no batch.
    All of it is a function of seed and step alone: a resumed run goes on with the same batches, and threads
    cannot change them.
    """
    steps_per_epoch = len(split.labels) // batch_size
    epoch, position = divmod(step, steps_per_epoch)
    order = _generator(seed, ORDER, epoch).permutation(len(split.labels))
    chosen = xp_of(split.images).asarray(order[position * batch_size:(position + 1) * batch_size])
    images = random_crop_flip(split.images[chosen], _generator(seed, AUGMENTATION, step))
    return standardize(images), split.labels[chosen]


def training_batches(split: Split, batch_size: int, seed: int, first: int,
                     last: int) -> Iterator[tuple[Array, Array]]:
    """`training_batch` for the steps first, ..., last - 1, one ahead of the reader.

    Raises ValueError if batch_size is not between 1 and the number of images.
    """
    if not 1 <= batch_size <= len(split.labels):
        raise ValueError(f"batch_size {batch_size} must be from 1 to the number of training images, "
                         f"{len(split.labels)}")
    with ThreadPoolExecutor(1) as thread:
        pending = thread.submit(training_batch, split, batch_size, seed, first)
        for step in range(first, last):
            batch = pending.result()
            if step + 1 < last:
                pending = thread.submit(training_batch, split, batch_size, seed, step + 1)
            yield batch


def _generator(seed: int, stream: int, number: int) -> numpy.random.Generator:
    return numpy.random.default_rng(numpy.random.SeedSequence(seed, spawn_key=(stream, number)))
