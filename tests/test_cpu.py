"""Work in threads: results, errors, nesting, NumPy's settings; the same bits with any number of threads."""
from __future__ import annotations

import threading
import time

import numpy
import pytest

import tinyres as tr
from tinyres import cpu


def test_results_come_in_order_whoever_computes_them():
    assert cpu.over(range(1000), lambda i: i * i) == [i * i for i in range(1000)]
    assert cpu.over([], lambda i: i) == []


def test_it_can_be_nested():
    assert cpu.over(range(20), lambda i: sum(cpu.over(range(i), lambda j: j))) == [i * (i - 1) // 2
                                                                                   for i in range(20)]


two_threads = pytest.mark.skipif(cpu.THREADS < 2, reason="needs two cores")


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
        cpu.over(range(2), work)
    assert len(done) == 1


@two_threads
def test_numpys_errstate_holds_in_all_threads():
    both = threading.Barrier(2, timeout=60)

    def settings(i: int) -> str:
        both.wait()
        return numpy.geterr()["over"]

    with numpy.errstate(over="raise"):
        assert cpu.over(range(2), settings) == ["raise", "raise"]


def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    def gradients() -> list[bytes]:
        network = tr.models.cifar_net(blocks=1, widths=(16, 48, 64))
        images = numpy.random.default_rng(0).standard_normal((16, 32, 32, 3), dtype="float32")
        tr.softmax_cross_entropy(network(tr.Tensor(images)), numpy.arange(16) % 10).backward()
        return [parameter.grad.tobytes() for parameter in network.parameters()]

    expected = gradients()
    monkeypatch.setattr(cpu, "THREADS", 1)
    assert gradients() == expected
    monkeypatch.setattr(cpu, "THREADS", 5)
    monkeypatch.setattr(cpu, "_pool", cpu.ThreadPoolExecutor(4))
    assert gradients() == expected
