"""What is done to lists of arrays at once: as the definitions have it, however the arrays lie in memory."""
from __future__ import annotations

import numpy
import pytest

from tinyres.backend import to_numpy, xp_of
from tinyres.fast.gpu import lists, precision
from tinyres.kernel import plain
from tinyres.optim import SGD, sgd_update
from tinyres.tensor import Tensor

COUNT = 130  # more than one table holds


def arrays(xp, dtype, count=COUNT, seed=0):
    """Arrays of several orders and sizes, some of them with gaps or without numbers."""
    rng = numpy.random.default_rng(seed)
    made = [xp.asarray(rng.standard_normal((2 + i % 3, 3, 4)).astype(dtype)) for i in range(count)]
    made[1], made[2], made[3] = made[1].transpose(2, 0, 1), made[2][:, ::2], made[3][..., :1]
    made[4] = xp.zeros((0, 3), dtype)
    return made


def copies(them):
    return [to_numpy(array).copy() for array in them]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("skip", [None, 0, 1])
def test_sgd(xp, dtype, skip):
    weights, velocities = arrays(xp, dtype), arrays(xp, dtype, seed=1)
    gradients = arrays(xp, dtype, seed=2)
    gradients[5] = gradients[5].transpose(1, 0, 2).copy().transpose(1, 0, 2)  # not its weight's
    expected = [copies(them) for them in (weights, gradients, velocities)]
    if skip != 1 or xp is numpy:
        sgd_update.definition(*expected, 0.1, 0.9, 0.01)
    with lists.skipped_if(None if skip is None else xp.full((), skip, "uint32")):
        sgd_update(weights, gradients, velocities, 0.1, 0.9, 0.01)
    for them, wanted in zip((weights, gradients, velocities), expected, strict=True):
        for array, other in zip(them, wanted, strict=True):
            numpy.testing.assert_allclose(to_numpy(array), other, rtol=1e-5 if dtype == "float32" else 1e-13,
                                          atol=1e-7)


def test_weights_of_two_dtypes_move_together(xp):
    them = [xp.ones(3, dtype) for dtype in ("float16", "float32", "float64")]
    sgd_update(them, [xp.ones_like(w) for w in them], [xp.zeros_like(w) for w in them], 0.5, 0.0, 0.0)
    assert [w.tolist() for w in them] == [[0.5] * 3] * 3


@pytest.mark.parametrize("source, dtype", [("float32", "float16"), ("float16", "float32"),
                                           ("float64", "float32")])
@pytest.mark.parametrize("scale", [None, 4.0])
def test_converted(xp, source, dtype, scale):
    them = arrays(xp, source)
    scale = None if scale is None else xp.full((), scale, "float32")
    for array, out in zip(them, precision.converted(them, dtype, scale), strict=True):
        expected = to_numpy(array) / (1 if scale is None else 4)
        assert out.dtype == dtype and (to_numpy(out) == expected.astype(dtype)).all()
        assert xp is numpy or array.size < 2 or not array.flags.c_contiguous or out.flags.c_contiguous


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_not_finite(xp, dtype):
    them = arrays(xp, dtype)
    large = xp.full(1000, 6e4 if dtype == "float16" else 3e38, dtype)  # whose sum is not finite
    assert not precision.any_not_finite([*them, large])
    for value in numpy.inf, -numpy.inf, numpy.nan:
        for place in 0, 1, 2, COUNT - 1:
            spoiled = [array.copy() for array in them]
            spoiled[place][-1, -1, -1] = value
            flag = precision.any_not_finite([*spoiled, large])
            assert flag.dtype == "uint32" and flag.shape == () and int(flag) == 1


def test_which_optimizers_skip_by_themselves(xp):
    def parameters(dtype="float32"):
        return [Tensor(xp.ones(3, dtype), requires_grad=True)]

    assert lists.can_skip(SGD(parameters(), 0.1)) == (xp is not numpy)
    assert not lists.can_skip(SGD(parameters(), 0.1, nesterov=True))
    assert not lists.can_skip(SGD(parameters("float16"), 0.1))
    with plain():
        assert not lists.can_skip(SGD(parameters(), 0.1))
    assert xp_of(parameters()[0].data) is xp
