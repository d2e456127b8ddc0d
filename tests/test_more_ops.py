import numpy
import pytest
from support.checking import POOLED, check, check_pooling, random

import tinyres as tr


@pytest.mark.parametrize("fn, expected", [
    (tr.tanh, numpy.tanh), (tr.abs, numpy.abs), (abs, numpy.abs),
    (tr.sigmoid, lambda x: 1 / (1 + numpy.exp(-x))),
    (tr.softmax, lambda x: numpy.exp(x) / numpy.exp(x).sum(-1, keepdims=True)),
    (tr.log_softmax, lambda x: numpy.log(numpy.exp(x) / numpy.exp(x).sum(-1, keepdims=True))),
    (lambda x: tr.softmax(x, 0), lambda x: numpy.exp(x) / numpy.exp(x).sum(0)),
    (lambda x: tr.log_softmax(x, 0), lambda x: numpy.log(numpy.exp(x) / numpy.exp(x).sum(0))),
    (lambda x: tr.clip(x, -0.5, 1), lambda x: numpy.clip(x, -0.5, 1)),
    (lambda x: tr.clip(x, low=0.1), lambda x: numpy.maximum(x, 0.1)),
    (lambda x: tr.clip(x, high=0.1), lambda x: numpy.minimum(x, 0.1)),
])
def test_against_numpys(xp, fn, expected):
    x = random(xp, 3, 4)
    check(fn, expected(x.numpy()), x)


def test_sqrt(xp):
    x = tr.Tensor(xp.abs(random(xp, 3, 4).data), requires_grad=True)
    check(tr.sqrt, numpy.sqrt(x.numpy()), x)


def gradient(fn, x):
    x = tr.Tensor(x, requires_grad=True)
    tr.sum(fn(x)).backward()
    return x.grad.tolist()


def test_derivatives_where_there_is_none_are_those_of_pytorch(xp):
    assert gradient(tr.abs, xp.array([-2.0, 0.0, 3.0])) == [-1, 0, 1]
    assert gradient(lambda x: tr.clip(x, -1, 2), xp.array([-2.0, -1.0, 0.0, 2.0, 3.0])) == [0, 1, 1, 1, 0]
    assert gradient(lambda x: tr.maximum(x, 1.0), xp.array([0.0, 1.0, 2.0])) == [0, 0.5, 1]
    assert gradient(tr.max, xp.array([3.0, 1.0, 3.0, 3.0])) == [1 / 3, 0, 1 / 3, 1 / 3]
    assert gradient(lambda x: tr.max(x, 1), xp.array([[1.0, 1.0], [0.0, 2.0]])) == [[0.5, 0.5], [0, 1]]
    assert gradient(lambda x: tr.max_pool2d(x, 2), xp.ones((1, 2, 2, 1)))[0] == [[[1], [0]], [[0], [0]]]
    with numpy.errstate(divide="ignore"):
        assert gradient(tr.sqrt, xp.array([0.0, 4.0])) == [numpy.inf, 0.25]


def test_of_huge_numbers_nothing_overflows(xp):
    with numpy.errstate(over="raise", invalid="raise", divide="raise"):
        x = tr.Tensor(xp.array([-1e4, 0.0, 1e4]), requires_grad=True)
        assert tr.sigmoid(x).numpy().tolist() == [0, 0.5, 1]
        assert tr.softmax(x).numpy().tolist() == [0, 0, 1]
        assert tr.log_softmax(x).numpy().tolist() == [-2e4, -1e4, 0]
        small = tr.sigmoid(tr.Tensor(xp.array([-40.0]))).item()
    assert abs(small / numpy.exp(-40) - 1) < 1e-12, "small values must not be rounded to 0"


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 1), (4,)), ((), (2, 3))])
def test_maximum(xp, shapes):
    a, b = random(xp, *shapes[0]), random(xp, *shapes[1], seed=1)
    check(tr.maximum, numpy.maximum(a.numpy(), b.numpy()), a, b)


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), [1, 2], (0, 1, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_max(xp, axis, keepdims):
    x = random(xp, 2, 3, 4)
    expected = x.numpy().max(tuple(axis) if isinstance(axis, list) else axis, keepdims=keepdims)
    check(lambda x: tr.max(x, axis, keepdims), expected, x)


@pytest.mark.parametrize("index", [
    0, -1, slice(1, None), slice(None, None, -2), (1, 2, 3), (slice(None), 0), (..., 1), None,
    (slice(None), None, [0, 0, 2]), ([0, 1, 1], [2, 0, 0]), numpy.array([[0, 1], [1, 1]]),
    (0, [1, 1], slice(2))])
def test_getitem(xp, index):
    x = random(xp, 2, 3, 4)
    check(lambda x: x[index], x.numpy()[index], x)


def test_getitem_by_truth_values(xp):
    x = random(xp, 3, 4)
    check(lambda x: x[x > 0], x.numpy()[x.numpy() > 0], x)


def test_concatenate_and_stack(xp):
    a, b, c = random(xp, 2, 3), random(xp, 4, 3, seed=1), random(xp, 2, 3, seed=2)
    check(lambda a, b: tr.concatenate([a, b, a]), numpy.concatenate([a.numpy(), b.numpy(), a.numpy()]), a, b)
    check(lambda a, c: tr.concatenate((a, c), -1), numpy.concatenate([a.numpy(), c.numpy()], -1), a, c)
    for axis in 0, 1, -1:
        check(lambda a, c, axis=axis: tr.stack([a, c], axis), numpy.stack([a.numpy(), c.numpy()], axis), a, c)


@pytest.mark.parametrize("shape, size", POOLED)
def test_max_pool2d_against_a_loop(xp, shape, size):
    check_pooling(tr.max_pool2d, lambda window: window.max(axis=(1, 2)), random(xp, *shape), size)


def test_float32_stays_float32(xp):
    x = tr.Tensor(xp.asarray([[1.0, 2.0], [2.0, 0.5]], "float32"), requires_grad=True)
    for fn in [tr.sqrt, tr.abs, tr.tanh, tr.sigmoid, tr.softmax, tr.log_softmax, tr.max,
               lambda x: tr.clip(x, numpy.float64(0.7), 1), lambda x: tr.maximum(x, 1), lambda x: x[[0, 0]],
               lambda x: tr.stack([x, x]), lambda x: tr.concatenate([x, x]),
               lambda x: tr.max_pool2d(x.reshape(1, 2, 2, 1), 2)]:
        out = fn(x)
        tr.sum(out).backward()
        assert out.dtype == x.grad.dtype == "float32"


@pytest.mark.parametrize("call, error, message", [
    (lambda x: tr.clip(x), ValueError, "clip: expected numbers, one of which may be None"),
    (lambda x: tr.concatenate([]), ValueError, "concatenate: expected one or more Tensors"),
    (lambda x: tr.concatenate(x), TypeError, "concatenate: expected a list or tuple of Tensors, got Tensor"),
    (lambda x: tr.stack([x, 1.0]), TypeError, "stack: expected a Tensor, got float"),
    (lambda x: tr.stack([x, x[0]]), ValueError, r"stack: shapes \(2, 3\), \(3,\) must be equal"),
    (lambda x: tr.concatenate([x, x.T]), ValueError, r"concatenate: shapes .* must be equal but for axis 0"),
    (lambda x: tr.concatenate([x, x[0]]), ValueError, "must be equal but for axis 0"),
    (lambda x: tr.concatenate([x], 2), ValueError, "axis 2 is out of range"),
    (lambda x: tr.stack([x, x.astype("float32")]), TypeError, "stack: the first operand"),
    (lambda x: tr.max(x[:0]), ValueError, "max: no elements"),
    (lambda x: tr.max_pool2d(x, 2), ValueError, r"max_pool2d: expected shape \(N, H, W, C\)"),
    (lambda x: tr.max_pool2d(x.reshape(1, 2, 3, 1), 3), ValueError, "max_pool2d: size"),
    (lambda x: tr.sigmoid(x.data), TypeError, "sigmoid: expected a Tensor, got ndarray"),
])
def test_what_does_not_fit_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(random(numpy, 2, 3))
