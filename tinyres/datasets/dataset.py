"""What every data set looks like here: two splits, and the names of the classes."""
from typing import NamedTuple

import numpy as np

from ..backend import Array, xp_of
from .augment import random_crop_flip, standardize


class Split(NamedTuple):
    """Images and labels that belong together, such as the training part of a data set, in memory.

    images: (N, H, W, C) uint8, 0 to 255.
    labels: (N,) int64, the number of each image's class.

    A split whose images stay in files (image_folder.py) has the same labels and the two methods below. They
    take numbers of images and return standardized float32 images (n, H, W, C) with their labels (n,).
    """

    images: np.ndarray
    labels: np.ndarray

    def augmented(self, chosen: np.ndarray, rng: np.random.Generator,
                  share: slice = slice(None)) -> tuple[Array, Array]:
        """The share of the chosen images for training. The draws for the others are made, and not used."""
        chosen = xp_of(self.images).asarray(chosen)
        return standardize(random_crop_flip(self.images[chosen], rng)[share]), self.labels[chosen[share]]

    def plain(self, chosen: np.ndarray) -> tuple[Array, Array]:
        """The chosen images for evaluation."""
        chosen = xp_of(self.images).asarray(chosen)
        return standardize(self.images[chosen]), self.labels[chosen]


class Dataset(NamedTuple):
    """A data set. The name of class number i is `classes[i]`."""

    train: Split
    test: Split
    classes: tuple[str, ...]
