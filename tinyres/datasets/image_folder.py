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

import contextlib
import functools
import math
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from PIL import Image, ImageOps

from .. import backend
from ..backend import Array
from ..fast.cpu.threads import core_count
from ..support.files import allow_reading, user_path
from .augment import standardize
from .dataset import Dataset
from .picture_files import SUFFIXES, class_folders, files_by_class, files_by_list

SIZE = 224  # pixels: width and height of the images that a network gets, unless another size is asked for
SHORTER_SIDE = 256  # pixels: in evaluation a picture is scaled to this before its middle is cut out
MIN_AREA = 0.08  # of random windows: fraction of the picture
ASPECT = 3 / 4, 4 / 3  # of random windows: width / height
TRIES = 10  # windows drawn until one fits into the picture
BROKEN_FILES, BROKEN_FRACTION = 10, 0.001  # skipped at most: files, or a fraction of all if that is more

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


def image_folder(root: str | Path, workers: int | None = None, min_area: float = MIN_AREA,
                 size: int = SIZE) -> Dataset:
    """The pictures below a folder as a data set: (n, size, size, 3) images, sorted folder names as classes.

    workers: threads that decode; default: as many as cores.
    min_area: the smallest fraction of a picture that a training window covers, above 0 and up to 1.
    Every file with the suffix .JPEG, .jpg or .png, in upper or lower case, is read; other files are ignored,
    and so is what begins with a dot, and the folder __MACOSX.
    Training: a random window of 8 to 100 % of the area and 3:4 to 4:3 in shape, mirrored half of the time, as
    for Inception networks. Evaluation: the middle 224 x 224 pixels of the picture after it is scaled to 256
    on its shorter side; for another size, scaled to that.
    Raises FileNotFoundError, saying which files belong where, if the folders are missing or empty, or one in
    train/ is; ValueError if val/ has a class that train/ does not have, or labels.txt does not name every
    file.
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
        self.broken: set[str] = set()
        self.min_area, self.size = min_area, size
        self._workers, self._lock = workers, threading.Lock()

    def __repr__(self) -> str:
        return f"FolderSplit({len(self.names):,} pictures in {self.folder})"

    def divided(self, count: int) -> tuple[FolderSplit, FolderSplit]:
        """The others, and this many pictures at equal distances in order of names, so from all classes."""
        chosen = numpy.arange(count) * len(self.names) // count
        others = numpy.delete(numpy.arange(len(self.names)), chosen)
        first, second = (FolderSplit(self.folder, [self.names[i] for i in rows], self.labels[rows],
                                     self._workers, self.min_area, self.size) for rows in (others, chosen))
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
        found = [image for image in _pool(self._workers, os.getpid()).map(read, *arguments)
                 if image is not None]
        xp = backend.current()
        images = numpy.empty((len(found), self.size, self.size, 3), numpy.uint8)
        for row, (image, _) in zip(images, found, strict=True):
            row[...] = image
        labels = numpy.array([label for _, label in found], numpy.int64)
        return xp.asarray(images), xp.asarray(labels)

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
            except Exception as error:  # damaged files make Pillow's decoders raise almost anything
                self._skip(name, error)
        count, limit = len(self.broken), max(BROKEN_FILES, BROKEN_FRACTION * len(self.names))
        if count > limit or count == len(self.names):
            raise ValueError(f"{count} of the {len(self.names)} pictures in {self.folder} cannot be read, "
                             f"{name} among them: check the copy of the data set")
        return None

    def _skip(self, name: str, error: Exception) -> None:
        with self._lock:
            if name not in self.broken:
                self.broken.add(name)
                print(f"\nwarning: {self.folder / name} cannot be read and is skipped ({error}); "
                      f"{len(self.broken)} of {len(self.names)} so far", file=sys.stderr)


def draw_windows(count: int, rng: numpy.random.Generator) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Random numbers for pictures in training: windows (count, TRIES, 4) from 0 to 1, see `decode`, and
    whether each picture is mirrored, (count,)."""
    return rng.random((count, TRIES, 4)), rng.random(count) < 0.5


def decode(path: str | Path, windows: numpy.ndarray | None = None, flip: bool = False,
           min_area: float = MIN_AREA, size: int = SIZE) -> numpy.ndarray:
    """A picture's pixels, (size, size, 3) uint8: its middle, or the first of the windows that fits into it.

    windows: (tries, 4) from 0 to 1: area, shape, and place across and down of each. flip: whether to mirror
    the picture. Raises what `_read_window` raises.
    """
    def box(width: int, height: int) -> Box:
        if windows is None:
            return _middle(width, height, SIZE / SHORTER_SIDE)
        return _window(width, height, windows.tolist(), min_area)

    pixels = _read_window(path, size, box)
    return pixels[:, ::-1] if flip else pixels


def read_square(path: str | Path, size: int, fraction: float = 1) -> numpy.ndarray:
    """The largest square in the middle of a picture, or this fraction of its side, scaled to (size, size, 3)
    uint8.

    Raises FileNotFoundError for a path that does not exist, ValueError unless the file is a whole picture.
    """
    try:
        return _read_window(path, size, functools.partial(_middle, fraction=fraction))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except Exception as error:  # damaged files make Pillow's decoders raise almost anything
        raise ValueError(f"{path} cannot be read as a picture ({error}): give a JPEG or PNG file") from error


def _read_window(path: str | Path, size: int, box: Callable[[int, int], Box]) -> numpy.ndarray:
    """A window of a picture, scaled to (size, size, 3) uint8. box: (width, height) -> the window.

    Gray pictures, pictures with a palette or transparency, and those for print (CMYK) become RGB; a picture
    that a camera stored turned is turned back.
    Raises OSError, or another error of Pillow's, for a file that is not a whole picture, or that has so many
    pixels (179 million) that Pillow takes it for an attack.
    """
    with Image.open(user_path(path)) as picture:
        width, height = picture.size
        left, top, right, bottom = box(width, height)
        # a JPEG file of a much larger picture is decoded at 1/2, 1/4 or 1/8 of its size, for less work
        picture.draft("RGB", (math.ceil(width * size / (right - left)),
                              math.ceil(height * size / (bottom - top))))
        across, down = picture.width / width, picture.height / height
        box = (left * across, top * down,
               min(right * across, picture.width), min(bottom * down, picture.height))
        if picture.mode.startswith("I"):  # 16 bits of gray, which convert would cut off at 255
            colors = Image.fromarray((numpy.asarray(picture) >> 8).astype(numpy.uint8)).convert("RGB")
        else:
            colors = picture.convert("RGB")
        image = colors.resize((size, size), Image.Resampling.BILINEAR, box)
        if "exif" in picture.info:
            image.info["exif"] = picture.info["exif"]
            with contextlib.suppress(Exception):  # damaged metadata do not make a damaged picture
                ImageOps.exif_transpose(image, in_place=True)
    return numpy.asarray(image)


def _middle(width: int, height: int, fraction: float) -> Box:
    side = min(width, height) * fraction
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _window(width: int, height: int, windows: Sequence[Sequence[float]], min_area: float) -> Box:
    for size, shape, across, down in windows:
        area = width * height * (min_area + (1 - min_area) * size)
        aspect = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** shape
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= w <= width and 1 <= h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, height * ASPECT[1]), min(height, width / ASPECT[0])  # a very long picture: its middle
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


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
