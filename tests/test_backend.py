import numpy
import pytest

import tinyres as tr
from tinyres import backend


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


def test_precision_is_checked():
    with pytest.raises(ValueError, match="'bfloat16' is unknown: expected one of float32, tf32, float16"):
        backend.use("numpy", "bfloat16")
    with pytest.raises(ValueError, match="'tf32' needs a GPU"):
        backend.use("numpy", "tf32")
    assert backend.precision() == "float32" and backend.current() is numpy


@pytest.mark.skipif(backend.gpu_available(), reason="a GPU works here")
def test_cupy_without_a_gpu_says_what_is_missing_and_leaves_numpy_in_use():
    with pytest.raises(RuntimeError, match="CuPy"):
        backend.use("cupy")
    assert backend.current() is numpy


def test_xp_of_refuses_what_is_no_array():
    with pytest.raises(TypeError, match="expected a NumPy or CuPy array, got list"):
        backend.xp_of([1, 2])
