"""Official archives: downloaded, checked and unpacked, so that a folder in its place is always complete."""
from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from ..support.files import user_path

TIMEOUT = 30.0  # seconds without a byte after which a download counts as stalled
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


def fetch(archive: Archive, root: Path) -> Path:
    """The folder with the archive's files under root; if absent, it is first downloaded and unpacked.

    Raises RuntimeError, saying what the user can do, if the archive cannot be fetched or is not the official
    one.
    """
    root = user_path(root)
    folder = root / archive.folder
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    # All work is done in a new folder with a unique name, so that an interrupted run leaves nothing that
    # looks complete, and two runs at once do not collide.
    with tempfile.TemporaryDirectory(prefix=f".{archive.folder}-", dir=root) as work:
        packed = root / archive.name
        if not packed.is_file():
            packed = Path(work, archive.name)
            _download(archive, packed, root)
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


def _download(archive: Archive, target: Path, root: Path) -> None:
    """Download the archive to `target`. Raises RuntimeError, saying what the user can do, if that fails."""
    request = urllib.request.Request(archive.url, headers={"User-Agent": "tinyres"})
    terminal = sys.stderr.isatty()
    fault = None
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response, open(target, "wb") as file:
            received = shown = 0
            while received <= archive.size and (chunk := response.read(2**16)):
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
    md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return None if md5 == archive.md5 else f"has the MD5 checksum {md5}, expected {archive.md5}"


def unpack(archive: Archive, packed: Path, target: Path) -> None:
    """Write those files of the archive that are read here, and no others, into their folder in `target`.

    Whatever else the archive holds, nothing is written to a place or as a link that it names.
    """
    missing = {f"{archive.folder}/{name}" for name in archive.files}
    try:
        with gzip.open(packed) as stream:
            content = stream.read(UNPACKED_LIMIT + 1)
        if len(content) > UNPACKED_LIMIT:
            raise RuntimeError(f"it unpacks to more than {UNPACKED_LIMIT} bytes")
        (target / archive.folder).mkdir()
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                if member.name in missing:
                    regular = member.isreg() and not member.issparse()
                    file = tar.extractfile(member) if regular else None
                    if file is None:
                        raise RuntimeError(f"{member.name} is not a regular file")
                    (target / member.name).write_bytes(file.read())
                    missing.remove(member.name)
        if missing:
            raise RuntimeError(f"it lacks {', '.join(sorted(missing))}")
    except (RuntimeError, tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise RuntimeError(f"could not unpack {packed}: {error}. "
                           f"The official archive is at {archive.url}.") from error
