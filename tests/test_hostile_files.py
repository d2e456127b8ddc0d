"""Files made to do harm, and files damaged at random. More of CIFAR's are in test_cifar_files.py."""
from __future__ import annotations

import contextlib
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
from typing import Any

import numpy
import pytest

import tinyres as tr
from tinyres.support.saved_weights import build
from tinyres.training import load_checkpoint, save_checkpoint

ROOT = Path(__file__).resolve().parent.parent
CONFIG = {"dataset": "shapes", "blocks": 1, "widths": [4, 8], "lr": 0.05}


def in_its_own_process(module: str, *arguments: object) -> dict[str, Any]:
    """What a module of support/, which limits its own time and memory, prints as JSON."""
    if sys.platform != "linux":
        pytest.skip("needs Linux, whose /proc says how much memory a process has")
    command = [sys.executable, "-W", "ignore", "-m", f"support.{module}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT / "tests")
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_mutations_of_every_kind_of_file_are_read_or_refused():
    """No code runs, none takes 5 s or 400 MB, none ends without a message that names it."""
    kinds = ["batch", "archive", "checkpoint", "network", "config", "metrics", "results", "labels", "picture"]
    for kind, outcomes in in_its_own_process("mutations", 30, 0, *kinds).items():
        assert sum(outcomes.values()) == 30 and min(outcomes.values()) >= 1, (kind, outcomes)


PICKLE = "is not as the official archive has it: UnpicklingError: it "
SAID = {  # what is said of the files in support/hostile.py
    "a tuple 150,000 deep as a key": PICKLE + "has longer or deeper tuples",
    "a list 70,000 deep": PICKLE + "has a list of something else",
    "a dictionary 40,000 deep": PICKLE + "has a dictionary in something else",
    "hashes of a web": PICKLE + "has an instruction POP",
    "hashes of a web on the stack": PICKLE + "has longer or deeper tuples",
    "a text encoded 800 times": PICKLE + "encodes more text than it holds",
    "a long tuple in many": PICKLE + "has longer or deeper tuples",
    "a long key many times": PICKLE + "has a key that is not a short string",
    "a label of 40,000 bits": PICKLE + "has an instruction LONG4",
    "a label of 100 bits": PICKLE + "holds an integer of 101 bits",
    "300,000 members": "the names in it take 15300000 bytes, more than 1048576",
    "a wide network": "436 numbers in 4 arrays, and the network is much larger",
    "a list of labels that is a pipe": "is no regular file",
    "a list of labels that is no text": "is not a list of names and classes: 'utf-16-le' codec can't decode",
    "a picture that is a pipe": "it is not a regular file",
    "a picture in PostScript": "cannot be read as a picture: give a JPEG or PNG file (Unidentified",
    "177 million pixels": "13300 x 13300 pixels are more than are decoded, 64,000,000",
}
READ = {"data in PostScript": "(0, 224, 224, 3)", "data of 49 million pixels each": "(2, 224, 224, 3)"}
NO_MEMORY = ["data and too little memory for a PNG", "a picture and too little memory for it",
             "data and too little memory for a JPEG"]


def test_files_that_ask_for_all_time_and_memory_get_neither(tmp_path):
    said = in_its_own_process("hostile", tmp_path)
    assert said.keys() == {*SAID, *READ, *NO_MEMORY}
    for name, (kind, message, path) in said.items():
        if name in NO_MEMORY:  # which is not the file's fault
            assert (kind, message[:8]) == ("MemoryError", "decoding") and path in message, (name, message)
        elif name in READ:
            assert (kind, message) == ("read", READ[name]), name
        else:
            assert kind == "ValueError" and path in message and SAID[name] in message, (name, kind, message)


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
    "header too deep for Python": {STEM: header("lambda:" * 1200)},
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
    "a list of lists": (config_of(widths=[[4], [8]]), "hold widths [[4], [8]], expected a list of numbers"),
    "another data set": (config_of(dataset="/etc/passwd"), "argument --dataset"),
    "truth for a number": (config_of(lr=True), "argument --lr"),
    "not finite": (config_of(lr=float("inf")), "argument --lr"),
    "another option": (config_of(out="/tmp/elsewhere"), "hold 'out'"),
    "help": (config_of(help=True), "hold 'help'"),
    "help in a list": (config_of(widths=["8", "--help"]), "hold widths ['8', '--help'], expected a list of"),
    "help for rates": (config_of(lr_drops=["--help"]), "hold lr_drops ['--help'], expected a list of num"),
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
        said = capsys.readouterr().err + str(caught.value)
        assert message in said and str(tmp_path / "checkpoint.npz") in said
        assert isinstance(caught.value, ValueError) or caught.value.code == 2


def test_a_state_of_the_optimizer_that_does_not_fit_names_its_file(whole, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    import run_cifar
    monkeypatch.setitem(run_cifar.DATASETS, "shapes", lambda root: tr.datasets.shapes(20, 10))
    write(tmp_path / "checkpoint.npz", {**members(whole),
                                        "optimizer/velocity.0.npy": npy(numpy.zeros(3, "f4"))})
    monkeypatch.setattr(sys, "argv", ["run_cifar.py", "--resume", "--out", str(tmp_path), "--steps", "9"])
    with pytest.raises(ValueError, match="checkpoint.npz is of another optimizer .*'velocity.0' is float"):
        run_cifar.main()


def test_nothing_is_downloaded_to_where_a_checkpoint_says(whole, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    import run_cifar
    for folder in "elsewhere", "data":
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.npz"
    write(path, {**members(whole), **config_of(dataset="cifar10", data=str(tmp_path / "elsewhere"))})
    fetched = []
    monkeypatch.setitem(run_cifar.DATASETS, "cifar10", lambda root: fetched.append(root) or
                        tr.datasets.shapes(20, 10))
    for more in [], ["--data", "elsewhere"]:
        for start in ["--evaluate", str(path)], ["--resume", "--out", str(tmp_path), "--steps", "3"]:
            monkeypatch.setattr(sys, "argv", ["run_cifar.py", "--backend", "numpy", *start, *more])
            with contextlib.suppress(ValueError):  # there is nothing left to train
                run_cifar.main()
    (tmp_path / "elsewhere" / "cifar-10-batches-py").mkdir()
    monkeypatch.setattr(sys, "argv", ["run_cifar.py", "--backend", "numpy", "--evaluate", str(path)])
    run_cifar.main()
    assert fetched == [Path("data")] * 2 + [Path("elsewhere")] * 2 + [tmp_path / "elsewhere"]


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
