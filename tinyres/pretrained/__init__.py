"""A pretrained network. Its card, README.md beside this file, says how it was made."""
from __future__ import annotations

from pathlib import Path

import numpy

from ..models import ResidualNetwork, named_net
from ..support.files import refusing
from ..support.saved_weights import build, todays_settings
from ..training import Checkpoint, load_checkpoint
from ..training.checkpoint import write_checkpoint

NETWORK = Path(__file__).with_name("cifar10-laptop.npz")


def pretrained(path: str | Path = NETWORK) -> ResidualNetwork:
    """A network trained on CIFAR-10: (N, 32, 32, 3) standardized images -> (N, 10) logits.

    Class i is `datasets.CIFAR10_CLASSES[i]`; `datasets.augment.standardize` makes the input from uint8
    pixels. path: another network or checkpoint that `run_cifar.py` saved.
    Raises FileNotFoundError if there is no such file, ValueError if it holds no network of `run_cifar.py`.
    """
    checkpoint = load_checkpoint(Path(path))
    with refusing(f"{path} holds no network of run_cifar.py"):
        config = todays_settings(checkpoint.config)
        name, blocks, widths = (config[name] for name in ("network", "blocks", "widths"))
        last = "blocks.7.layers.0.weight" if name == "all-convolutional" else "projection.matrix"
        classes = checkpoint.model[last].shape[-1]
        return build(lambda seed: named_net(name, classes, blocks, widths, seed), 0, checkpoint.model)


def save_network(path: Path, checkpoint: Checkpoint) -> None:
    """Write the weights of a checkpoint alone, in float16: a quarter of its size. Its settings are kept,
    except the folder of the data.

    Raises ValueError, and writes nothing, if a weight is too large for float16.
    """
    largest, weights = float(numpy.finfo(numpy.float16).max), {}
    for name, value in checkpoint.model.items():
        if value.dtype.kind != "f":
            continue  # the state of a random number generator
        if abs(value).max() > largest:
            raise ValueError(f"{name} holds {abs(value).max():g}, more than {largest:g}, the largest float16")
        weights[name] = value.astype(numpy.float16)
    config = {name: value for name, value in checkpoint.config.items() if name != "data"}
    write_checkpoint(path, Checkpoint(weights, {}, checkpoint.step, config))
