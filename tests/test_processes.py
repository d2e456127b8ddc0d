"""Training in several processes that fork from one, on this machine's cores."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import numpy
import pytest
from support.harness import ROOT, WORKER, weights

import tinyres as tr
from tinyres import backend
from tinyres.distributed import SINGLE_PROCESS
from tinyres.distributed.forked import MAX_WEIGHTS, forked, process_count
from tinyres.fast.cpu import threads

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork processes")

CIFAR = ROOT / "run_cifar.py"
SMALL = ["--dataset", "shapes", "--blocks", "1", "--widths", "4", "8", "--batch-size", "12", "--lr", "0.1",
         "--evaluate-every", "1000", "--backend", "numpy"]


def run_cifar(*arguments: object, script: Sequence[object] = (CIFAR,)) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *map(str, [*script, *SMALL, *arguments])], capture_output=True,
                          text=True, timeout=120)


def few_images(*arguments: object) -> subprocess.CompletedProcess:
    """run_cifar.py on 60 images."""
    return run_cifar(*arguments, script=("-c", WORKER, ROOT, 0))


@pytest.mark.parametrize("count", [2, 3])
def test_the_mean_is_the_mean_and_the_same_bits_everywhere(count):
    def arrays(rank: int) -> list[numpy.ndarray]:
        rng = numpy.random.default_rng(rank)
        return [rng.standard_normal(shape, "float32") for shape in ((3, 5), (), (70_000,))]

    with forked(count) as group:
        for _ in range(3):  # the second mean must not meet what is left of the first
            mine = arrays(group.rank)
            group.all_reduce_mean(mine)
        bits = [float(array.view("uint32").sum(dtype="float64")) for array in mine]
        assert group.all_reduce_sum(*bits) == [count * number for number in bits]
        ranks = group.all_reduce_sum(group.rank, 1)
    assert ranks == [sum(range(count)), count]
    for mean, *all_of_them in zip(mine, *map(arrays, range(count)), strict=True):
        numpy.testing.assert_allclose(mean, numpy.mean(all_of_them, axis=0), rtol=1e-5, atol=1e-6)


def test_a_group_serves_one_network_after_another():
    with forked(2) as group:
        for size, dtype in (5, "float32"), (4, "float32"), (4, "float64"):
            mean = numpy.full(size, group.rank + 1e-9, dtype)
            group.all_reduce_mean([mean])
    numpy.testing.assert_allclose(mean, 0.5 + 1e-9, rtol=1e-14)


def test_one_process_is_no_other():
    with forked(1) as group:
        assert group is SINGLE_PROCESS


def test_fewer_than_one_process_change_nothing():
    before = threads.thread_count()
    with pytest.raises(ValueError, match="0 processes: expected 1 or more"), forked(0):
        pass
    assert threads.thread_count() == before


def test_cores_are_shared_among_processes_and_given_back():
    before = threads.thread_count()
    assert threads.parallel_map(lambda i: i, range(100)) == list(range(100))  # the pool has its threads
    with forked(2) as group:
        mine = threads.thread_count()
        assert threads.parallel_map(lambda i: i, range(100)) == list(range(100))
        assert group.all_reduce_sum(mine) == [2 * mine]
    assert mine == max(1, before // 2) and threads.thread_count() == before
    assert threads.parallel_map(lambda i: i, range(100)) == list(range(100))


def test_as_many_processes_as_threads_but_not_for_large_networks_or_small_shards(monkeypatch):
    monkeypatch.setattr(threads, "thread_count", lambda: 6)
    expected = 1 if sys.platform != "linux" else 6
    assert process_count(96, 1000) == expected
    assert process_count(64, 1000) == min(expected, 4) and process_count(20, 1000) == 1
    assert process_count(96, MAX_WEIGHTS + 1) == 1
    monkeypatch.setattr(backend, "current", lambda: "a library for GPUs")
    assert process_count(96, 1000) == 1


def test_two_processes_and_then_three_give_the_weights_of_one(tmp_path):
    done = few_images("--steps", 12, "--out", tmp_path / "one", "--processes", 1)
    assert done.returncode == 0, done.stderr
    for processes, length in (2, ["--steps", "6"]), (3, ["--resume", "--steps", "12"]):
        done = few_images(*length, "--processes", processes, "--out", tmp_path / "parts")
        assert done.returncode == 0 and done.stdout.count("Curves") == 1, done.stdout + done.stderr
        assert done.stdout.count(f"{processes} processes") == 1
    one, parts = weights(tmp_path / "one"), weights(tmp_path / "parts")
    fresh = tr.models.cifar_net(10, 1, (4, 8)).state_dict()
    assert max(abs(one[f"model/{name}"] - value).max() for name, value in fresh.items()) > 0.01, "it moved"
    assert one.keys() == parts.keys()
    assert max(float(abs(one[name] - parts[name]).max()) for name in one) < 1e-5
    evaluations = [few_images("--evaluate", tmp_path / "one" / "checkpoint.npz", "--processes", count).stdout
                   for count in (1, 2)]
    assert evaluations[0].splitlines()[-1] == evaluations[1].splitlines()[-1]


@pytest.mark.parametrize("ending, message", [
    (lambda: os.kill(os.getpid(), signal.SIGKILL), "process 1 of the run has ended: it was killed"),
    (lambda: exec("raise ValueError('a bad value')"), "process 1 of the run has ended: a bad value"),
    (lambda: exec("raise MemoryError"), "process 1 of the run has ended: MemoryError"),
    (lambda: exec("raise TypeError('a bug')"), "Traceback.*\n(.*\n)*TypeError: a bug"),
], ids=["killed", "error", "memory", "bug"])
def test_a_process_that_ends_is_an_error_in_the_first(ending, message):
    with pytest.raises(RuntimeError, match=message), forked(3) as group:
        if group.rank == 1:
            ending()
        group.all_reduce_sum(1)
        group.all_reduce_sum(1)


def test_a_process_that_is_killed_while_it_waits_for_a_sum_is_named():
    with pytest.raises(RuntimeError, match="process 1 of the run has ended: it was"), forked(2) as group:
        if group.rank == 1:
            group.connections[0].send([1])
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.2)
        group.all_reduce_sum(1)
        group.all_reduce_sum(1)


def test_an_error_in_the_first_process_ends_the_others():
    with pytest.raises(ValueError, match="in the first"), forked(3) as group:
        if group.rank == 0:
            raise ValueError("in the first")
        group.all_reduce_sum(1)
    with pytest.raises(ChildProcessError):  # none is left
        os.waitpid(-1, 0)


def test_no_process_holds_the_pipe_of_another_open():
    with forked(3) as group:
        first, second = group.all_reduce_sum(*(os.getpid() * (group.rank == rank) for rank in (1, 2)))
        if group.rank == 1:
            group.all_reduce_sum()  # ends this process when process 0 hangs up
        elif group.rank == 2:
            time.sleep(60)
        start = time.monotonic()
        group.connections[0].close()
        os.waitpid(first, 0)
        os.kill(second, signal.SIGKILL)
    assert time.monotonic() - start < 30


def test_copies_print_nothing_where_output_is_python_s_own_as_in_a_notebook(monkeypatch):
    reader, writer = os.pipe()
    with open(reader) as printed, open(writer, "w", buffering=1) as output:
        monkeypatch.setattr(sys, "stdout", output)
        with forked(2) as group:
            print(group.rank)
            group.all_reduce_sum()
        output.close()
        assert printed.read() == "0\n"


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no files in memory")
def test_gradients_do_not_meet_in_dev_shm_which_is_small_in_containers():
    with forked(2) as group:
        device = os.fstat(group.file).st_dev
    assert device != os.stat("/dev/shm").st_dev


def test_a_program_that_ignores_its_children():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with forked(2) as group:
            ranks = group.all_reduce_sum(group.rank)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert ranks == [1]


def test_a_weight_without_gradient_stays_as_it_is(tmp_path):
    model = tr.nn.Sequential(lambda x: x.reshape(len(x), -1), tr.nn.Linear(3072, 10))
    model.unused = tr.Tensor(numpy.ones(3), requires_grad=True)
    optimizer = tr.optim.SGD(model.parameters(), 0.01)
    with forked(2) as group:
        run = tr.training.Run(tmp_path, {}, group=group)
        tr.training.train(model, optimizer, lambda step: 0.01, tr.datasets.shapes(20, 10), run, steps=2,
                          batch_size=4)
    assert len(optimizer.parameters) == 3 and (model.unused.numpy() == 1).all()


def test_a_dry_run_in_processes(tmp_path):
    done = few_images("--dry-run", "--processes", 2, "--out", tmp_path)
    assert done.returncode == 0 and done.stdout.count("GiB in each process") == 1, done.stdout + done.stderr


def test_a_diverging_run_is_reported_once(tmp_path):
    done = run_cifar("--steps", 40, "--lr", 1e6, "--processes", 2, "--out", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("is not finite at step") == 1 and "Stopped" not in done.stdout


def test_a_signal_to_the_first_process_stops_all_after_the_same_step(tmp_path):
    command = [sys.executable, CIFAR, *SMALL, "--steps", "100000", "--processes", "2", "--out", tmp_path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "Stopped and saved after step" in out, out + err
    assert err.count("stopping after this step") == 1
    assert tr.training.load_checkpoint(tmp_path / "checkpoint.npz").step < 100_000


@pytest.mark.parametrize("arguments, message", [
    (["--batch-size", "13", "--processes", "2"], "batch_size 13 must be a multiple of 2"),
    (["--processes", "5000"], "must be a multiple of 5000"),  # said before there are so many
    (["--processes", "2", "--distributed"], "--processes cannot be combined with --distributed"),
    (["--processes", "0"], "--processes"),
])
def test_wrong_options_are_named(tmp_path, arguments, message):
    done = run_cifar("--out", tmp_path, *arguments)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr
