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


@pytest.mark.parametrize("bad", [0, 7])
def test_after_an_error_no_thread_goes_on(bad):
    busy, lock = [], threading.Lock()

    def work(i: int) -> None:
        if i == bad:
            raise KeyError(i)
        with lock:
            busy.append(i)
        time.sleep(0.01)
        with lock:
            busy.remove(i)

    with pytest.raises(KeyError):
        cpu.over(range(8), work)
    assert busy == []


def test_numpys_errstate_holds_in_all_threads(recwarn):
    with numpy.errstate(over="ignore"):
        cpu.over(range(200), lambda i: numpy.float32(1e30) * numpy.float32(1e30))
    assert not recwarn.list


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
