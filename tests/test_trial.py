"""What a run on a GPU says at its start: that it fits, or which batch would."""
from __future__ import annotations

import re

import pytest

import tinyres as tr
from tinyres.training import loss_and_error, trial


def test_the_largest_batch_lies_on_a_line():
    assert trial.largest_batch(lambda size: 1000 + 100 * size, 11_000 / 0.95) == 100
    assert trial.largest_batch(lambda size: 1000 + 100 * size, 1000) == 0

    def full(size):
        raise MemoryError

    assert trial.largest_batch(full, 1e9) == 0


@pytest.fixture
def cupy():
    if not tr.backend.gpu_available():
        pytest.skip(f"no CuPy here: {tr.backend.why_no_gpu()}")
    module = tr.backend.use("cupy")
    yield module
    module.get_default_memory_pool().set_limit(size=0)
    tr.backend.use("numpy")


def describe(batch_size, steps=1000):
    model = tr.models.cifar_net(10, blocks=1, widths=(4, 8))
    before = model.state_dict()
    text = trial.describe(model, loss_and_error, (32, 32, 3), batch_size, steps, "float32")
    assert all((before[name] == value).all() for name, value in model.state_dict().items())
    return text


def test_a_run_on_cupy_says_what_it_needs(cupy):
    text = describe(4)
    expected = r"float32: [0-9.]+ of [0-9.]+ GiB; [0-9.]+ ms a step, so that 1,000 steps take"
    assert re.search(expected, text), text


def test_a_batch_that_does_not_fit_into_cupys_memory_is_one_line_with_one_that_does(cupy):
    cupy.get_default_memory_pool().free_all_blocks()
    cupy.get_default_memory_pool().set_limit(size=2**28)
    with pytest.raises(RuntimeError, match="a step of 4000 images does not fit into .* GiB .* on .*"):
        describe(4000)
