"""What every data set looks like here: two splits, and the names of the classes."""
from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy

from ..backend import Array, xp_of
from .augment import standardize


class Split(NamedTuple):
    """Images and their labels, such as the training part of a data set, in memory.

    images: (N, H, W, C) uint8, 0 to 255.
    labels: (N,) int64, the index of each image's class.

    A split whose images stay in files (image_folder.py) has the same labels, and methods of the same names.
    """

    images: numpy.ndarray
    labels: numpy.ndarray

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.images.shape[1:]))
        return f"Split({len(self.images):,} images of {size}, {self.images.dtype})"

    evaluation_batch_size = 250  # images at a time: few enough for a laptop's memory

    def divided(self, count: int) -> tuple[Split, Split]:
        """The first images, and the last ones, this many."""
        return Split(*(part[:-count] for part in self)), Split(*(part[-count:] for part in self))

    def pixels(self, indices: numpy.ndarray) -> tuple[Array, Array]:
        """The images with these indices as they are, (n, H, W, C) uint8, and their labels (n,)."""
        indices = xp_of(self.images).asarray(indices)
        return self.images[indices], self.labels[indices]

    def evaluation_batch(self, indices: numpy.ndarray) -> tuple[Array, Array]:
        """The same, standardized: (n, H, W, C) float32."""
        images, labels = self.pixels(indices)
        return standardize(images), labels


class Dataset(NamedTuple):
    """A data set. The name of class i is `classes[i]`."""

    train: Split
    test: Split
    classes: tuple[str, ...]

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:10]) + (", ..." if len(self.classes) > 10 else "")
        return f"Dataset(train={self.train!r}, test={self.test!r}, {len(self.classes)} classes: {names})"

    def moved_to(self, xp: ModuleType) -> Dataset:
        """The same with images and labels in the memory that an array library uses."""
        train, test = (Split(*map(xp.asarray, split)) for split in (self.train, self.test))
        return self._replace(train=train, test=test)

    def held_out(self, images: int) -> Dataset:
        """The same with this many training images in place of the test images and no longer trained on: to
        choose settings without a look at the test set. They are the last ones, or pictures of all folders.

        Raises ValueError unless images are held out and others left to train on.
        """
        if not 1 <= images < len(self.train.labels):
            raise ValueError(f"{images} images held out: expected from 1 to {len(self.train.labels) - 1}, "
                             "so that one is left to train on")
        first, last = self.train.divided(images)
        return self._replace(train=first, test=last)
