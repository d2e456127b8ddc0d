"""Who may write into a run's folder: one run at a time, and only while it is the folder that it entered."""
from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # on Windows, runs of two programs in one folder go unnoticed
    fcntl = None  # type: ignore[assignment]

# device and inode of the locks that this process holds: the system would give it each of them twice
_held: set[tuple[int, int]] = set()
_guard = threading.Lock()


def _after_fork_in_child() -> None:
    _held.clear()  # a fork does not inherit what lockf locked
    _guard.release()


if hasattr(os, "register_at_fork"):  # a copy of a held lock would never be released
    os.register_at_fork(before=_guard.acquire, after_in_parent=_guard.release,
                        after_in_child=_after_fork_in_child)


class FolderLock:
    """The file .lock in a folder, which is made if absent, held by one run. The system gives it back when the
    process ends, however it ends. Where the file system has no locks, only runs of one process exclude each
    other.

    names: files that `write_atomically` writes there; what a killed process left of them is removed first.
    Raises RuntimeError if another run holds the lock, OSError if it cannot be made.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder, self.path = folder, folder / ".lock"
        folder.mkdir(parents=True, exist_ok=True)
        self.file = self._taken("ab")
        for leftover in (path for name in names for path in folder.glob(f".{name}.*.tmp")):
            with suppress(OSError):
                leftover.unlink()

    def keep(self) -> bool:
        """Whether the folder is still the one that was locked; if it was removed, make it again, and lock it.

        Raises RuntimeError if another run has begun there since, OSError if it cannot be made.
        """
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self.file.fileno()), os.stat(self.path)):
                return True
            raise self._lost()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            file = self._taken("xb")
        except FileExistsError:  # another run was quicker
            raise self._lost() from None
        self.close()
        self.file = file
        return False

    def close(self) -> None:
        """Give the lock back."""
        with _guard:
            _held.discard(_identity(self.file))
            self.file.close()

    def _taken(self, mode: str) -> BinaryIO:
        with _guard:
            with suppress(FileNotFoundError):
                found = self.path.stat()  # not opened: to close it would give the lock back
                if (found.st_dev, found.st_ino) in _held:
                    raise self._busy()
            file: BinaryIO = open(self.path, mode)  # type: ignore[assignment]
            try:
                if fcntl:  # unlike flock, lockf is not inherited by forked workers
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    file.close()
                    raise self._busy() from None
            _held.add(_identity(file))
        return file

    def _lost(self) -> RuntimeError:
        return RuntimeError(f"{self.folder} was removed, and another run has begun there: this one ends, and "
                            "leaves the folder to it")

    def _busy(self) -> RuntimeError:
        return RuntimeError(f"another run is writing to {self.folder}: wait until it ends, or choose another "
                            "folder")


def _identity(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino
