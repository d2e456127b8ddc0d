"""What happens to runs: they are killed, started twice, and run out of disk. What comes from elsewhere is in
test_hostile_files.py."""
from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness import finish, kill_at_random, outcome, start

from tinyres.files import locked, write_atomically

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


@pytest.mark.parametrize("die_at", [2, 6])
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
    while not (tmp_path / "checkpoint.npz").exists():
        assert first.stdout.readline(), first.communicate()
    second = start(tmp_path, 100_000)
    _, errors = second.communicate(timeout=600)
    assert second.returncode != 0 and f"another run is writing to {tmp_path}" in errors
    first.kill()
    first.communicate()
    steps = outcome(tmp_path)[1][-1]["step"] + 4
    assert f"step {steps}/{steps}" in finish(start(tmp_path, steps))


def test_a_lock_is_given_back_and_removes_only_what_it_should(tmp_path):
    for name in (".curve.png.abc.tmp", ".other.abc.tmp", "curve.png"):
        (tmp_path / name).touch()
    for _ in range(2):
        with locked(tmp_path, ["curve.png"]):
            write_atomically(tmp_path / "curve.png", lambda file: file.write(b"x"))
    assert sorted(os.listdir(tmp_path)) == [".lock", ".other.abc.tmp", "curve.png"]
