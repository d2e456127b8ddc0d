"""Damaged files by the thousand: `python -m support.mutations COUNT SEED KIND ...`, in tests/, reads so many
mutations of good files of each kind and prints how many were read and how many refused, as JSON. What is read
is what the good file holds or, where no checksum tells, something else of that kind; what is refused is so in
a line that names the file. Anything else ends this process.

A new kind of file is an entry in READERS.
"""
from __future__ import annotations

import codecs
import contextlib
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
from typing import Any, NamedTuple

import numpy
from PIL import Image
from test_cifar_files import ROWS, WRITERS, archive_of, images_of, member, packed, random_batch

import tinyres as tr
from tinyres.datasets.archive import unpack
from tinyres.datasets.cifar import _read_batch
from tinyres.datasets.decoding import MIN_AREA
from tinyres.datasets.image_folder import FolderSplit
from tinyres.datasets.picture_files import files_by_list
from tinyres.pretrained import save_network
from tinyres.training import draw_curves, load_checkpoint, read_metrics, save_checkpoint
from tinyres.training.curves import draw_identity

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
import run_cifar  # noqa: E402

SECONDS = 5  # of processor time that a file may take
MEGABYTES = 400  # that a file may take besides what the process has
# What only code that a file brought along would do; Python reports these to an audit hook.
FORBIDDEN = {"os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "subprocess.Popen", "exec",
             "pickle.find_class", "socket.connect", "os.link", "os.symlink", "ctypes.dlopen"}


class Reader(NamedTuple):
    """A kind of file. read: reads a file of this kind, and raises AssertionError if what it read is wrong.
    originals: good contents to mutate, each with what makes a file of it: so that damage reaches what lies
    behind checksums and compression. sealed: whether a file as it is has a checksum, so that what is read is
    the same as before the damage. name: of the file."""

    read: Callable[[Path], Any]
    originals: list[tuple[bytes, Callable[[bytes], bytes]]]
    sealed: bool = False
    name: str = "file"


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


def saved(network: tr.nn.Module, optimizer: tr.optim.Optimizer,
          names: list[str], export: bool = False) -> list[tuple[bytes, Callable[[bytes], bytes]]]:
    """A checkpoint as it is, or its weights alone, and some of its members."""
    config = {"dataset": "shapes", "blocks": 1, "widths": [4, 8], "plain": False, "lr": 0.1, "lr_drops": None}
    with tempfile.TemporaryDirectory() as work:
        path = Path(work, "c")
        save_checkpoint(path, network, optimizer, 7, config)
        if export:
            save_network(path, load_checkpoint(path))
        whole = path.read_bytes()
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

    return [(whole, as_it_is)] * 2 + [(members[name], with_other(name)) for name in names]


def bytes_of(network: tr.nn.Module) -> dict[str, bytes]:
    assert all(numpy.isfinite(tensor.data).all() for tensor in network.parameters())
    return {name: value.tobytes() for name, value in network.state_dict().items()}


def network_and_optimizer() -> tuple[tr.nn.Module, tr.optim.Optimizer]:
    network = tr.models.cifar_net(10, blocks=1, widths=(4, 8))
    return network, tr.optim.SGD(network.parameters(), 0.1)


def checkpoint() -> Reader:
    network, optimizer = network_and_optimizer()

    def read(path: Path) -> object:
        state = load_checkpoint(path)
        assert state.step >= 0 and isinstance(state.config, dict)
        network.load_state_dict(state.model)
        optimizer.load_state_dict(state.optimizer)
        return bytes_of(network), [value.tobytes() for value in state.optimizer.values()], state.step

    names = ["step.npy", "config.npy", "model/stem.weight.npy", "optimizer/velocity.0.npy"]
    return Reader(read, saved(network, optimizer, names), sealed=True)


def network() -> Reader:
    """Weights alone, which `tr.models.pretrained` reads."""
    names = ["config.npy", "model/stem.weight.npy", "model/projection.matrix.npy"]
    return Reader(lambda path: bytes_of(tr.models.pretrained(path)),
                  saved(*network_and_optimizer(), names, export=True), sealed=True)


def config() -> Reader:
    """The settings in a checkpoint, which are judged like options."""
    def read(path: Path) -> object:
        sys.argv = ["run_cifar.py", "--evaluate", str(path), "--backend", "numpy"]
        try:
            with contextlib.redirect_stderr(io.StringIO()) as errors:
                settings, _, state = run_cifar.read_settings()
        except SystemExit as error:
            assert error.code == 2, "nothing was wrong"
            raise ValueError(" ".join(errors.getvalue().split())) from error
        return bytes_of(run_cifar.build_network(settings, 10, state))

    return Reader(read, saved(*network_and_optimizer(), ["config.npy"])[2:])


def lines(*content: dict[str, object]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in content)


def metrics() -> Reader:
    def read(path: Path) -> None:
        found = read_metrics(path)
        draw_curves(path.with_name("curve.png"), {"": found})
        draw_identity(path.with_name("identity.png"), found)
        for drawn in "curve.png", "identity.png":
            path.with_name(drawn).unlink(missing_ok=True)

    line = {"step": 0, "test_loss": 2.25, "test_error": 0.9, "residual_ratios": [0.5, 0.25]}
    more = [{"step": step, "lr": 0.1, "train_loss": 2.0, "train_error": 0.75} for step in (10, 20)]
    return Reader(read, [(lines(line, *more, {**line, "step": 20}), as_it_is)], name="metrics.jsonl")


def results() -> Reader:
    from tinyres.experiments.sweep import read_results
    line = {"kind": "residual", "blocks": 1, "lr": 0.05, "seed": 0, "widths": [4, 8], "epochs": 1,
            "convolutions": 5, "steps": 9, "train_error": 0.5, "held_out_error": 0.5, "test_error": 0.75,
            "residual_ratios": [0.5, 0.25]}
    return Reader(read_results, [(lines(line, {**line, "seed": 1}), as_it_is)], name="results.jsonl")


def labels() -> Reader:
    names = [f"{i}.jpg" for i in range(20)]

    def read(path: Path) -> None:
        for name in names:
            path.with_name(name).touch()
        try:
            found, numbers = files_by_list(path.parent, ["cat", "dog"])
        finally:
            for name in names:
                path.with_name(name).unlink()
        assert found == sorted(names) and set(numbers) <= {0, 1}

    text = "".join(f"{name} {'dog' if i % 3 else 'cat'}\n" for i, name in enumerate(names))
    return Reader(read, [(text.encode(encoding), as_it_is) for encoding in ("utf-8", "utf-16")],
                  name="labels.txt")


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
            assert set(split.broken) == {path.name} and path.name in str(error), repr(error)
            raise ValueError(f"{path}: {error}") from error
        assert images.shape == (1, 224, 224, 3) and numpy.isfinite(images).all()

    return Reader(read, originals)


READERS = {"batch": cifar_batch, "archive": cifar_archive, "checkpoint": checkpoint, "network": network,
           "config": config, "metrics": metrics, "results": results, "labels": labels, "picture": picture}


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

    for lazy in ("raw_unicode_escape", "unicode_escape", *(f"utf-{bits}{end}" for bits in (16, 32)
                 for end in ("", "-le", "-be"))):  # pickles and JSON name them; loading a module is an exec
        codecs.lookup(lazy)
    sys.addaudithook(hook)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEGABYTES * 2**20,) * 2)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, wherever it is


def main(count: int, seed: int, kinds: list[str]) -> None:
    readers = {kind: READERS[kind]() for kind in kinds}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work).resolve() / "data"
        folder.mkdir()
        held = {}
        for kind, reader in readers.items():
            path = folder / reader.name
            for content, wrap in reversed(reader.originals):
                path.write_bytes(wrap(content))
                held[kind] = reader.read(path)
            path.unlink()
        watch(folder)
        outcomes = {kind: mutations(kind, reader, folder, held[kind], count, seed)
                    for kind, reader in readers.items()}
        assert os.listdir(work) == ["data"] and not os.listdir(folder)
    print(json.dumps(outcomes))


def mutations(kind: str, reader: Reader, folder: Path, held: object, count: int, seed: int) -> dict[str, int]:
    """How many mutations were read and refused. held: what is read from the original as it is."""
    outcomes, path = {"read": 0, "refused": 0}, folder / reader.name
    for i in range(count):
        rng = random.Random(f"{kind} {seed} {i}")
        content, wrap = rng.choice(reader.originals)
        path.write_bytes(wrap(mutate(content, rng)))
        print(f"{kind}, mutation {i}", file=sys.stderr, flush=True)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            found = reader.read(path)
            outcomes["read"] += 1
            assert not (reader.sealed and wrap is as_it_is) or found == held, "what it read is something else"
        except (ValueError, RuntimeError, OSError) as error:
            assert str(path) in str(error) and "\n" not in str(error), repr(error)
            outcomes["refused"] += 1
        signal.setitimer(signal.ITIMER_PROF, 0)
        assert os.listdir(folder) == [reader.name]
    path.unlink()
    return outcomes


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] or [*READERS])
