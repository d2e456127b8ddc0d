"""The stages of all that needs a GPU: marked done only if they ran, stopped in time, copied out."""
from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path

import pytest

import tinyres as tr

SCRIPT = Path(__file__).parent / "benchmarks" / "gpu_run.py"


@pytest.fixture
def gpu_run():
    spec = importlib.util.spec_from_file_location("gpu_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def args(tmp_path):
    return argparse.Namespace(out=tmp_path / "out", copy_to=tmp_path / "copy", precision="tf32", prepare=None,
                              steps=10_000, capture=True,
                              options="")


def test_a_stage_is_done_only_if_it_ran_to_its_end(gpu_run, args, monkeypatch):
    args.out.mkdir()
    codes = {"good": ["print('fine')"], "bad": ["raise SystemExit(3)", "print('never')"],
             "slow": ["print('begun'); import time; time.sleep(60)"]}
    monkeypatch.setattr(gpu_run, "STAGES", {name: lambda args, lines=lines: [gpu_run.python("-c", line)
                                                                            for line in lines]
                                            for name, lines in codes.items()})
    start = time.monotonic()
    statuses = {name: gpu_run.run_stage(name, args, time.monotonic() + 1) for name in codes}
    assert statuses == {"good": 0, "bad": 3, "slow": None} and time.monotonic() - start < 20
    assert gpu_run.run_stage("late", args, time.monotonic() - 1) is None
    assert [path.name for path in args.out.glob("*.done")] == ["good.done"]
    assert "never" not in (args.out / "bad.txt").read_text()
    (args.out / "run").mkdir()
    for name in "metrics.jsonl", "checkpoint.npz":
        (args.out / "run" / name).touch()
    gpu_run.copy_results(args.out, args.copy_to)
    copied = {str(path.relative_to(args.copy_to)) for path in args.copy_to.rglob("*") if path.is_file()}
    assert copied == {"good.done", "good.txt", "bad.txt", "slow.txt", "run/metrics.jsonl"}


def test_training_scales_the_schedule_and_goes_on_where_it_stopped(gpu_run, args):
    command = " ".join(gpu_run.train(args)[-1])
    assert "--steps 10000 --lr-drops 6000 10000" in command and "--resume" not in command
    args.options = "--schedule one-cycle --lr 0.1"
    command = " ".join(gpu_run.train(args)[-1])
    assert "--steps 10000 --schedule one-cycle --lr 0.1" in command and "--lr-drops" not in command
    folder = args.out / "cifar10-tf32"
    folder.mkdir(parents=True)
    (folder / "checkpoint.npz").touch()
    command = " ".join(gpu_run.train(args)[-1])
    assert "--resume" in command and "--steps" not in command


@pytest.mark.skipif(tr.backend.gpu_available(), reason="there is a GPU, so the preflight would pass")
def test_without_a_gpu_the_preflight_says_why_and_nothing_else_begins(gpu_run, args, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu_run.py", "--out", str(args.out), "--copy-to", str(args.copy_to)])
    with pytest.raises(SystemExit, match="the preflight failed"):
        gpu_run.main()
    assert tr.backend.why_no_gpu() in (args.copy_to / "preflight.txt").read_text()
    assert [path.name for path in args.out.iterdir()] == ["preflight.txt"]
