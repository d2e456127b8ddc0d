"""Checkpoints made to do harm, and files damaged at random. CIFAR's own are in test_cifar_files.py."""
from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

import tinyres as tr
from tinyres.support.saved_weights import build
from tinyres.training import load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
CONFIG = {"dataset": "shapes", "blocks": 1, "widths": [4, 8], "lr": 0.05}


@pytest.mark.parametrize("kind", ["batch", "archive", "checkpoint", "picture"])
def test_mutations_of_a_file_are_read_or_refused(kind):
    """One process for all of them: no code runs, none takes 5 s or 400 MB, none ends without a message."""
    pytest.importorskip("resource", reason="needs Unix")
    command = [sys.executable, "-m", "support.mutations", kind, "100", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT / "tests")
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout)
    assert sum(outcomes.values()) == 100 and min(outcomes.values()) >= 10, outcomes


def network() -> tuple[tr.models.ResidualNetwork, tr.optim.SGD]:
    net = tr.models.cifar_net(10, blocks=1, widths=(4, 8), seed=0)
    return net, tr.optim.SGD(net.parameters(), 0.05)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint.npz"
    save_checkpoint(path, *network(), 3, CONFIG)
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {info.filename: file.read(info) for info in file.infolist()}


def write(path: Path, content: dict[str, bytes], compression_of_stem: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, member in content.items():
            file.writestr(name, member, compression_of_stem if name == STEM else zipfile.ZIP_STORED)


def npy(array: object) -> bytes:
    buffer = io.BytesIO()
    numpy.save(buffer, numpy.asarray(array), allow_pickle=True)
    return buffer.getvalue()


def header(description: str, content: bytes = bytes(400)) -> bytes:
    """A .npy file whose header says anything."""
    text = description.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


class Call:
    def __init__(self, *command: object) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return self.command[0], self.command[1:]


STEM = "model/stem.weight.npy"
FLOATS = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"
HOSTILE = {
    "objects": {STEM: npy(numpy.array([Call(os.system, "touch marker")], object))},
    "a pickle": {STEM: pickle.dumps(Call(os.system, "touch marker"))},
    "eval": {STEM: npy(numpy.array([Call(eval, "open('marker', 'w')")], object))},
    "a terabyte": {STEM: header(FLOATS % "(549755813888,)")},
    "overflow": {STEM: header(FLOATS % "(4294967296, 4294967296, 4294967296)")},
    "a negative size": {STEM: header(FLOATS % "(-1,)")},
    "two negative sizes": {STEM: header(FLOATS % "(-10, -10)")},
    "records": {STEM: npy(numpy.zeros(3, "f4,f4"))},
    "integers": {STEM: npy(numpy.zeros((3, 3, 3, 4), int))},
    "complex": {STEM: npy(numpy.zeros((3, 3, 3, 4), "complex64"))},
    "strings": {STEM: npy(numpy.full((3, 3, 3, 4), "1.0"))},
    "long doubles": {STEM: npy(numpy.zeros((3, 3, 3, 4), "longdouble"))},
    "not finite": {STEM: npy(numpy.full((3, 3, 3, 4), numpy.nan, "f4"))},
    "deep header": {STEM: header("(" * 50 + ")" * 50)},
    "code as header": {STEM: header("__import__('os').system('touch marker')")},
    "another part": {"data/x.npy": npy(numpy.zeros(3, "f4"))},
    "a name outside": {"../../escaped.npy": npy(numpy.zeros(3, "f4"))},
    "a step of many": {"step.npy": npy([1, 2])},
    "a negative step": {"step.npy": npy(-1)},
    "a step of text": {"step.npy": npy("3")},
    "config of numbers": {"config.npy": npy("[1, 2]")},
    "deep config": {"config.npy": npy("[" * 100_000)},
    "config of bytes": {"config.npy": npy(b"\xff")},
}


def assert_refused(path: Path) -> None:
    """With one line that names the file, and no more memory than twice its size (or a megabyte)."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="is not a whole checkpoint of tinyres") as caught:
            load_checkpoint(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert peak < 2**20 + 2 * path.stat().st_size
    assert not Path("marker").exists()


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_checkpoint_is_refused(whole, tmp_path, monkeypatch, changes):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "c.npz", {**members(whole), **changes})
    assert_refused(tmp_path / "c.npz")


def test_bombs_are_refused_before_they_are_unpacked(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, path = members(whole), tmp_path / "c.npz"
    zeros = npy(numpy.zeros(10**7, "f4"))
    write(path, {**content, STEM: zeros}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**6
    assert_refused(path)
    # BZIP2 gives out whole blocks, whatever a member says that it holds.
    write(path, {**content, STEM: zeros}, zipfile.ZIP_BZIP2)
    size = len(zeros).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (100).to_bytes(4, "little")))
    assert_refused(path)
    # A member whose entries say more than it is, and a hundred members in one place.
    write(path, content)
    size = len(content[STEM]).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (2**31 - 1).to_bytes(4, "little")))
    assert_refused(path)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(STEM, npy(numpy.zeros(10**4, "f4")))
        for i in range(100):
            copy = zipfile.ZipInfo(f"model/{i}.npy")
            first = file.infolist()[0]
            for name in ("header_offset", "CRC", "compress_size", "file_size"):
                setattr(copy, name, getattr(first, name))
            file.filelist.append(copy)
        file._didModify = True
    path.write_bytes(buffer.getvalue())
    assert_refused(path)
    with open(path, "wb") as file:
        file.truncate(2**36)  # 64 GiB that take no room on the disk
    with pytest.raises(ValueError, match="more than 4294967296 bytes"):
        load_checkpoint(path)


def test_a_name_twice_and_what_is_no_file_are_refused(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.npz"
    write(path, members(whole))
    with zipfile.ZipFile(path, "a") as file, pytest.warns(UserWarning, match="Duplicate name"):
        file.writestr(STEM, members(whole)[STEM])
    assert_refused(path)
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)  # or who opens the pipe would wait for one
    for other, message in (tmp_path / "pipe", "is not a file"), (tmp_path, "is a folder"):
        with pytest.raises(ValueError, match=message):
            load_checkpoint(other)
    os.close(writer)


def config_of(**changes: object) -> dict[str, bytes]:
    return {"config.npy": npy(json.dumps({**CONFIG, **changes}))}


REFUSED_SETTINGS: dict[str, tuple[dict[str, bytes], str]] = {
    "text for a number": (config_of(blocks="x"), "argument --blocks"),
    "a fraction": (config_of(blocks=1.5), "argument --blocks"),
    "no list": (config_of(widths=5), "the weights in"),
    "a list of lists": (config_of(widths=[[4], [8]]), "argument --widths"),
    "another data set": (config_of(dataset="/etc/passwd"), "argument --dataset"),
    "truth for a number": (config_of(lr=True), "argument --lr"),
    "not finite": (config_of(lr=float("inf")), "argument --lr"),
    "another option": (config_of(out="/tmp/elsewhere"), "hold 'out'"),
    "help": (config_of(help=True), "hold 'help'"),
    "an option in a value": (config_of(dataset="--demo"), "argument --dataset"),
    "a network for all memory": (config_of(blocks=2**31 - 1, widths=[10**9]), "the weights in"),
    "wide blocks that are not there": (config_of(widths=[4, 10**6]), "the weights in"),
    "other names": ({"model/more.npy": npy(numpy.zeros(3, "f4"))}, "the weights in"),
    "another shape": ({STEM: npy(numpy.zeros((3, 3, 3, 5), "f4"))}, "'stem.weight' is float32 of shape"),
}


@pytest.mark.parametrize("changes, message", REFUSED_SETTINGS.values(), ids=REFUSED_SETTINGS.keys())
def test_saved_settings_are_judged_like_options(whole, tmp_path, monkeypatch, capsys, changes, message):
    monkeypatch.syspath_prepend(ROOT)
    import run_cifar
    monkeypatch.setitem(run_cifar.DATASETS, "shapes", lambda root: tr.datasets.shapes(20, 10))
    write(tmp_path / "checkpoint.npz", {**members(whole), **changes})
    for arguments in ["--evaluate", str(tmp_path / "checkpoint.npz")], ["--resume", "--out", str(tmp_path)]:
        monkeypatch.setattr(sys, "argv", ["run_cifar.py", *arguments])
        with pytest.raises((SystemExit, ValueError)) as caught:
            run_cifar.main()
        assert message in capsys.readouterr().err + str(caught.value)


@pytest.mark.parametrize("settings", [
    dict(blocks=2**31 - 1, widths=[10**9]), dict(blocks=2**31 - 1, widths=[1]),
    dict(blocks=1, widths=[30_000]), dict(blocks=100, widths=[400])])
def test_no_giant_network_is_made_for_a_checkpoint(whole, tmp_path, settings):
    """Not even if it holds an array with so many rows: half a gigabyte is too much."""
    write(tmp_path / "c.npz", {**members(whole), "model/a.npy": npy(numpy.zeros((30_000, 1), "f4")),
                               **config_of(**settings, plain=False)})
    checkpoint = load_checkpoint(tmp_path / "c.npz")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="the weights in the checkpoint are not those of the network"):
            tr.models.pretrained(tmp_path / "c.npz")
        with pytest.raises(ValueError, match="the network is much larger"):
            build(lambda seed: tr.models.cifar_net(10, **settings, seed=seed), 0, checkpoint.model)
        assert tracemalloc.get_traced_memory()[1] < 500e6
    finally:
        tracemalloc.stop()


def test_the_limit_ends_when_the_network_is_made():
    """A layer that adds noise may keep the generator, whose numbers are those of any other of this seed."""
    kept = []
    build(lambda rng: kept.append(rng) or tr.nn.Linear(2, 3, rng=rng), 5,
          tr.nn.Linear(2, 3).state_dict())
    other = numpy.random.default_rng(5)
    other.standard_normal(6, dtype="f")
    for _ in range(1100):
        assert kept[0].standard_normal((10, 10)).tolist() == other.standard_normal((10, 10)).tolist()
    assert kept[0].spawn(1)[0].random() == other.spawn(1)[0].random()


@pytest.mark.parametrize("spoil", [lambda content: content[:len(content) // 2], lambda content: b"",
                                   lambda content: content.replace(b"NUMPY", b"NUMPX")])
def test_the_command_line_prints_one_line(whole, tmp_path, spoil: Callable[[bytes], bytes]):
    (tmp_path / "checkpoint.npz").write_bytes(spoil(whole.read_bytes()))
    command = [sys.executable, str(ROOT / "run_cifar.py"), "--evaluate", str(tmp_path / "checkpoint.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("usage:", " "))]
    assert done.returncode == 2 and len(lines) == 1 and "is not a whole checkpoint" in lines[0], done.stderr
