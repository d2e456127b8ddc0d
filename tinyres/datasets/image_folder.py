"""Pictures in folders, the form of ImageNet: files that are decoded when a batch asks for them.

    ROOT/train/CLASS/NAME.JPEG
    ROOT/val/CLASS/NAME.JPEG        or flat: ROOT/val/NAME.JPEG and ROOT/val/labels.txt, lines of NAME CLASS

Decoding runs in threads, since Pillow releases Python's lock while it decodes and resizes: on two cores they
are as fast as processes, and a thread cannot die alone or leave the others waiting. Random numbers are drawn
for a whole batch before any file is opened, so that batches do not depend on the threads.

Images are standardized one by one, as on CIFAR: that is the same for all data sets, and a new one needs no
table of means.
"""
from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy
from PIL import Image

from .. import backend
from ..backend import Array
from ..fast.cpu.threads import core_count
from ..support.files import allow_reading, user_path
from .augment import standardize
from .dataset import Dataset
from .decoding import MIN_AREA, SIZE, decode
from .picture_files import SUFFIXES, class_folders, files_by_class, files_by_list

Result = TypeVar("Result")

BROKEN_FILES, BROKEN_FRACTION = 10, 0.001  # skipped at most: files, or a fraction of all if that is more


def image_folder(root: str | Path, workers: int | None = None, min_area: float = MIN_AREA,
                 size: int = SIZE) -> Dataset:
    """The pictures below a folder as a data set: (n, size, size, 3) images, sorted folder names as classes.

    workers: threads that decode; default: as many as cores.
    min_area: the smallest fraction of a picture that a training window covers, above 0 and up to 1.
    Every file with the suffix .JPEG, .jpg or .png, in upper or lower case, is read, as JPEG or PNG; other
    files are ignored, and so is what begins with a dot, and the folder __MACOSX.
    Training: a random window of 8 to 100 % of the area and 3:4 to 4:3 in shape, mirrored half of the time, as
    for Inception networks. Evaluation: the middle 224 x 224 pixels of the picture after it is scaled to 256
    on its shorter side; for another size, scaled to that.
    Raises FileNotFoundError, saying which files belong where, if the folders are missing or empty, or one in
    train/ is; ValueError if val/ has a class that train/ does not have, or labels.txt is no text or does not
    name every file.
    """
    if not 0 < min_area <= 1:
        raise ValueError(f"min_area {min_area} must be above 0 and up to 1")
    train, val = user_path(root) / "train", user_path(root) / "val"
    if not (train.is_dir() and val.is_dir()):
        raise FileNotFoundError(f"{train} and {val} must be folders of pictures, train/CLASS/NAME.JPEG: see "
                                "data/README.md")
    classes = class_folders(train)
    if len(classes) < 2:
        raise FileNotFoundError(f"{train} must hold a folder of pictures for each of two or more classes, "
                                f"found {len(classes)}: see data/README.md")
    workers = workers or core_count()
    train_files = files_by_class(train, classes)
    empty = sorted(set(range(len(classes))) - set(train_files[1]))
    if 0 < len(empty) < len(classes):
        raise FileNotFoundError(f"{train} holds no picture of {len(empty)} of its {len(classes)} classes: "
                                f"fill or delete the folder {classes[empty[0]]!r}")
    val_files = files_by_list if (val / "labels.txt").exists() else files_by_class
    return Dataset(FolderSplit(train, *train_files, workers, min_area, size),
                   FolderSplit(val, *val_files(val, classes), workers, min_area, size), classes)


@functools.cache
def _pool(workers: int, process: int) -> ThreadPoolExecutor:
    """The threads that decode in a process: a fork of it has none of its threads."""
    return ThreadPoolExecutor(workers, "decode")


def submit(pool: ThreadPoolExecutor, function: Callable[..., Result], *arguments: Any) -> Future[Result]:
    """function(*arguments) in a thread of the pool; here, when Python ends and no thread begins any more."""
    try:
        return pool.submit(function, *arguments)
    except RuntimeError:
        future: Future[Result] = Future()
        future.set_result(function(*arguments))
        return future


class FolderSplit:
    """Pictures in files with their labels; a `Split` that reads them when asked.

    A file that cannot be read is reported on standard error, once, and its name is kept in `broken`. In
    training the next readable file in order of names takes its place, label included; evaluation leaves it
    out. More than 10 such files, if they are also more than 0.1 % of all, raise ValueError, and so does a
    split without a readable file: the copy of the data set is damaged. Each process counts for itself.
    """

    evaluation_batch_size = 64  # images at a time: few enough for a laptop's memory

    def __init__(self, folder: Path, names: Sequence[str], labels: Sequence[int],
                 workers: int, min_area: float, size: int = SIZE) -> None:
        if not names:
            raise FileNotFoundError(f"{folder} holds no files {' or '.join(SUFFIXES)} in the folders of its "
                                    "classes: see data/README.md")
        self.folder, self.names, self.labels = folder, names, numpy.asarray(labels, numpy.int64)
        self.broken: dict[str, object] = {}  # by name
        self.workers, self.min_area, self.size = workers, min_area, size

    def __repr__(self) -> str:
        return f"FolderSplit({len(self.names):,} pictures in {self.folder})"

    def divided(self, count: int) -> tuple[FolderSplit, FolderSplit]:
        """The others, and this many pictures at equal distances in order of names, so from all classes."""
        chosen = numpy.arange(count) * len(self.names) // count
        others = numpy.delete(numpy.arange(len(self.names)), chosen)
        first, second = (FolderSplit(self.folder, [self.names[i] for i in rows], self.labels[rows],
                                     self.workers, self.min_area, self.size) for rows in (others, chosen))
        return first, second

    def pixels(self, indices: numpy.ndarray, windows: numpy.ndarray | None = None,
               flips: numpy.ndarray | None = None) -> tuple[Array, Array]:
        """The pictures with these indices, (n, size, size, 3) uint8, and their labels (n,).

        windows, flips: from `draw_windows`, to augment them for training. Without these the middle of each
        picture is cut out, and pictures that cannot be read are left out.
        """
        read, arguments = self._read, [indices]
        if windows is not None:
            read, arguments = self._readable, [indices, windows, flips]
        pool = _pool(self.workers, os.getpid())
        pictures = [submit(pool, read, *values) for values in zip(*arguments, strict=True)]
        try:
            found = [picture for future in pictures if (picture := future.result()) is not None]
        finally:
            for future in pictures:  # what waits behind one that failed
                future.cancel()
        images = numpy.array([image for image, _ in found], numpy.uint8)
        labels = numpy.array([label for _, label in found], numpy.int64)
        asarray = backend.current().asarray
        return asarray(images.reshape(-1, self.size, self.size, 3)), asarray(labels)

    def evaluation_batch(self, indices: numpy.ndarray) -> tuple[Array, Array]:
        """The same without augmentation, standardized: (n, size, size, 3) float32."""
        images, labels = self.pixels(indices)
        return standardize(images), labels

    def _readable(self, number: int, windows: numpy.ndarray, flip: bool) -> tuple[numpy.ndarray, int]:
        while (image := self._read(number, windows, flip)) is None:
            number = (number + 1) % len(self.names)
        return image

    def _read(self, number: int, windows: numpy.ndarray | None = None,
              flip: bool = False) -> tuple[numpy.ndarray, int] | None:
        """(the image (size, size, 3), its label), or None if the file cannot be read."""
        name = self.names[number]
        if name not in self.broken:
            try:
                image = decode(self.folder / name, windows, flip, self.min_area, self.size)
                return image, self.labels[number]
            except MemoryError:
                raise  # the file is not to blame
            except Exception as error:  # damaged files make Pillow's decoders raise almost anything
                mine = object()
                if self.broken.setdefault(name, mine) is mine:  # of the threads that find it, one says so
                    print(f"\nwarning: {self.folder / name} cannot be read and is skipped ({error}); "
                          f"{len(self.broken)} of {len(self.names)} so far", file=sys.stderr)
        count, limit = len(self.broken), max(BROKEN_FILES, BROKEN_FRACTION * len(self.names))
        if count > limit or count == len(self.names):
            raise ValueError(f"{count} of the {len(self.names)} pictures in {self.folder} cannot be read, "
                             f"{name} among them: check the copy of the data set")
        return None


def save_as_folder(dataset: Dataset, root: str | Path) -> None:
    """Write a data set in memory as JPEG files in the layout that `image_folder` reads.

    A folder that exists is left as it is, and no folder is left half written.
    """
    root = user_path(root)
    if root.exists():
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as unfinished:
        for part, split in ("train", dataset.train), ("val", dataset.test):
            for name in dataset.classes:
                (Path(unfinished) / part / name).mkdir(parents=True)
            for i, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
                path = Path(unfinished) / part / dataset.classes[label] / f"{i:05}.JPEG"
                Image.fromarray(image).save(path, quality=90)
        allow_reading(unfinished, 0o755)
        os.rename(unfinished, root)
