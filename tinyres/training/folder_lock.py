"""Who may write into a run's folder: one run at a time, and only while it is the folder that it entered."""
from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # on Windows, two runs in one folder go unnoticed
    fcntl = None  # type: ignore[assignment]

_locked: set[int] = set()  # descriptors of the files that this process has locked


def _close_copies() -> None:
    for file in _locked:
        os.close(file)
    _locked.clear()


if hasattr(os, "register_at_fork"):  # a fork's copy of a lock would outlive the run
    os.register_at_fork(after_in_child=_close_copies)


class FolderLock:
    """The file .lock in a folder, which is made if absent, held by one run. The system gives it back when the
    process ends, however it ends. Where the file system has no locks, runs do not exclude each other.

    names: files that `write_atomically` writes there; what a killed process left of them is removed first.
    Raises RuntimeError if another run holds the lock, OSError if it cannot be made.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        self.folder, self.path = folder, folder / ".lock"
        folder.mkdir(parents=True, exist_ok=True)
        self.file = self._taken(0)
        for leftover in (path for name in names for path in folder.glob(f".{name}.*.tmp")):
            with suppress(OSError):
                leftover.unlink()

    def keep(self) -> bool:
        """Whether the folder is still the one that was locked; if it was removed, make it again, and lock it.

        Raises RuntimeError if another run has begun there since, OSError if it cannot be made.
        """
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self.file), os.stat(self.path)):
                return True
            raise self._lost()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            file = self._taken(os.O_EXCL)
        except FileExistsError:  # another run was quicker
            raise self._lost() from None
        self.close()
        self.file = file
        return False

    def close(self) -> None:
        """Give the lock back."""
        _locked.discard(self.file)
        os.close(self.file)

    def _taken(self, flags: int) -> int:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | flags, 0o666)
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                os.close(file)
                raise RuntimeError(f"another run is writing to {self.folder}: wait until it ends, or choose "
                                   "another folder") from None
        _locked.add(file)
        return file

    def _lost(self) -> RuntimeError:
        return RuntimeError(f"{self.folder} was removed, and another run has begun there: this one ends, and "
                            "leaves the folder to it")
