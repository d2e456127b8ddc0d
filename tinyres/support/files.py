"""Writing files so that no reader finds half a file; reading arrays from files that may hold anything."""
from __future__ import annotations

import io
import math
import os
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy

NPZ_LIMIT = 2**32  # bytes of a file of arrays; one of the paper's CIFAR network takes 0.11 billion


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path, in which a leading ~ is the user's home folder, as in a shell."""
    return Path(os.path.expanduser(path))


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], Any]) -> None:
    """Write a file under a temporary name and rename it, so that `path` never holds half a file, not even
    after a power cut: first the content reaches the disk, then the name."""
    path = user_path(path)
    descriptor, temporary = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        allow_reading(temporary, 0o644)
        os.replace(temporary, path)  # after the file was closed: Windows renames no open file
    except BaseException:
        os.unlink(temporary)
        raise
    with suppress(OSError):  # Windows opens no folder, and some file systems need no such call
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk. Raises OSError if they do
    not get there."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def allow_reading(path: str | os.PathLike[str], mode: int) -> None:
    """Give a temporary file or folder, which only its owner can read, these permissions, where the file
    system has any: CIFS and FAT may refuse."""
    with suppress(OSError):
        os.chmod(path, mode)


def read_npz(path: str | os.PathLike[str]) -> dict[str, numpy.ndarray]:
    """The arrays in a file of `numpy.savez` by name, read-only.

    Unlike numpy.load, this allocates nothing on the word of a header or a compressed member: a member must be
    as long as its header says, and all members together must be no longer than the file.
    Raises ValueError, and nearly any other exception, for another file; OSError if it cannot be read.
    """
    path = user_path(path)
    size = path.stat().st_size
    if not path.is_file() or size > NPZ_LIMIT:
        raise ValueError(f"it is not a file, or has more than {NPZ_LIMIT} bytes")
    arrays = {}
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        compressed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if compressed or sum(member.file_size for member in members) > size:
            raise ValueError("it is compressed, or promises more bytes than it has")
        for member in members:
            name, dot, suffix = member.filename.rpartition(".")
            content = file.read(member)
            stream = io.BytesIO(content)
            if numpy.lib.format.read_magic(stream) != (1, 0) or dot + suffix != ".npy" or name in arrays:
                raise ValueError(f"it holds {member.filename!r:.60} twice, or in an unknown format")
            shape, columns_first, dtype = numpy.lib.format.read_array_header_1_0(stream)
            expected = math.prod(shape) * dtype.itemsize
            if dtype.hasobject or expected != len(content) - stream.tell():
                raise ValueError(f"{name!r:.60} should be {dtype} of shape {shape}, but has "
                                 f"{len(content) - stream.tell()} bytes")
            arrays[name] = numpy.frombuffer(content, dtype, offset=stream.tell()).reshape(
                shape, order="F" if columns_first else "C")
    return arrays
