"""The scripts run as their users run them or, sooner, within this process; runs that are killed, for
test_robustness.py and kills.py."""
from __future__ import annotations

import importlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy

from tinyres import backend
from tinyres.cli import errors
from tinyres.training import load_checkpoint, read_metrics

ROOT = Path(__file__).resolve().parent.parent.parent

# run_cifar.py with a data set of 60 images. The argument before its own says at which rename, the moment
# before a file gets its name, the process kills itself; 0 for never.
WORKER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import tinyres as tr
import run_cifar
from tinyres.cli.errors import run_script
countdown, rename = int(sys.argv[2]), os.replace
def rename_or_die(*paths):
    global countdown
    countdown -= 1
    if countdown == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*paths)
os.replace = rename_or_die
run_cifar.DATASETS["shapes"] = lambda root: tr.datasets.shapes(60, 20)
sys.argv = ["run_cifar.py", *sys.argv[3:]]
run_script(run_cifar.main)
"""
SETTINGS = ["--dataset", "shapes", "--blocks", "1", "--widths", "8", "16", "--batch-size", "16",
            "--lr", "0.002", "--evaluate-every", "10"]


def run_script(script: Path, *arguments: object, ok: bool = True) -> str:
    """What the script prints; checks that it succeeds or, with ok=False, ends without a traceback."""
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def call_script(script: Path, *arguments: object, ok: bool = True) -> str:
    """As `run_script`, but within this process, which has all modules loaded already."""
    main, before = importlib.import_module(script.stem).main, sys.argv
    printed, complaints, status = io.StringIO(), io.StringIO(), 0
    sys.argv = [script.name, *map(str, arguments)]
    try:
        with redirect_stdout(printed), redirect_stderr(complaints):
            errors.run_script(main)
    except SystemExit as end:
        status = end.code
    finally:
        sys.argv = before
        backend.use("numpy")
    said = printed.getvalue() + complaints.getvalue()
    assert (not status) == ok, said
    return said


def weights(folder: Path) -> dict[str, numpy.ndarray]:
    """Weights and velocities of the checkpoint in a run's folder."""
    with numpy.load(folder / "checkpoint.npz") as file:
        return {name: file[name] for name in file.files if "/" in name}


def weight_bytes(folder: Path) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in weights(folder).items()}


def start(out: Path, steps: int, die_at: int = 0, **environment: str) -> subprocess.Popen[str]:
    """A run in `out`, resumed if it has a checkpoint."""
    options = ["--resume"] if (out / "checkpoint.npz").exists() else SETTINGS
    return subprocess.Popen([sys.executable, "-u", "-c", WORKER, str(ROOT), str(die_at), *options,
                             "--steps", str(steps), "--out", str(out), "--backend", "numpy"], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment})


def finish(process: subprocess.Popen[str]) -> str:
    """What a run printed; checks that it ended well."""
    printed, errors = process.communicate(timeout=600)
    assert process.returncode == 0 and not errors, printed[-1000:] + errors
    return printed


def outcome(out: Path) -> tuple[dict[str, bytes], list[dict[str, float]]]:
    """Every array of the checkpoint, and the metrics except the speed."""
    with numpy.load(out / "checkpoint.npz") as file:
        arrays = {name: file[name].tobytes() for name in file.files if name != "config"}
    return arrays, [{key: value for key, value in line.items() if key != "images_per_second"}
                    for line in read_metrics(out / "metrics.jsonl")]


def kill_at_random(out: Path, steps: int, kills: int, seed: int = 0, longest: float = 0.7) -> int:
    """Kill a run at random moments, resume it each time, and let it end; returns how often it was killed.

    After each kill the checkpoint, if there is one, must be whole. A run that ends early starts over.
    longest: seconds from the first sign of life to the kill, at most.
    """
    rng, killed = random.Random(seed), 0
    while killed < kills:
        process = start(out, steps)
        assert process.stdout.readline().startswith("shapes: "), process.communicate()
        time.sleep(rng.uniform(0, longest))
        process.kill()
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            killed += 1
        if (out / "checkpoint.npz").exists() and load_checkpoint(out / "checkpoint.npz").step == steps:
            shutil.rmtree(out)
    finish(start(out, steps))
    for line in (out / "metrics.jsonl").read_text().splitlines():
        json.loads(line)
    return killed
