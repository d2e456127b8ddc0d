"""What a network takes pictures for."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy

from .. import backend
from ..datasets import Split
from ..nn import Module
from ..training.pictures import probabilities

SHOWN = 5  # classes of a picture


def print_classes(files: Sequence[Path], images: numpy.ndarray, classes: Sequence[str],
                  model: Module) -> None:
    """Print the likeliest classes of each picture. images: what the model sees of the files, (N, H, W, 3)
    uint8."""
    xp = backend.current()
    split = Split(xp.asarray(images), xp.zeros(len(images), numpy.int64))  # labels are not asked
    for file, likelihood in zip(files, probabilities(model, split), strict=True):
        best = numpy.argsort(-likelihood)[:SHOWN]
        print(f"{file}: {', '.join(f'{classes[i]} {likelihood[i]:.1%}' for i in best)}")
