"""What every data set looks like here: two splits, and the names of the classes."""
from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy

from ..backend import Array, xp_of
from .augment import random_crop_flip, standardize


class Split(NamedTuple):
    """Images and labels that belong together, such as the training part of a data set, in memory.

    images: (N, H, W, C) uint8, 0 to 255.
    labels: (N,) int64, the index of each image's class.

    A split whose images stay in files (image_folder.py) has the same labels and the two methods below. They
    take indices of images and return standardized float32 images (n, H, W, C) with their labels (n,).
    """

    images: numpy.ndarray
    labels: numpy.ndarray

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.images.shape[1:]))
        return f"Split({len(self.images):,} images of {size}, {self.images.dtype})"

    evaluation_batch_size = 250  # images at a time: few enough for a laptop's memory

    def training_batch(self, indices: numpy.ndarray, rng: numpy.random.Generator,
                       shard: slice = slice(None)) -> tuple[Array, Array]:
        """A shard of the images with these indices, augmented. The draws for the others are made, and not
        used."""
        indices = xp_of(self.images).asarray(indices)
        return standardize(random_crop_flip(self.images[indices], rng)[shard]), self.labels[indices[shard]]

    def evaluation_batch(self, indices: numpy.ndarray) -> tuple[Array, Array]:
        """The images with these indices."""
        indices = xp_of(self.images).asarray(indices)
        return standardize(self.images[indices]), self.labels[indices]


class Dataset(NamedTuple):
    """A data set. The name of class i is `classes[i]`."""

    train: Split
    test: Split
    classes: tuple[str, ...]

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:10]) + (", ..." if len(self.classes) > 10 else "")
        return f"Dataset(train={self.train!r}, test={self.test!r}, {len(self.classes)} classes: {names})"

    def moved_to(self, xp: ModuleType) -> Dataset:
        """The same with images and labels in the memory of an array library's device."""
        train, test = (Split(*map(xp.asarray, split)) for split in (self.train, self.test))
        return self._replace(train=train, test=test)

    def held_out(self, images: int) -> Dataset:
        """The same without the test images, in whose place are the last so many training images, which are no
        longer trained on: to choose settings without a look at the test set.

        Raises ValueError unless that leaves training images.
        """
        if not 1 <= images < len(self.train.labels):
            raise ValueError(f"{images} images held out: expected from 1 to {len(self.train.labels) - 1}, "
                             "so that one is left to train on")
        first, last = (Split(*(part[rows] for part in self.train)) for rows in
                       (slice(-images), slice(-images, None)))
        return self._replace(train=first, test=last)
