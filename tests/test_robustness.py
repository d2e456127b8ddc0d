"""What happens to runs: they are killed, started twice, and run out of disk. What comes from elsewhere is in
test_hostile_files.py."""
from __future__ import annotations

import ctypes
import dataclasses
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.harness import ROOT, finish, kill_at_random, outcome, start

from tinyres import models, optim, plot
from tinyres.cli.options import Parser, option
from tinyres.datasets import cifar10, image_folder, read_square, save_as_folder, shapes
from tinyres.support.files import write_atomically
from tinyres.training import Run, load_checkpoint, read_metrics, train
from tinyres.training.folder_lock import FolderLock
from tinyres.training.pictures import draw_all
from tinyres.training.progress import say

STEPS = 40


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in one piece."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(start(out, STEPS))
    return out


def test_a_run_killed_at_random_ends_with_the_bytes_of_an_undisturbed_one(undisturbed, tmp_path):
    assert kill_at_random(tmp_path / "killed", STEPS, kills=3, longest=0.4) == 3
    assert outcome(tmp_path / "killed") == outcome(undisturbed)


@pytest.mark.parametrize("die_at", [2, 5])  # the first metrics.jsonl, the second checkpoint
def test_a_run_killed_while_it_writes_leaves_the_old_file_and_no_litter(undisturbed, tmp_path, die_at):
    process = start(tmp_path, STEPS, die_at)
    process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    finish(start(tmp_path, STEPS))
    assert outcome(tmp_path) == outcome(undisturbed)
    assert sorted(os.listdir(tmp_path)) == sorted(os.listdir(undisturbed))


def test_the_same_seed_gives_the_same_bytes_in_another_process_with_other_threads(undisturbed, tmp_path):
    finish(start(tmp_path, STEPS, OPENBLAS_NUM_THREADS="3", PYTHONHASHSEED="1"))
    assert outcome(tmp_path) == outcome(undisturbed)


def test_a_second_run_in_a_folder_is_refused_while_the_first_lives(tmp_path):
    first = start(tmp_path, 100_000)
    try:
        while not (tmp_path / "checkpoint.npz").exists():
            assert first.stdout.readline(), first.communicate()
        second = start(tmp_path, 1_000)
        _, errors = second.communicate(timeout=600)
        assert second.returncode != 0 and f"another run is writing to {tmp_path}" in errors
    finally:
        first.kill()
        first.communicate()
    steps = outcome(tmp_path)[1][-1]["step"] + 4
    assert f"step {steps}/{steps}" in finish(start(tmp_path, steps))


def run_quietly(*command: object) -> bool:
    return subprocess.run(list(map(str, command)), capture_output=True).returncode == 0


def own_mounts() -> bool:
    """Whether what this process mounts from now on ends with it, however it ends, and nobody else sees it."""
    return (sys.platform == "linux" and ctypes.CDLL(None).unshare(0x20000) == 0  # CLONE_NEWNS
            and run_quietly("mount", "--make-rprivate", "/"))


def mount(*arguments: object) -> bool:
    return run_quietly("mount", "-t", "tmpfs", "-o", *arguments)


def test_a_run_on_a_full_disk_ends_with_a_whole_checkpoint_and_can_be_resumed(undisturbed, tmp_path):
    checkpoint, out = (undisturbed / "checkpoint.npz").stat().st_size, tmp_path / "disk"
    out.mkdir()
    size = 2 * checkpoint // 4096 * 4096  # room for one checkpoint, but not for the next one beside it
    if not own_mounts() or not mount(f"size={size}", "tmpfs", out):
        pytest.skip("needs Linux and the right to mount a small disk")
    try:
        process = start(out, STEPS)
        _, errors = process.communicate(timeout=600)
        assert process.returncode != 0 and "No space left" in errors
        assert f"could not write {out}/checkpoint.npz" in errors and "Training goes on" in errors
        assert 0 < load_checkpoint(out / "checkpoint.npz").step < STEPS and not list(out.glob(".*.tmp"))
        assert mount("remount,size=10m", "tmpfs", out)
        finish(start(out, STEPS))
        assert outcome(out) == outcome(undisturbed)
    finally:
        subprocess.run(["umount", "-l", str(out)], check=True)


def test_a_lock_is_given_back_and_removes_only_what_it_should(tmp_path):
    for name in (".curve.png.abc.tmp", ".other.abc.tmp", "curve.png"):
        (tmp_path / name).touch()
    for _ in range(2):
        lock = FolderLock(tmp_path, ["curve.png"])
        write_atomically(tmp_path / "curve.png", lambda file: file.write(b"x"))
        lock.close()
    assert sorted(os.listdir(tmp_path)) == [".lock", ".other.abc.tmp", "curve.png"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork processes")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_may_lock_what_its_parent_has_given_back(tmp_path):
    lock, (given_back, give_back) = FolderLock(tmp_path, []), os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.read(given_back, 1)
            FolderLock(tmp_path, [])
            os._exit(0)
        finally:
            os._exit(1)
    lock.close()
    os.write(give_back, b"x")
    assert os.waitpid(child, 0)[1] == 0
    os.close(given_back), os.close(give_back)


# what the file systems of others do


def test_a_file_is_closed_before_it_gets_its_name(tmp_path, monkeypatch):
    """On Windows an open file can be neither renamed nor deleted."""
    opened, open_descriptor, rename, unlink = [], os.fdopen, os.replace, os.unlink

    def kept(*arguments, **named):
        opened.append(open_descriptor(*arguments, **named))
        return opened[-1]

    def only_closed(function):
        def check(*arguments):
            assert opened and all(file.closed for file in opened), "the file is still open"
            function(*arguments)
        return check

    monkeypatch.setattr(os, "fdopen", kept)
    monkeypatch.setattr(os, "replace", only_closed(rename))
    monkeypatch.setattr(os, "unlink", only_closed(unlink))
    write_atomically(tmp_path / "a", lambda file: file.write(b"new"))
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "a", lambda file: 1 / 0)
    assert (tmp_path / "a").read_bytes() == b"new" and os.listdir(tmp_path) == ["a"]


def test_a_file_system_without_permissions_takes_files_all_the_same(tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refuse)
    write_atomically(tmp_path / "a", lambda file: file.write(b"new"))
    save_as_folder(shapes(10, 10, size=8), tmp_path / "pictures")
    assert (tmp_path / "a").read_bytes() == b"new" and len(list(tmp_path.rglob("*.JPEG"))) == 20


def test_a_home_folder_is_meant_by_a_tilde(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir(), (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in "HOME", "USERPROFILE":
        monkeypatch.setenv(name, str(tmp_path / "home"))
    data = shapes(10, 10, size=8)
    save_as_folder(data, "~/pictures")
    assert len(image_folder("~/pictures").train.names) == 10
    picture = next((tmp_path / "home" / "pictures" / "train" / "heart").iterdir()).name
    assert read_square(f"~/pictures/train/heart/{picture}", 8).shape == (8, 8, 3)
    plot.save("~/line.png", plot.Panel([plot.Line([0, 1], [0, 1])]))
    plot.Drawing(8, 8).save("~/drawing.png")
    network = models.cifar_net(10, 1, (4,))
    optimizer = optim.SGD(network.parameters(), 0.1)
    train(network, optimizer, lambda step: 0.1, data, Run("~/run", {}), steps=1, batch_size=4)
    assert load_checkpoint("~/run/checkpoint.npz").step == 1
    assert read_metrics("~/run/metrics.jsonl")[-1]["step"] == 1
    assert [file.name for file in draw_all("~/drawn", network, data.test, data.classes)][0] == "kernels.png"
    with pytest.raises(RuntimeError, match="Delete it"):  # the archive is found, and not official
        (tmp_path / "home" / "cifar-10-python.tar.gz").write_bytes(b"nothing")
        cifar10("~")
    Folders = dataclasses.make_dataclass("Folders", [("out", Path, option(None, "", Path)),
                                                     ("files", Path, option(None, "", Path, nargs="+"))])
    options = Parser("", Folders).typed(["--out=~/out", "--files", "~/a", "b"])
    assert options == {"out": tmp_path / "home" / "out", "files": (tmp_path / "home" / "a", Path("b"))}
    assert not list((tmp_path / "here").iterdir())


# Output


CHINESE = "\u4e2d"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437", "utf-8"])
def test_output_that_the_terminal_cannot_encode_does_not_end_a_run(tmp_path, encoding):
    program = """
import sys
from tinyres.cli.errors import run_script
from tinyres.distributed.forked import forked
def main():
    for stream in sys.stdout, sys.stderr:
        print("B\\xe4r \\u4e2d \\udcff", file=stream)
    with forked(2) as group:  # the others print to nowhere
        print("\\u4e2d \\udcff")
        group.all_reduce_sum(1.0)
    raise ValueError("no \\u4e2d")
run_script(main)
"""
    (tmp_path / "run.py").write_text(program)
    done = subprocess.run([sys.executable, str(tmp_path / "run.py")], capture_output=True, timeout=120,
                          env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT),
                               "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    printed, errors = (text.decode(encoding) for text in (done.stdout, done.stderr))
    assert "Traceback" not in errors and errors.splitlines()[-1].startswith("run.py: no ")
    expected = f"Bär {CHINESE} \\udcff\n{CHINESE} \\udcff\n"
    for character in "ä", CHINESE:
        try:
            character.encode(encoding)
        except UnicodeEncodeError:
            expected = expected.replace(character, ascii(character)[1:-1])
    assert printed == expected


def test_messages_during_training_are_not_lost_either(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    say(f"could not write {CHINESE}")
    assert stream.buffer.getvalue() == b"could not write \\u4e2d\n"
