"""Writing files so that nothing that is read later is ever half a file, or the work of two runs at once."""
from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows: there two runs in one folder are not noticed
    fcntl = None


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write a file under a temporary name and rename it, so that `path` never holds half a file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp",
                                     delete=False) as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


@contextmanager
def locked(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Within this context no other process enters it for the same folder.

    names: files that `write_atomically` writes there; what a killed process left of them is removed first.
    The system gives the lock back when the process ends, however it ends. Where the system or the file system
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
