"""Training in several processes, started by mpirun on this machine."""
from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from support.harness import weights

import tinyres as tr
from tinyres.distributed import SINGLE_PROCESS

if shutil.which("mpirun") is None or importlib.util.find_spec("mpi4py") is None:
    pytest.skip("no MPI here: install an MPI library, then pip install -e '.[mpi]'", allow_module_level=True)

CIFAR = Path(__file__).resolve().parent.parent / "run_cifar.py"
SMALL = ["--dataset", "shapes", "--blocks", "1", "--widths", "4", "8", "--batch-size", "12", "--lr", "0.1",
         "--evaluate-every", "1000", "--backend", "numpy"]

# Pictures in files, three of them broken, and the same in memory, as data sets of a small network.
WORKER = """
import os, signal, sys, numpy, tinyres as tr
from pathlib import Path
from tinyres.training import Run, evaluate, train
root, out, fate = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
group = tr.distributed.start("numpy")
dataset = tr.datasets.image_folder(root, 1)
net = tr.models.imagenet_net(10, (1, 1), (2, 4), seed=group.rank)  # the broadcast makes them equal
optimizer = tr.optim.SGD(net.parameters(), 0.1)
def schedule(step):
    if step == 1 and group.rank == 1:
        if fate == "error":
            raise TypeError("a bug in one process")
        if fate == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
    if step == 1 and fate == "stop" and group.rank == group.size - 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return 0.1
type(dataset.test).evaluation_batch_size = 4
metrics = train(net, optimizer, schedule, dataset, Run(out, {}, seed=2, group=group), steps=3, batch_size=6)
if fate == "":
    print("figures", *evaluate(net, dataset.test, group).values())
"""


def mpirun(processes: int, *command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                   "OMPI_MCA_rmaps_base_oversubscribe": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(["mpirun", "-n", str(processes), sys.executable, *command], env=environment,
                          capture_output=True, text=True, timeout=120)


def largest_difference(one: dict[str, numpy.ndarray], other: dict[str, numpy.ndarray]) -> float:
    assert one.keys() == other.keys()
    return max(float(abs(one[name] - other[name]).max()) for name in one)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures") / "shapes"
    tr.datasets.save_as_folder(tr.datasets.shapes(30, 11, size=32), root)
    for path in sorted((root / "train").rglob("*.JPEG"))[:3]:
        path.write_bytes(b"broken")
    return root


def test_a_process_alone_shares_with_nobody():
    assert numpy.arange(5)[SINGLE_PROCESS.shard].tolist() == [0, 1, 2, 3, 4]
    assert SINGLE_PROCESS.all_reduce_sum(1, 2) == (1, 2)


def test_two_processes_and_then_three_give_the_weights_of_one(tmp_path):
    done = subprocess.run([sys.executable, CIFAR, *SMALL, "--steps", "12", "--out", tmp_path / "one"],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    parts = str(tmp_path / "parts")
    for processes, length in (2, [*SMALL, "--steps", "6"]), (3, ["--resume", "--steps", "12"]):
        done = mpirun(processes, str(CIFAR), *length, "--distributed", "--out", parts, "--backend", "numpy")
        assert done.returncode == 0 and done.stdout.count("Curves") == 1, done.stdout + done.stderr
    one, parts = weights(tmp_path / "one"), weights(tmp_path / "parts")
    fresh = tr.models.cifar_net(10, 1, (4, 8)).state_dict()
    assert max(abs(one[f"model/{name}"] - value).max() for name, value in fresh.items()) > 0.01, "it moved"
    assert largest_difference(one, parts) < 1e-5


@pytest.mark.parametrize("processes", [2, 3])
def test_pictures_in_files_too_and_the_same_evaluation(pictures, tmp_path, processes):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    runs = {n: mpirun(n, str(script), str(pictures), str(tmp_path / str(n)), "") for n in (1, processes)}
    for done in runs.values():
        assert done.returncode == 0, done.stderr
    assert largest_difference(weights(tmp_path / "1"), weights(tmp_path / str(processes))) < 1e-5
    figures = [[float(word) for word in done.stdout.split("figures")[1].split()] for done in runs.values()]
    assert figures[1] == pytest.approx(figures[0], abs=1e-5)
    metrics = [tr.training.read_metrics(tmp_path / str(n) / "metrics.jsonl")[-1] for n in runs]
    for name in metrics[0].keys() - {"images_per_second"}:
        assert metrics[1][name] == pytest.approx(metrics[0][name], abs=1e-5), name


@pytest.mark.parametrize("fate", ["error", "killed"])
def test_a_process_that_dies_ends_the_run_with_an_error(pictures, tmp_path, fate):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    done = mpirun(3, str(script), str(pictures), str(tmp_path / "out"), fate)
    assert done.returncode != 0
    assert fate == "killed" or "TypeError: a bug in one process" in done.stderr


def test_a_signal_to_one_process_stops_all_after_the_same_step(pictures, tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    done = mpirun(2, str(script), str(pictures), str(tmp_path / "out"), "stop")
    assert done.returncode == 0, done.stderr
    assert tr.training.load_checkpoint(tmp_path / "out" / "checkpoint.npz").step == 2


@pytest.mark.parametrize("arguments, message", [
    (["--batch-size", "13"], "batch_size 13 must be a multiple of 2"),
    (["--momentum", "2"], "momentum"),
    (["--demo"], "--demo cannot be combined with"),
])
def test_wrong_options_are_named_and_end_all_processes(tmp_path, arguments, message):
    done = mpirun(2, str(CIFAR), *SMALL, "--distributed", "--out", str(tmp_path), *arguments)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr
