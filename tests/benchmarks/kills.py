"""Runs that are killed at random moments and started again, until they end: in 1, 2 and 4 processes, the
demo, the experiment on depth. Each chain must end with the bytes of an undisturbed one.

    python tests/benchmarks/kills.py [KILLS]          of each of the five chains, 20 unless told otherwise
"""
from __future__ import annotations

import collections
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.harness import ROOT, SETTINGS, WORKER  # noqa: E402

from tinyres.training import load_checkpoint, read_metrics  # noqa: E402

SIGNALS = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
STEPS = 40
DEPTH = """
import sys
sys.path.insert(0, sys.argv[1])
import tinyres as tr
from tinyres.cli.errors import run_script
from tinyres.experiments import depth, sweep
sweep.DATASETS["shapes"] = lambda root: tr.datasets.shapes(200, 20)
sys.argv = ["depth", *sys.argv[3:]]
run_script(depth.main)
"""


def run_in(processes: int) -> Callable[[Path], list[object]]:
    def command(out: Path) -> list[object]:
        options = ["--resume"] if (out / "checkpoint.npz").exists() else [*SETTINGS, "--evaluate-every", 10]
        return [WORKER, *options, "--steps", STEPS, "--processes", processes, "--out", out]
    return command


def demo(out: Path) -> list[object]:
    return [WORKER, "--demo", "--steps", 150, "--evaluate-every", 40, "--blocks", 1, "--widths", 4, 8,
            "--lr-drops", 100, "--out", out]


def depth(out: Path) -> list[object]:
    return [DEPTH, "--dataset", "shapes", "--widths", 4, "--blocks", 1, 2, "--epochs", 4, "--batch-size", 16,
            "--lrs", 0.02, 0.01, "--out", out]


CHAINS = {"1 process": run_in(1), "2 processes": run_in(2), "4 processes": run_in(4), "--demo": demo,
          "experiments.depth": depth}


def start(chain: Callable[[Path], list[object]], out: Path) -> subprocess.Popen[str]:
    program, *options = map(str, chain(out))
    return subprocess.Popen([sys.executable, "-c", program, str(ROOT), "0", *options, "--backend", "numpy"],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str], *statuses: int) -> int:
    printed, _ = process.communicate(timeout=600)
    # Ctrl-C while Python imports has a traceback of Python's own
    whole = "Traceback" not in printed or process.returncode == -signal.SIGINT
    assert process.returncode in statuses and whole, (process.returncode, printed[-2000:])
    return process.returncode


def outcome(out: Path) -> dict[str, object]:
    """Every array of every checkpoint, what evaluations found, and the results of an experiment."""
    found: dict[str, object] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.name == "checkpoint.npz":
            with numpy.load(path) as file:
                found |= {f"{name} {key}": file[key].tobytes() for key in file.files if key != "config"}
        elif path.name == "metrics.jsonl":
            steps = [line["step"] for line in read_metrics(path)]
            assert steps == sorted(set(steps)), f"{path} has doubles: {steps}"
            found[name] = [{key: value for key, value in line.items() if key[:4] in ("step", "test", "resi")}
                           for line in read_metrics(path) if "test_error" in line or line["step"] == 0]
            # a signal adds the line of the step after which it stopped
            found[f"{name} steps"] = [step for step in steps if step % 10 == 0]
        elif path.name == "results.jsonl":
            found[name] = [json.loads(line) for line in path.read_text().splitlines()]
    return found


def main(kills: int) -> None:
    rng = random.Random(0)
    for name, chain in CHAINS.items():
        with tempfile.TemporaryDirectory() as work:
            whole, out, begun = Path(work, "whole"), Path(work, "killed"), time.perf_counter()
            finish(start(chain, whole), 0)
            longest, counts, starts_over = time.perf_counter() - begun, collections.Counter[str](), 0
            while counts.total() < kills:
                fresh, begun = not out.exists(), time.perf_counter()
                process, number = start(chain, out), rng.choice(SIGNALS)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(rng.uniform(0, longest))
                process.send_signal(number)
                # Python has no handler yet (-number), the run saves and ends, or it had ended
                status = finish(process, -number, 128 + number, 0)
                counts[number.name] += bool(status)
                if fresh and not status:  # the machine may be less busy than it was
                    longest = time.perf_counter() - begun
                steps = [load_checkpoint(path).step for path in out.rglob("checkpoint.npz")]
                if status and steps != [STEPS]:
                    continue  # else there is no step left to resume
                starts_over += 1
                assert outcome(out) == outcome(whole), f"{name}: another end after {dict(counts)}"
                shutil.rmtree(out)
            finish(start(chain, out), 0)
            assert outcome(out) == outcome(whole), f"{name}: another end after {dict(counts)}"
            litter = [path.name for path in out.rglob(".*.tmp")]
            assert not litter, f"{name}: left {litter}"
            print(f"{name}: {counts.total()} kills ({dict(counts)}) in {starts_over + 1} chains; each ended "
                  "with the bytes of an undisturbed one, and metrics without gaps or doubles", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:] or ["20"]))
