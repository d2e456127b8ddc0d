"""A pretrained network. Its card, README.md beside this file, says how it was made."""
from __future__ import annotations

from pathlib import Path

import numpy

from ..models import ResidualNetwork, cifar_net
from ..support.files import refusing
from ..support.saved_weights import build
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
        blocks, widths, plain = (checkpoint.config[name] for name in ("blocks", "widths", "plain"))
        classes = checkpoint.model["projection.matrix"].shape[1]
        return build(lambda seed: cifar_net(classes, blocks, widths, not plain, seed), 0, checkpoint.model)


def save_network(path: Path, checkpoint: Checkpoint) -> None:
    """Write the weights of a checkpoint alone, in float16: a quarter of its size. Its settings are kept,
    except the folder of the data.

    Raises ValueError, and writes nothing, if a weight is too large for float16.
    """
    largest = float(numpy.finfo(numpy.float16).max)
    for name, value in checkpoint.model.items():
        if abs(value).max() > largest:
            raise ValueError(f"{name} holds {abs(value).max():g}, more than {largest:g}, the largest float16")
    weights = {name: value.astype(numpy.float16) for name, value in checkpoint.model.items()}
    config = {name: value for name, value in checkpoint.config.items() if name != "data"}
    write_checkpoint(path, Checkpoint(weights, {}, checkpoint.step, config))
