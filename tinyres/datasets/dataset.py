"""What every data set looks like here: images with labels in two splits, and the names of the classes."""
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Images and labels that belong together, such as the training part of a data set.

    images: (N, H, W, C) uint8, 0 to 255.
    labels: (N,) int64, the number of each image's class.
    """

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A data set. The name of class number i is `classes[i]`."""

    train: Split
    test: Split
    classes: tuple[str, ...]
