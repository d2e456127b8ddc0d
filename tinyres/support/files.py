"""Writing files so that no reader ever finds half a file, or one that two runs wrote at once; reading arrays
from files that may hold anything."""
from __future__ import annotations

import errno
import io
import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy

try:
    import fcntl
except ImportError:  # on Windows, two runs in one folder go unnoticed
    fcntl = None  # type: ignore[assignment]

NPZ_LIMIT = 2**32  # bytes of a file of arrays; one of the paper's CIFAR network takes 0.11 billion
NAMES_LIMIT = 2**20  # bytes of the names in it and where they are; those of that network take 0.01 million


def user_path(path: str | os.PathLike[str]) -> Path:
    """The path, in which a leading ~ is the user's home folder, as in a shell."""
    return Path(os.path.expanduser(path))


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], Any]) -> None:
    """Write a file under a temporary name and rename it, so that `path` never holds half a file."""
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


def allow_reading(path: str | os.PathLike[str], mode: int) -> None:
    """Give a temporary file or folder, which only its owner can read, these permissions, where the file
    system has any: CIFS and FAT may refuse."""
    with suppress(OSError):
        os.chmod(path, mode)


@contextmanager
def refusing(message: str) -> Iterator[None]:
    """Within this context nearly any error, such as a damaged file can raise, becomes a ValueError: the
    message, and what is wrong, in one line. A lack of memory does not: the file is not to blame."""
    try:
        yield
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{message} ({type(error).__name__}: {reason})") from error


class _FewNames(io.FileIO):
    """A file of which no more than `limit` bytes are read at once: zipfile reads all names so, and takes five
    times their memory."""

    limit = NAMES_LIMIT

    def read(self, size: int | None = -1, /) -> bytes:
        if size and size > self.limit:
            raise ValueError(f"the names in it take {size} bytes, more than {self.limit}")
        return super().read(size) or b""


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a file that may be anything: a pipe would never end.

    Raises FileNotFoundError, ValueError for what is no regular file or has more than `limit` bytes.
    """
    path = user_path(path)
    size = path.stat().st_size
    if not path.is_file() or size > limit:
        raise ValueError(f"{path} is no regular file, or has more than {limit} bytes")
    return path.read_bytes()


def read_npz(path: str | os.PathLike[str]) -> dict[str, numpy.ndarray]:
    """The arrays in a file of `numpy.savez` by name, read-only.

    Unlike numpy.load, this allocates nothing on the word of a header or a compressed member: a member must be
    as long as its header says, and all members together must be no longer than the file, and not too many.
    Raises ValueError, and nearly any other exception, for another file; OSError if it cannot be read.
    """
    path = user_path(path)
    size = path.stat().st_size
    if not path.is_file() or size > NPZ_LIMIT:
        raise ValueError(f"it is not a file, or has more than {NPZ_LIMIT} bytes")
    arrays = {}
    with _FewNames(path) as stored, zipfile.ZipFile(stored) as file:
        stored.limit = size
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
            # a longer header may overflow Python's parser, which says that memory has ended
            shape, columns_first, dtype = numpy.lib.format.read_array_header_1_0(stream, 500)
            expected = math.prod(shape) * dtype.itemsize
            if dtype.hasobject or expected != len(content) - stream.tell():
                raise ValueError(f"{name!r:.60} should be {dtype} of shape {shape}, but has "
                                 f"{len(content) - stream.tell()} bytes")
            arrays[name] = numpy.frombuffer(content, dtype, offset=stream.tell()).reshape(
                shape, order="F" if columns_first else "C")
    return arrays


@contextmanager
def locked(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """While one process is within this context, no other can enter it for the same folder.

    names: files that `write_atomically` writes there; what a killed process left of them is removed first.
    The system releases the lock when the process ends, however it ends. Where the system or the file system
    has no locks, nothing is locked.
    Raises RuntimeError if another process holds the lock.
    """
    with open(folder / ".lock", "ab") as file:
        try:
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not held by forked workers
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise RuntimeError(f"another run is writing to {folder}: wait until it ends, or choose "
                                   "another folder") from None
        for leftover in (path for name in names for path in folder.glob(f".{name}.*.tmp")):
            with suppress(OSError):
                leftover.unlink()
        yield
