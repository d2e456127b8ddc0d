"""CIFAR-10 and CIFAR-100: 60,000 photographs of 32x32 pixels in ten or in a hundred classes.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html

The official archives are fetched by archive.py; their batches are pickles, which safe_pickle.py reads.
"""
from __future__ import annotations

import os
from pathlib import Path

import numpy

from .archive import Archive, fetch
from .dataset import Dataset, Split
from .safe_pickle import malformed, read_pickle

CIFAR10 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    size=170_498_071,
    folder="cifar-10-batches-py",
    files=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch",
           "batches.meta"))
CIFAR100 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    size=169_001_437,
    folder="cifar-100-python",
    files=("train", "test", "meta"))
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cifar10(root: str | os.PathLike[str] = "data") -> Dataset:
    """CIFAR-10: ten classes, 50,000 images to train on and 10,000 to test on, (N, 32, 32, 3) uint8, RGB.

    root: the folder that holds `cifar-10-batches-py`. If that is absent, it is unpacked from
        `cifar-10-python.tar.gz` in root; if that is absent too, the archive is downloaded first (170 MB).

    Raises RuntimeError or OSError if the data cannot be fetched, saying how to put them there by hand;
    ValueError, naming the file, if a file is not as the official archive has it.
    """
    folder = fetch(CIFAR10, Path(root))
    *batches, test = [_read_batch(folder / name, "labels", rows=10_000, classes=10)
                      for name in CIFAR10.files if name != "batches.meta"]
    train = Split(numpy.concatenate([batch.images for batch in batches]),
                  numpy.concatenate([batch.labels for batch in batches]))
    return Dataset(train, test, _read_classes(folder / "batches.meta", "label_names", classes=10))


def cifar100(root: str | os.PathLike[str] = "data") -> Dataset:
    """CIFAR-100 with its fine labels: a hundred classes, otherwise as `cifar10`.

    The folder is `cifar-100-python`, the archive `cifar-100-python.tar.gz` (169 MB).
    """
    folder = fetch(CIFAR100, Path(root))
    train = _read_batch(folder / "train", "fine_labels", rows=50_000, classes=100)
    test = _read_batch(folder / "test", "fine_labels", rows=10_000, classes=100)
    return Dataset(train, test, _read_classes(folder / "meta", "fine_label_names", classes=100))


def _read_batch(path: Path, label_key: str, rows: int, classes: int) -> Split:
    """The images (rows, 32, 32, 3) and labels (rows,) of a batch. Raises ValueError if it is malformed."""
    batch = read_pickle(path, rows)
    data, labels = batch.get("data"), batch.get(label_key)
    pixels = getattr(data, "pixels", None)  # of a PixelArray that is filled
    if pixels is None:
        raise malformed(path, f"'data' is a {type(data).__name__}, expected a uint8 array")
    if pixels.shape != (rows, 3072):
        raise malformed(path, f"'data' has shape {pixels.shape}, expected {(rows, 3072)}")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise malformed(path, f"{label_key!r} is not a list of ints")
    if len(labels) != rows:
        raise malformed(path, f"{label_key!r} has {len(labels)} elements, expected {rows}")
    if min(labels) < 0 or max(labels) >= classes:
        raise malformed(path, f"{label_key!r} goes from {min(labels)} to {max(labels)}, "
                               f"expected 0 to {classes - 1}")
    images = pixels.reshape(rows, 3, 32, 32).transpose(0, 2, 3, 1)  # a row holds the red, green, blue planes
    return Split(numpy.ascontiguousarray(images), numpy.array(labels, dtype=numpy.int64))


def _read_classes(path: Path, key: str, classes: int) -> tuple[str, ...]:
    """The names of the classes. Raises ValueError unless the file holds that many names."""
    names = read_pickle(path, rows=0).get(key)
    if not isinstance(names, list) or len(names) != classes:
        raise malformed(path, f"{key!r} is not a list of {classes} names")
    if not all(isinstance(name, bytes | str) for name in names):
        raise malformed(path, f"{key!r} holds something other than strings")
    return tuple(name.decode("latin-1") if isinstance(name, bytes) else name for name in names)
