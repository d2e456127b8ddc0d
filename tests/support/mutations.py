"""Damaged files by the thousand: `python -m support.mutations KIND COUNT SEED`, in tests/, reads so many
mutations of good files and prints how many were read and how many refused, as JSON. Anything else ends this
process.

A new kind of file is an entry in READERS.
"""
from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import random
import resource
import signal
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy
from PIL import Image
from test_cifar_files import ROWS, WRITERS, archive_of, images_of, member, packed, random_batch

import tinyres as tr
from tinyres.datasets.archive import unpack
from tinyres.datasets.cifar import _read_batch
from tinyres.datasets.decoding import MIN_AREA
from tinyres.datasets.image_folder import FolderSplit
from tinyres.training import load_checkpoint, save_checkpoint

SECONDS = 5  # of processor time that a file may take
MEGABYTES = 400  # that a file may take besides what the process has
# What only code that a file brought along would do; Python reports these to an audit hook.
FORBIDDEN = {"os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "exec",
             "pickle.find_class", "socket.connect", "os.link", "os.symlink", "ctypes.dlopen"}


class Reader(NamedTuple):
    """A kind of file. read: reads a file of this kind, and raises AssertionError if what it read is wrong.
    originals: good contents to mutate, each with what makes a file of it: so that damage reaches what lies
    behind checksums and compression."""

    read: Callable[[Path], None]
    originals: list[tuple[bytes, Callable[[bytes], bytes]]]


def as_it_is(content: bytes) -> bytes:
    return content


def cifar_batch() -> Reader:
    batch = random_batch(ROWS)

    def read(path: Path) -> None:
        images, labels = _read_batch(path, "labels", ROWS, classes=10)
        assert images.shape == images_of(batch).shape and images.dtype == numpy.uint8
        assert labels.shape == (ROWS,) and 0 <= labels.min() <= labels.max() <= 9

    kinds = "Python 2", "protocol 2", "protocol 5"
    return Reader(read, [(WRITERS[kind](batch), as_it_is) for kind in kinds])


def cifar_archive() -> Reader:
    """What is behind the checksum, which no mutation would pass."""
    names = "train", "test", "meta"
    folder = archive_of(b"").folder
    whole = packed([member(folder, type=tarfile.DIRTYPE, mode=0o755),
                    *(member(f"{folder}/{name}", name.encode() * 50) for name in names)])

    def read(path: Path) -> None:
        with tempfile.TemporaryDirectory(dir=path.parent) as target:
            unpack(archive_of(path.read_bytes()), path, Path(target))
            assert sorted(p.name for p in Path(target, folder).iterdir()) == sorted(names)
            assert all(p.is_file() and not p.is_symlink() for p in Path(target, folder).iterdir())

    return Reader(read, [(whole, as_it_is), (gzip.decompress(whole), lambda tar: gzip.compress(tar, 1))])


def checkpoint() -> Reader:
    network = tr.models.cifar_net(2, blocks=1, widths=(4, 8))
    optimizer = tr.optim.SGD(network.parameters(), 0.1)
    with tempfile.TemporaryDirectory() as work:
        save_checkpoint(Path(work, "c"), network, optimizer, 7, {"lr": 0.1, "widths": [4, 8]})
        whole = Path(work, "c").read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}

    def with_other(name: str) -> Callable[[bytes], bytes]:
        def wrap(content: bytes) -> bytes:
            buffer = io.BytesIO()
            with zipfile.ZipFile(buffer, "w") as file:
                for other, its_content in members.items():
                    file.writestr(other, content if other == name else its_content)
            return buffer.getvalue()
        return wrap

    def read(path: Path) -> None:
        state = load_checkpoint(path)
        network.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
        assert all(numpy.isfinite(tensor.data).all() for tensor in network.parameters())
        assert state.step >= 0 and isinstance(state.config, dict)

    names = ["step.npy", "config.npy", "model/stem.weight.npy", "optimizer/velocity.0.npy"]
    return Reader(read, [(whole, as_it_is)] * 2 + [(members[name], with_other(name)) for name in names])


def picture() -> Reader:
    Image.init()  # loads every format now: loading one later is an exec
    pixels = Image.fromarray(tr.datasets.shapes(10, 10, size=224).train.images[0])
    originals = []
    for options in dict(format="JPEG"), dict(format="JPEG", progressive=True), dict(format="PNG"):
        pixels.save(buffer := io.BytesIO(), **options)
        originals.append((buffer.getvalue(), as_it_is))

    def read(path: Path) -> None:
        split = FolderSplit(path.parent, [path.name], [0], 1, MIN_AREA)
        try:
            images, _ = split.evaluation_batch(numpy.array([0]))
        except ValueError as error:  # no other picture could take its place
            assert split.broken == {path.name} and path.name in str(error), repr(error)
            raise ValueError(f"{path}: {error}") from error
        assert images.shape == (1, 224, 224, 3) and numpy.isfinite(images).all()

    return Reader(read, originals)


READERS = {"batch": cifar_batch, "archive": cifar_archive, "checkpoint": checkpoint, "picture": picture}


def mutate(content: bytes, rng: random.Random) -> bytes:
    """A copy with one to five changes, half of them near an end, where the structure of a file is."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        size = len(content)
        near = min(rng.randrange(300), size)
        at = rng.choice([rng.randrange(size + 1), near, size - near])
        length = rng.choice([1, 1, 2, 4, 8, 40])
        kind = rng.randrange(8)
        if kind == 0 and at < size:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at:at + length] = rng.randbytes(length)
        elif kind == 2:
            del content[at:at + length]
        elif kind == 3:
            content[at:at] = rng.randbytes(length)
        elif kind == 4:
            content[at:at + length] = bytes([rng.choice(b"\x00\xff\x7f9-(/.")]) * length
        elif kind == 5:
            start = rng.randrange(size + 1)
            content[at:at + length] = content[start:start + length]
        elif kind == 6:
            del content[at + rng.randrange(size + 1):]
        else:
            content[at:at] = content[at:at + rng.choice([length, 512, size])]
    return bytes(content)


def watch(folder: Path) -> None:
    """End this process as soon as anything is done that reading a file in the folder has no use for."""
    def hook(event: str, arguments: tuple[object, ...]) -> None:
        wrong = event in FORBIDDEN
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            wrong = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR)) and not path.startswith(f"{folder}/")
        if wrong:
            os.write(2, f"a file led to {event} {arguments!r:.300}\n".encode())
            os._exit(3)

    for lazy in "raw_unicode_escape", "unicode_escape":  # pickles name them; loading a module is an exec, too
        codecs.lookup(lazy)
    sys.addaudithook(hook)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEGABYTES * 2**20,) * 2)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, wherever it is


def main(kind: str, count: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work).resolve() / "data"
        folder.mkdir()
        path = folder / "file"
        reader = READERS[kind]()
        for content, wrap in reader.originals:
            path.write_bytes(wrap(content))
            reader.read(path)
        watch(folder)
        outcomes = {"read": 0, "refused": 0}
        for i in range(count):
            rng = random.Random(f"{kind} {seed} {i}")
            content, wrap = rng.choice(reader.originals)
            path.write_bytes(wrap(mutate(content, rng)))
            print(f"mutation {i}", file=sys.stderr, flush=True)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                reader.read(path)
                outcomes["read"] += 1
            except (ValueError, RuntimeError, OSError) as error:
                assert str(path) in str(error) and "\n" not in str(error), repr(error)
                outcomes["refused"] += 1
            signal.setitimer(signal.ITIMER_PROF, 0)
            assert sorted(os.listdir(work)) == ["data"] and os.listdir(folder) == ["file"]
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
