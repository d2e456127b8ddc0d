"""What happens to runs: they are killed, started twice, and run out of disk. What comes from elsewhere is in
test_hostile_files.py."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.harness import finish, kill_at_random, outcome, start

from tinyres.support.files import locked, write_atomically
from tinyres.training import load_checkpoint

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


def mount(*arguments: object) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", *map(str, arguments)]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_a_run_on_a_full_disk_ends_with_a_whole_checkpoint_and_can_be_resumed(undisturbed, tmp_path):
    checkpoint, out = (undisturbed / "checkpoint.npz").stat().st_size, tmp_path / "disk"
    out.mkdir()
    size = 2 * checkpoint // 4096 * 4096  # room for one checkpoint, but not for the next one beside it
    if sys.platform != "linux" or not mount(f"size={size}", "tmpfs", out):
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
        with locked(tmp_path, ["curve.png"]):
            write_atomically(tmp_path / "curve.png", lambda file: file.write(b"x"))
    assert sorted(os.listdir(tmp_path)) == [".lock", ".other.abc.tmp", "curve.png"]
