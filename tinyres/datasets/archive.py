"""Official archives: downloaded, checked and unpacked, so that a folder in its place is always complete."""
from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from ..support.files import user_path

CHUNK_BYTES = 2**16  # read from a connection or a file at a time
UNPACKED_LIMIT = 200_000_000  # bytes; CIFAR's archives hold about 186 million


@dataclass(frozen=True)
class Archive:
    """An official archive: where it is, how to recognize it, and which of its files are read here."""

    url: str
    md5: str
    size: int  # bytes
    folder: str  # the files' folder, both in the archive and under root
    files: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


def fetch(archive: Archive, root: Path, timeout: float = 30.0) -> Path:
    """The folder with the archive's files under root; if absent, it is first downloaded and unpacked.

    timeout: seconds without a byte after which a download counts as stalled.
    Raises RuntimeError, saying what the user can do, if the archive cannot be fetched or is not the official
    one.
    """
    root = user_path(root)
    folder = root / archive.folder
    if folder.is_dir():
        return folder
    if not hasattr(tarfile, "data_filter"):
        raise RuntimeError(f"Python {sys.version.split()[0]} cannot unpack {archive.name} safely: "
                           "its tarfile has no data filter. Update Python to its newest patch release.")
    root.mkdir(parents=True, exist_ok=True)
    # All work is done in a new folder with a unique name, so that an interrupted run leaves nothing that
    # looks complete, and two runs at once do not collide.
    with tempfile.TemporaryDirectory(prefix=f".{archive.folder}-", dir=root) as work:
        packed = root / archive.name
        if not packed.is_file():
            packed = Path(work, archive.name)
            _download(archive, packed, root, timeout)
        elif fault := _fault(archive, packed):
            raise RuntimeError(f"{packed} {fault}. Delete it to have it downloaded from {archive.url}, "
                               "or put the official file in its place.")
        unpack(archive, packed, Path(work))
        try:
            os.replace(Path(work, archive.folder), folder)
        except OSError:
            if not folder.is_dir():  # if it is there by now, another run was faster: use its folder
                raise
    return folder


def _download(archive: Archive, target: Path, root: Path, timeout: float) -> None:
    """Download the archive to `target`. Raises RuntimeError, saying what the user can do, if that fails."""
    request = urllib.request.Request(archive.url, headers={"User-Agent": "tinyres"})
    terminal = sys.stderr.isatty()
    fault = None
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response, open(target, "wb") as file:
            received = shown = 0
            while received <= archive.size and (chunk := response.read(CHUNK_BYTES)):
                file.write(chunk)
                received += len(chunk)
                if received - shown >= archive.size / (100 if terminal else 10):
                    shown = received
                    print(f"{archive.name}: {received / 1e6:.0f} of {archive.size / 1e6:.0f} MB",
                          end="\r" if terminal else "\n", file=sys.stderr, flush=True)
    except (OSError, HTTPException, ValueError) as error:  # ValueError: redirected to what is no address
        fault = f"{type(error).__name__}: {error}"
    if terminal:
        print(file=sys.stderr)
    if fault := fault or _fault(archive, target):
        raise RuntimeError(f"could not download {archive.url} ({fault}). Run again, or get {archive.name} by "
                           f"other means and put it into {root.resolve()}.")


def _fault(archive: Archive, path: Path) -> str | None:
    """How the file differs from the official archive, or None if it does not."""
    size = path.stat().st_size
    if size > archive.size:
        return f"has more than the {archive.size} bytes expected"
    if size < archive.size:
        return f"ends after {size} of {archive.size} bytes"
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != archive.md5:
        return f"has the MD5 checksum {digest.hexdigest()}, expected {archive.md5}"
    return None


def unpack(archive: Archive, packed: Path, target: Path) -> None:
    """Unpack those files of the archive that are read here, and no others, into the folder `target`."""
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
    """A stream that fails beyond UNPACKED_LIMIT, for tarfile, which would read headers of any size."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.tell = stream, stream.tell

    def read(self, size: int) -> bytes:
        _check_unpacked(self.tell() + size)
        return self.stream.read(size)

    def seek(self, position: int) -> int:
        _check_unpacked(position)
        return self.stream.seek(position)
