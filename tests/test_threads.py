"""Work in threads: results, errors, nesting, NumPy's settings; the same bits with any number of threads."""
from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy
import pytest

import tinyres as tr
from tinyres.conv import convolution_gradients, convolve
from tinyres.fast.cpu import blas, cores, machine, threads, winograd
from tinyres.fast.cpu.cores import core_count


def test_results_come_in_order_whichever_thread_computes_them():
    assert threads.parallel_map(lambda i: i * i, range(1000)) == [i * i for i in range(1000)]
    assert threads.parallel_map(lambda i: i, []) == []


def test_it_can_be_nested():
    sums = threads.parallel_map(lambda i: sum(threads.parallel_map(lambda j: j, range(i))), range(20))
    assert sums == [i * (i - 1) // 2 for i in range(20)]


two_threads = pytest.mark.skipif(threads.thread_count() < 2, reason="needs two cores")


def test_no_more_threads_than_cores():
    program = "from tinyres.fast.cpu import threads; print(threads.thread_count())"
    done = subprocess.run([sys.executable, "-c", program],
                          env={**os.environ, "OPENBLAS_NUM_THREADS": "1000"}, capture_output=True, text=True,
                          timeout=120, cwd=Path(__file__).resolve().parent.parent, check=True)
    assert int(done.stdout) <= threads.core_count()


@pytest.mark.parametrize(("groups", "files", "expected"), [
    ("", {}, math.inf),
    ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),  # docker run --cpus=2, version 2
    ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
    ("0::/user/me\n", {"user/me/cpu.max": "max 100000\n", "user/cpu.max": "150000 100000\n"}, 1.5),
    ("0::/user/me\n", {"user/me/cpu.max": "50000 100000\n", "user/cpu.max": "400000 100000\n"}, 0.5),
    ("0::/docker/abc\n", {"cpu.max": "300000 100000\n"}, 3),  # a path that leads nowhere in the container
    ("0::/../other\n", {"cpu.max": "300000 100000\n"}, 3),
    ("4:cpu,cpuacct:/docker/abc\n3:cpuset:/x\n0::/x\n",
     {"cpu,cpuacct/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 2),
    ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
    ("4:cpuacct,cpu:/\n", {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 5),
    ("3:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100\n", "cpuset/cpu.cfs_period_us": "100\n"}, math.inf),
    ("0::/\nnonsense\n", {"cpu.max": "nonsense\n"}, math.inf),
])
def test_the_quota_of_a_container_is_read(tmp_path, groups, files, expected):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    for name, text in files.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cores.quota(tmp_path) == expected


def test_no_more_cores_than_the_quota(monkeypatch):
    for granted, expected in (1.0, 1), (0.3, 1), (math.inf, len(os.sched_getaffinity(0))):
        monkeypatch.setattr(cores, "quota", lambda granted=granted: granted)
        assert cores.core_count() == expected


def test_each_item_is_taken_once():
    """By as many threads as there are; without Python's lock a shared iterator could give one item twice."""
    taken = []
    for _ in range(20):
        threads.parallel_map(taken.append, range(1000))
    assert sorted(taken) == sorted(list(range(1000)) * 20)


class OneAtATime:
    """A range whose iterator, like every iterator in a Python without its lock, must not be asked twice at
    once."""

    def __init__(self, length: int) -> None:
        self.numbers, self.asking = iter(range(length)), threading.Lock()

    def __iter__(self) -> OneAtATime:
        return self

    def __next__(self) -> int:
        assert self.asking.acquire(blocking=False), "two threads ask at once"
        try:
            time.sleep(0.0005)
            return next(self.numbers)
        finally:
            self.asking.release()


@two_threads
def test_the_shared_iterator_is_asked_by_one_thread_at_a_time(monkeypatch):
    monkeypatch.setattr(threads, "range", OneAtATime, raising=False)
    assert threads.parallel_map(lambda i: i, list("abcdefghijklmnop")) == list("abcdefghijklmnop")


@two_threads
def test_an_error_waits_for_the_other_threads():
    both, done = threading.Barrier(2, timeout=60), []

    def work(i: int) -> None:
        both.wait()  # one of the two is this test's thread
        if threading.current_thread() is threading.main_thread():
            raise KeyError(i)
        time.sleep(0.2)
        done.append(i)

    with pytest.raises(KeyError):
        threads.parallel_map(work, range(2))
    assert len(done) == 1


FORKS = """
import os, signal, sys, threading, time
import numpy
import tinyres as tr
from tinyres.fast.cpu import threads

signal.alarm(50)
x, w = numpy.ones((8, 16, 16, 32), "float32"), numpy.ones((3, 3, 32, 32), "float32")
a = numpy.ones((300, 300), "float32")
count, stop = 0, False

def compute():
    tr.conv2d(tr.Tensor(x), tr.Tensor(w), 1, 1), tr.Tensor(a) @ tr.Tensor(a)

def fork():
    child = os.fork()
    if not child:
        signal.alarm(20)
        compute()
        os._exit(0)
    return os.waitpid(child, 0)[1]

def others():
    global count
    while not stop:
        compute()
        count += 1

def last():
    threading.main_thread().join()
    time.sleep(0.2)  # concurrent.futures has no more threads to give
    compute()
    print("alone", threads.parallel_map(abs, range(-3, 0)))

thread = threading.Thread(target=others)
thread.start()
assert not any(fork() for _ in range(30)), "a child hung"
start = count
while count < start + 2:
    time.sleep(0.001)
stop = True
thread.join()
start = time.monotonic()
assert threads.parallel_map(lambda item: item, range(4)) == [0, 1, 2, 3]
with threads.unforked():  # in one's own work, a fork waits for nobody
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
assert time.monotonic() - start < threads.PATIENCE / 2
threading.Thread(target=last).start()
"""


@two_threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork processes")
def test_forks_while_threads_compute_and_threads_after_pythons_end():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKS], capture_output=True, text=True,
                          timeout=120, cwd=Path(__file__).resolve().parent.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alone [3, 2, 1]\n", "")


@two_threads
def test_numpys_errstate_holds_in_all_threads():
    both = threading.Barrier(2, timeout=60)

    def settings(i: int) -> str:
        both.wait()
        return numpy.geterr()["over"]

    with numpy.errstate(over="raise"):
        assert threads.parallel_map(settings, range(2)) == ["raise", "raise"]


def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    def gradients() -> list[bytes]:
        network = tr.models.cifar_net(blocks=1, widths=(16, 48, 96, 176))
        images = numpy.random.default_rng(0).standard_normal((16, 32, 32, 3), dtype="float32")
        tr.softmax_cross_entropy(network(tr.Tensor(images)), numpy.arange(16) % 10).backward()
        return [parameter.grad.tobytes() for parameter in network.parameters()]

    expected = gradients()
    for count in 1, 2, 3, 5, 8, 16:
        monkeypatch.setattr(threads, "thread_count", lambda count=count: count)
        pool = threads.ThreadPoolExecutor(max(1, count - 1))
        monkeypatch.setattr(threads, "_pool", lambda pool=pool: pool)
        assert gradients() == expected, f"{count} threads"
        pool.shutdown()


@pytest.mark.parametrize("options, many, few", [(dict(blocks=2), 8, 4),
                                                (dict(blocks=1, widths=(16, 32, 64)), 8, 2)])
def test_there_is_work_for_many_threads_in_every_layer_of_the_networks(monkeypatch, options, many, few):
    """Counts the pieces of work in the largest step of each convolution at batch 32, forward and backward."""
    pieces: list[int] = []
    parallel_map = threads.parallel_map

    def counted(function, items):
        items = list(items)
        pieces.append(len(items))
        return parallel_map(function, items)

    for module in machine, winograd:
        monkeypatch.setattr(module, "parallel_map", counted)
        monkeypatch.setattr(module, "MIN_SLICES", 8)  # as on a machine with many cores
    network, x = tr.models.cifar_net(**options), numpy.ones((32, 32, 32, 3), "float32")
    layers = [network.stem, *(layer for block in network.blocks for layer in (block.conv1, block.conv2))]
    for layer in layers:
        w, stride, padding = layer.weight.data, (layer.stride,) * 2, (layer.padding,) * 2
        pieces.clear()
        out = convolve(x, w, stride, padding)
        expected = many if min(w.shape[2:]) >= 64 and layer.stride == 1 else few
        assert max(pieces) >= expected, (x.shape, w.shape, pieces)
        for needs_grad in (True, True), (True, False):
            pieces.clear()
            convolution_gradients(out, x, w, stride, padding, needs_grad)
            assert max(pieces) >= expected, (x.shape, w.shape, pieces)
        x = out


# BLAS stays as its user set it


has_blas = pytest.mark.skipif(blas.thread_functions() is None,
                              reason="NumPy's BLAS is not the OpenBLAS that ships with it")


@has_blas
def test_importing_and_computing_leave_blas_its_threads():
    """In a process of its own, which asks BLAS before tinyres is imported."""
    program = """
import ctypes, glob, os, sys, numpy
libraries = os.path.join(os.path.dirname(numpy.__file__), "..", "numpy.libs", "*openblas*")
library = ctypes.CDLL(glob.glob(libraries)[0])
get = library.scipy_openblas_get_num_threads64_
library.scipy_openblas_set_num_threads64_(3)
assert get() == 3
import tinyres as tr
assert get() == 3, "import"
x = tr.Tensor(numpy.ones((8, 32, 32, 64), "float32"), requires_grad=True)
w = tr.Tensor(numpy.ones((3, 3, 64, 64), "float32"), requires_grad=True)
tr.sum(tr.conv2d(x, w, 1, 1)).backward()
assert get() == 3, "convolution"
net = tr.models.cifar_net(blocks=1, widths=(8, 16))
images, labels = numpy.ones((8, 32, 32, 3), "float32"), numpy.arange(8)
tr.training.training_step(net, tr.optim.SGD(net.parameters(), 0.1), images, labels)
assert get() == 3, "training step"
seen = []
def fail(item):
    seen.append(get())
    raise KeyError(item)
try:
    tr.fast.cpu.threads.parallel_map(fail, range(4))
except KeyError:
    pass
assert seen[0] == 1 and get() == 3, (seen, get())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120,
                          cwd=Path(__file__).resolve().parent.parent)
    assert done.returncode == 0, done.stderr


@has_blas
def test_blas_has_one_thread_until_the_last_of_several_threads_is_done():
    get_threads, set_threads = blas.thread_functions()
    before = get_threads()
    set_threads(2)
    try:
        with threads.single_threaded_blas():
            other = threading.Thread(target=lambda: threads.parallel_map(lambda i: i, range(3)))
            other.start()
            other.join()
            assert get_threads() == 1
        assert get_threads() == 2
    finally:
        set_threads(before)


@has_blas
def test_blas_uses_no_more_threads_than_the_quota(monkeypatch):
    get_threads, set_threads = blas.thread_functions()
    before = get_threads()
    try:
        for count, expected in (1, 1), (64, 3):
            set_threads(3)
            monkeypatch.setattr(cores, "quota", lambda count=count: float(count))
            monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
            blas.limit_threads()
            assert get_threads() == expected
    finally:
        set_threads(before)


def test_sizes_follow_from_the_machine(tmp_path):
    cache = tmp_path / "sys/devices/system/cpu/cpu0/cache"
    assert machine.l2_bytes(tmp_path) == machine.L2_DEFAULT
    for index, (level, size) in enumerate([("1", "48K"), ("2", "512K"), ("3", "32768K")]):
        (cache / f"index{index}").mkdir(parents=True)
        (cache / f"index{index}/level").write_text(f"{level}\n")
        (cache / f"index{index}/size").write_text(f"{size}\n")
    assert machine.l2_bytes(tmp_path) == 512 * 1024
    (cache / "index1/size").write_text("unknown\n")
    assert machine.l2_bytes(tmp_path) == machine.L2_DEFAULT
    assert str(core_count()) in machine.describe() and blas.kernels() in machine.describe()


LATE = """
import pathlib, sys, threading
import numpy
import tinyres as tr
from PIL import Image
from tinyres.datasets.image_folder import image_folder
from tinyres.datasets.loader import training_batches
folder = pathlib.Path(sys.argv[1])
for split in "train", "val":
    for name in "ab":
        (folder / split / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40, 40), (9 * i, 0, 0)).save(folder / split / name / f"{i}.png")
data = image_folder(folder)
def late():
    threading.main_thread().join()
    images, _ = next(training_batches(data.train, 4, 0, 0, 2))
    print(images.shape)
threading.Thread(target=late).start()
"""


def test_batches_are_made_after_pythons_main_thread_has_ended(tmp_path):
    done = subprocess.run([sys.executable, "-c", LATE, str(tmp_path)], capture_output=True, text=True,
                          timeout=60, cwd=Path(__file__).resolve().parent.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(4, 224, 224, 3)\n", "")
