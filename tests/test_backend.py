import threading

import numpy
import pytest

import tinyres as tr
from tinyres import backend, kernel


def test_use_chooses_the_library_of_new_arrays(xp):
    assert backend.current() is xp
    assert backend.xp_of(tr.Tensor([1.0, 2.0]).data) is xp
    assert backend.xp_of(tr.models.cifar_net(blocks=1, widths=(4,)).stem.weight.data) is xp


def test_to_numpy_gives_the_same_values(xp):
    values = backend.to_numpy(xp.arange(3.0))
    assert isinstance(values, numpy.ndarray) and values.tolist() == [0, 1, 2]


def test_auto_falls_back_to_numpy_without_a_gpu():
    expected = "cupy" if backend.gpu_available() else "numpy"
    assert backend.use("auto").__name__ == expected
    backend.use("numpy")


def test_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="'torch' is unknown"):
        backend.use("torch")


def test_a_kernel_takes_the_last_registered_variant_that_applies_and_none_where_plain():
    @kernel.kernel
    def double(x):
        return x + x

    try:
        for limit in 0, 10, 100:
            double.variant(lambda x, limit=limit: x > limit)(lambda x, limit=limit: f"above {limit}")
        assert [double(x) for x in (-1, 1, 11, 101)] == [-2, "above 0", "above 10", "above 100"]
        with kernel.plain():
            assert double(101) == 202
            seen = []
            thread = threading.Thread(target=lambda: seen.append(double(101)))
            thread.start()
            thread.join()
        assert seen == ["above 100"], "another thread is not plain"
        assert double(101) == "above 100"
    finally:
        kernel.KERNELS.remove(double)


@pytest.mark.skipif(backend.gpu_available(), reason="a GPU works here")
def test_cupy_without_a_gpu_says_what_is_missing_and_leaves_numpy_in_use():
    with pytest.raises(RuntimeError, match="CuPy"):
        backend.use("cupy")
    assert backend.current() is numpy


def test_xp_of_refuses_what_is_no_array():
    with pytest.raises(TypeError, match="expected a NumPy or CuPy array, got list"):
        backend.xp_of([1, 2])
