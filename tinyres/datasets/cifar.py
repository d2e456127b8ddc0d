"""CIFAR-10 and CIFAR-100: 60,000 photographs of 32x32 pixels in ten or in a hundred classes.

A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html

This file does two things. `_fetch` downloads and unpacks the official archive where it is not there yet,
in such a way that a folder in place is a whole one. `_read_batch` reads a batch. A batch is a Python pickle,
and a pickle is a program that may call any function: `_Unpickler` lets it call none but the stand-ins here.
"""
import gzip
import hashlib
import io
import os
import pickle
import pickletools
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .dataset import Dataset, Split

CHUNK = 2**16  # bytes read from a connection or a file at a time
UNPACKED_LIMIT = 200_000_000  # bytes; both archives hold about 186 million


@dataclass(frozen=True)
class _Archive:
    """An official archive: where it is, how to know it, and which of its files are read here."""

    url: str
    md5: str
    size: int  # bytes
    folder: str  # the files' folder, in the archive as under root
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


CIFAR10 = _Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    size=170_498_071,
    folder="cifar-10-batches-py",
    files=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch",
           "batches.meta"))
CIFAR100 = _Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    size=169_001_437,
    folder="cifar-100-python",
    files=("train", "test", "meta"))


def cifar10(root: str | os.PathLike[str] = "data") -> Dataset:
    """CIFAR-10: ten classes, 50,000 images to train on and 10,000 to test on, (N, 32, 32, 3) uint8, RGB.

    root: the folder that holds `cifar-10-batches-py`. Where that is absent it is unpacked from
        `cifar-10-python.tar.gz` in root, and where that is absent too, downloaded (170 MB).

    Raises RuntimeError or OSError if the data cannot be got, saying how to put them there by hand;
    ValueError, naming the file, if a file is not as the official archive has it.
    """
    folder = _fetch(CIFAR10, Path(root))
    *batches, test = [_read_batch(folder / name, "labels", rows=10_000, classes=10)
                      for name in CIFAR10.files if name != "batches.meta"]
    train = Split(np.concatenate([batch.images for batch in batches]),
                  np.concatenate([batch.labels for batch in batches]))
    return Dataset(train, test, _read_classes(folder / "batches.meta", "label_names", classes=10))


def cifar100(root: str | os.PathLike[str] = "data") -> Dataset:
    """CIFAR-100 with its fine labels: a hundred classes, otherwise as `cifar10`.

    The folder is `cifar-100-python`, the archive `cifar-100-python.tar.gz` (169 MB).
    """
    folder = _fetch(CIFAR100, Path(root))
    train = _read_batch(folder / "train", "fine_labels", rows=50_000, classes=100)
    test = _read_batch(folder / "test", "fine_labels", rows=10_000, classes=100)
    return Dataset(train, test, _read_classes(folder / "meta", "fine_label_names", classes=100))


# Getting the files


def _fetch(archive: _Archive, root: Path, timeout: float = 30.0) -> Path:
    """The folder with the archive's files under root, unpacked or downloaded first where it is absent.

    timeout: seconds without a byte after which a download counts as stalled.
    """
    folder = root / archive.folder
    if folder.is_dir():
        return folder
    if not hasattr(tarfile, "data_filter"):
        raise RuntimeError(f"Python {sys.version.split()[0]} cannot unpack {archive.name} safely: "
                           "its tarfile has no data filter. Update Python to its newest patch release.")
    root.mkdir(parents=True, exist_ok=True)
    # All work is done in a new folder with a name of its own, so that an interrupted run leaves nothing
    # that looks whole and two runs at once do not meet.
    with tempfile.TemporaryDirectory(prefix=f".{archive.folder}-", dir=root) as work:
        packed = root / archive.name
        if not packed.is_file():
            packed = Path(work, archive.name)
            _download(archive, packed, root, timeout)
        elif fault := _fault(archive, packed):
            raise RuntimeError(f"{packed} {fault}. Delete it to have it downloaded from {archive.url}, "
                               "or put the official file in its place.")
        _unpack(archive, packed, Path(work))
        try:
            os.replace(Path(work, archive.folder), folder)
        except OSError:
            if not folder.is_dir():  # if it is there now, another run was faster: use its folder
                raise
    return folder


def _download(archive: _Archive, target: Path, root: Path, timeout: float) -> None:
    """Download the archive to `target`. Raises RuntimeError, saying what the user can do, if that fails."""
    request = urllib.request.Request(archive.url, headers={"User-Agent": "tinyres"})
    terminal = sys.stderr.isatty()
    fault = None
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response, open(target, "wb") as file:
            received = shown = 0
            while received <= archive.size and (chunk := response.read(CHUNK)):
                file.write(chunk)
                received += len(chunk)
                if received - shown >= archive.size / (100 if terminal else 10):
                    shown = received
                    print(f"{archive.name}: {received / 1e6:.0f} of {archive.size / 1e6:.0f} MB",
                          end="\r" if terminal else "\n", file=sys.stderr, flush=True)
    except (OSError, HTTPException) as error:
        fault = f"{type(error).__name__}: {error}"
    if terminal:
        print(file=sys.stderr)
    if fault := fault or _fault(archive, target):
        raise RuntimeError(f"could not download {archive.url} ({fault}). Run again, or get {archive.name} by "
                           f"other means and put it into {root.resolve()}.")


def _fault(archive: _Archive, path: Path) -> str | None:
    """What tells the file from the official archive, or None if nothing does."""
    size = path.stat().st_size
    if size > archive.size:
        return f"has more than the {archive.size} bytes expected"
    if size < archive.size:
        return f"ends after {size} of {archive.size} bytes"
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != archive.md5:
        return f"has the MD5 checksum {digest.hexdigest()}, expected {archive.md5}"
    return None


def _unpack(archive: _Archive, packed: Path, target: Path) -> None:
    """Unpack the files of the archive that are read here, and no others, into the folder `target`."""
    missing = {f"{archive.folder}/{name}" for name in archive.files}
    total = 0
    try:
        with gzip.open(packed) as stream, tarfile.open(fileobj=_Limited(stream), mode="r:") as tar:
            for member in tar:
                total += member.size
                _check_unpacked(total)
                if member.name in missing:
                    if not member.isreg() or member.issparse():
                        raise RuntimeError(f"{member.name} is not a regular file")
                    tar.extract(member, target, filter="data")
                    missing.remove(member.name)
        if missing:
            raise RuntimeError(f"it lacks {', '.join(sorted(missing))}")
    except (RuntimeError, tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise RuntimeError(f"could not unpack {packed}: {error}. "
                           f"The official archive is at {archive.url}.") from error


def _check_unpacked(size: int) -> None:
    if size > UNPACKED_LIMIT:
        raise RuntimeError(f"it unpacks to more than {UNPACKED_LIMIT} bytes")


class _Limited:
    """A stream for tarfile that ends with an error where the archive should: it reads headers of any size."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.tell = stream, stream.tell

    def read(self, size: int) -> bytes:
        _check_unpacked(self.tell() + size)
        return self.stream.read(size)

    def seek(self, position: int) -> int:
        _check_unpacked(position)
        return self.stream.seek(position)


# Reading the files


class _Array:
    """Stands in for numpy.ndarray, which a pickle first makes empty and then fills by __setstate__."""

    def __setstate__(self, state: tuple[int, tuple[int, ...], "_Uint8", bool, bytes]) -> None:
        _, shape, dtype, fortran, content = state
        self.pixels = _array(content, dtype, shape, "F" if fortran else "C")


class _Uint8:
    """Stands in for numpy.dtype and admits the one type that an image has."""

    def __init__(self, code: str | bytes, align: bool = False, copy: bool = False) -> None:
        name = code.decode() if isinstance(code, bytes) else code
        if name != "u1":
            raise pickle.UnpicklingError(f"an array has dtype {name:.20}, expected u1 (uint8)")

    def __setstate__(self, state: tuple[object, ...]) -> None:
        """The state holds the byte order and the fields of a record. A single byte has neither."""


def _array(content: bytes, dtype: _Uint8, shape: tuple[int, ...], order: str) -> np.ndarray:
    """The array that a pickle describes, without a copy: so its size is bounded by that of the file."""
    if not isinstance(dtype, _Uint8):
        raise pickle.UnpicklingError("an array has no dtype")
    return np.frombuffer(content, np.uint8).reshape(shape, order=order)


class _Unpickler(pickle.Unpickler):
    """Reads a pickle of dictionaries, lists, strings, numbers and uint8 arrays, and nothing else.

    NumPy's own functions never see what the file says: some can be talked into running code or taking all
    memory. The stand-ins are methods: unlike functions, a pickle that sets attributes cannot change them.
    """

    def find_class(self, module: str, name: str) -> object:
        admitted = {
            "numpy.ndarray": _Array,
            "numpy.dtype": _Uint8,
            "numpy.core.multiarray._reconstruct": self._reconstruct,  # NumPy 1, and so the official files
            "numpy._core.multiarray._reconstruct": self._reconstruct,  # NumPy 2
            "numpy.core.numeric._frombuffer": self._frombuffer,  # protocol 5
            "numpy._core.numeric._frombuffer": self._frombuffer,
            "_codecs.encode": self._encode,  # how Python 3 writes bytes in protocol 2
        }
        wanted = f"{module}.{name}"
        if wanted not in admitted:
            raise pickle.UnpicklingError(f"it asks for {wanted[:100]!r}, which a data file has no use for")
        return admitted[wanted]

    def _reconstruct(self, kind: type, shape: tuple[int, ...], code: bytes) -> _Array:
        return _Array()  # empty whatever the shape

    def _frombuffer(self, content: bytes, dtype: _Uint8, shape: tuple[int, ...], order: str) -> _Array:
        array = _Array()
        array.pixels = _array(content, dtype, shape, order)
        return array

    def _encode(self, text: str, encoding: str | bytes) -> bytes:
        return text.encode("latin-1")


def _malformed(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is not as the official archive has it: {reason}. "
                      f"Delete the folder {path.parent} and run again to get it anew.")


def _read_pickle(path: Path, rows: int) -> dict[object, object]:
    """The dictionary in a file that describes `rows` images, with str keys. ValueError if malformed."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. "
                                f"Delete the folder {path.parent} and run again to get it anew.")
    # A byte can take two in protocol 2; the rest of a row is its label and its file name.
    limit = 2**20 + rows * (2 * 3072 + 256)
    if path.stat().st_size > limit:
        raise _malformed(path, f"it has more than {limit} bytes")
    content = path.read_bytes()
    stream = io.BytesIO(content)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > 1000 + 16 * rows:
                raise pickle.UnpicklingError(f"it has more objects than {rows} images need")
            # The unpickler makes a table as long as the largest number says.
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
                raise pickle.UnpicklingError(f"object number {argument} comes after {count} instructions")
        if stream.tell() != len(content):
            raise pickle.UnpicklingError(f"the pickle ends after {stream.tell()} of {len(content)} bytes")
        stream.seek(0)
        batch = _Unpickler(stream, encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly any exception
        raise _malformed(path, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(batch, dict):
        raise _malformed(path, f"it holds a {type(batch).__name__}, expected a dict")
    return {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in batch.items()}


def _read_batch(path: Path, label_key: str, rows: int, classes: int) -> Split:
    """The images (rows, 32, 32, 3) and labels (rows,) of a batch. ValueError if malformed."""
    batch = _read_pickle(path, rows)
    data, labels = batch.get("data"), batch.get(label_key)
    pixels = getattr(data, "pixels", None)
    if not isinstance(data, _Array) or pixels is None:
        raise _malformed(path, f"'data' is a {type(data).__name__}, expected a uint8 array")
    if pixels.shape != (rows, 3072):
        raise _malformed(path, f"'data' has shape {pixels.shape}, expected {(rows, 3072)}")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise _malformed(path, f"{label_key!r} is not a list of ints")
    if len(labels) != rows:
        raise _malformed(path, f"{label_key!r} has {len(labels)} elements, expected {rows}")
    if min(labels) < 0 or max(labels) >= classes:
        raise _malformed(path, f"{label_key!r} goes from {min(labels)} to {max(labels)}, "
                               f"expected 0 to {classes - 1}")
    images = pixels.reshape(rows, 3, 32, 32).transpose(0, 2, 3, 1)  # a row is the red, green, blue planes
    return Split(np.ascontiguousarray(images), np.array(labels, dtype=np.int64))


def _read_classes(path: Path, key: str, classes: int) -> tuple[str, ...]:
    """The names of the classes. Raises ValueError if the file does not hold as many as there should be."""
    names = _read_pickle(path, rows=0).get(key)
    if not isinstance(names, list) or len(names) != classes:
        raise _malformed(path, f"{key!r} is not a list of {classes} names")
    if not all(isinstance(name, bytes | str) for name in names):
        raise _malformed(path, f"{key!r} holds something else than strings")
    return tuple(name.decode("latin-1") if isinstance(name, bytes) else name for name in names)
