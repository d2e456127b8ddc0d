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


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), [1, 2], numpy.int64(1)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_min_var_and_std(xp, axis, keepdims):
    x = random(xp, 2, 3, 4, seed=1)
    numpys = tuple(axis) if isinstance(axis, list) else axis
    check(lambda x: tr.min(x, axis, keepdims), x.numpy().min(numpys, keepdims=keepdims), x)
    for fn, numpy_fn in (tr.var, numpy.var), (tr.std, numpy.std):  # as in PyTorch, by default unbiased
        unbiased = numpy_fn(x.numpy(), numpys, ddof=1, keepdims=keepdims)
        check(lambda x, fn=fn: fn(x, axis, keepdims), unbiased, x)
        biased = numpy_fn(x.numpy(), numpys, keepdims=keepdims)
        check(lambda x, fn=fn: fn(x, axis, keepdims, correction=0), biased, x)


def test_the_derivative_of_std_at_zero_is_zero(xp):
    assert gradient(tr.std, xp.ones(3)) == [0, 0, 0]


def test_the_variance_of_large_numbers(xp):
    x = tr.Tensor(xp.asarray(numpy.arange(10**6) % 2 + 1000, "float32").reshape(-1, 1).repeat(2, 1))
    numpy.testing.assert_allclose(tr.var(x, 0).numpy(), 0.25, rtol=1e-3)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 1), (4,)), ((), (2, 3))])
def test_minimum(xp, shapes):
    a, b = random(xp, *shapes[0]), random(xp, *shapes[1], seed=1)
    check(tr.minimum, numpy.minimum(a.numpy(), b.numpy()), a, b)


def test_where(xp):
    a, b, condition = random(xp, 3, 4), random(xp, 4, seed=1), random(xp, 2, 3, 1, seed=2).data > 0
    expected = numpy.where(tr.backend.to_numpy(condition), a.numpy(), b.numpy())
    check(lambda a, b: tr.where(condition, a, b), expected, a, b)
    check(lambda a: tr.where(a > 0, a, 0.0), numpy.maximum(a.numpy(), 0), a)
    check(lambda a: tr.where(a > 0, 1, a * 2), numpy.where(a.numpy() > 0, 1, a.numpy() * 2), a)
    x = tr.Tensor(xp.zeros(2), requires_grad=True)
    truth = xp.array([True, False])
    y = tr.where(truth, x, 1.0)
    truth[:] = False
    y.sum().backward()
    assert x.grad.tolist() == [1, 0]
    for wrong in xp.ones(2), x, "x":
        with pytest.raises(TypeError, match="where: expected an array of truth values, such as x > 0, got"):
            tr.where(wrong, x, x)


@pytest.mark.parametrize("fn, expected", [
    (lambda x: tr.squeeze(x), lambda x: x.squeeze()), (lambda x: tr.squeeze(x, 0), lambda x: x[0]),
    (lambda x: tr.squeeze(x, (0, -2)), lambda x: x[0, :, 0]), (lambda x: tr.squeeze(x, 1), lambda x: x),
    (lambda x: tr.unsqueeze(x, 0), lambda x: x[None]), (lambda x: x.unsqueeze(-1), lambda x: x[..., None]),
    (lambda x: x.unsqueeze(numpy.int64(2)), lambda x: x[:, :, None]),
    (tr.flatten, lambda x: x.reshape(-1)), (lambda x: tr.flatten(x, 1), lambda x: x.reshape(1, -1)),
    (lambda x: x.flatten(1, 2), lambda x: x.reshape(1, 3, 4)), (lambda x: x.flatten(-1), lambda x: x),
    (lambda x: tr.split(x, 2, 1)[0], lambda x: x[:, :2]),
    (lambda x: tr.split(x, 2, 1)[1], lambda x: x[:, 2:]),
    (lambda x: x.split([1, 0, 3], -1)[2], lambda x: x[..., 1:]),
    (lambda x: x.split(numpy.int64(1), numpy.int64(3))[2], lambda x: x[..., 2:3]),
    (lambda x: x.clip(-0.5, 1), lambda x: x.clip(-0.5, 1)), (lambda x: x.min(3), lambda x: x.min(3)),
    (lambda x: x.var(3), lambda x: x.var(3, ddof=1)),
    (lambda x: x.std((1, 3)), lambda x: x.std((1, 3), ddof=1)),
    (lambda x: x.squeeze(), lambda x: x.squeeze()),
    (lambda x: tr.pad(x, 1), lambda x: numpy.pad(x, 1)),
    (lambda x: tr.pad(x, numpy.int64(2)), lambda x: numpy.pad(x, 2)),
    (lambda x: tr.clip(x, [-0.5, 0, 0.1, -1], numpy.float64(1)), lambda x: x.clip([-0.5, 0, 0.1, -1], 1)),
    (lambda x: tr.clip(x, high=tr.Tensor(numpy.linspace(-1, 1, 4))),
     lambda x: x.clip(None, numpy.linspace(-1, 1, 4))),
    (lambda x: tr.clip(x, numpy.zeros((2, 1, 1, 1))), lambda x: x.clip(numpy.zeros((2, 1, 1, 1)))),
    (lambda x: tr.concatenate([x, numpy.ones((1, 3, 1, 4))]),
     lambda x: numpy.concatenate([x, numpy.ones((1, 3, 1, 4))])),
    (lambda x: tr.stack([numpy.arange(4), x[0, 0, 0]]), lambda x: numpy.stack([numpy.arange(4), x[0, 0, 0]])),
    (lambda x: x.transpose(numpy.int64(0), 1, 3, 2), lambda x: x.transpose(0, 1, 3, 2)),
    (lambda x: x.sum(numpy.int64(1)), lambda x: x.sum(1)),
    (lambda x: x.mean(numpy.array([1, 3])), lambda x: x.mean((1, 3))),
    (lambda x: x.max(axis=numpy.uint8(1)), lambda x: x.max(1)),
    (lambda x: x.reshape(numpy.int64(3), -1), lambda x: x.reshape(3, -1)),
])
def test_what_users_of_pytorch_and_numpy_expect(fn, expected):
    x = random(numpy, 1, 3, 1, 4)
    check(fn, expected(x.numpy()), x)


def test_sizes_may_be_numbers_of_numpy(xp):
    for integer in numpy.int64, numpy.uint8:
        x = tr.Tensor(xp.ones((1, 6, 6, integer(2)), "float32"))
        assert tr.avg_pool2d(x, integer(2)).shape == tr.max_pool2d(x, integer(2)).shape == (1, 3, 3, 2)
        layer = tr.nn.Conv2d(integer(2), integer(3), integer(3), integer(2), integer(1))
        assert layer(x).shape == (1, 3, 3, 3) and layer.weight.dtype == "float32"
        assert tr.nn.Linear(integer(2), integer(3))(x).shape == (1, 6, 6, 3)
        assert tr.nn.ResidualBlock(integer(2), integer(4), integer(2))(x).shape == (1, 3, 3, 4)
        assert tr.nn.BatchNorm2d(integer(2))(x).shape == x.shape
        image = tr.Tensor(xp.ones((20, 20)))
        assert image.reshape(integer(20), integer(20)).shape == image.transpose(integer(1), integer(0)).shape
        assert tr.pad(image, [(integer(200), integer(100))] * 2).shape == (320, 320)
        assert tr.concatenate([image, image], integer(1)).shape == (20, 40)


def pooled(reduce, x, size, stride, padding, value):
    """A pooling by loops, with padding of this value."""
    around = [(0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)]
    x = numpy.pad(x, around, constant_values=value)
    OH, OW = ((x.shape[1 + i] - size[i]) // stride[i] + 1 for i in (0, 1))
    out = numpy.empty((len(x), OH, OW, x.shape[3]))
    for i in range(OH):
        for j in range(OW):
            top, left = i * stride[0], j * stride[1]
            out[:, i, j] = reduce(x[:, top:top + size[0], left:left + size[1]], axis=(1, 2))
    return out


@pytest.mark.parametrize("size, stride, padding", [
    (2, 1, 0), (3, 2, 1), ((3, 2), None, 0), ((2, 3), (1, 2), (1, 0)), (3, (3, 1), (0, 1)), ([1, 2], 4, 0)])
def test_pooling_with_stride_padding_and_pairs(xp, size, stride, padding):
    x = random(xp, 2, 5, 7, 3)
    sizes, strides, paddings = (tuple(value) if isinstance(value, (tuple, list)) else (value, value)
                                for value in (size, size if stride is None else stride, padding))
    check(lambda x: tr.avg_pool2d(x, size, stride, padding),
          pooled(numpy.mean, x.numpy(), sizes, strides, paddings, 0), x)
    check(lambda x: tr.max_pool2d(x, size, stride, padding),
          pooled(numpy.max, x.numpy(), sizes, strides, paddings, -numpy.inf), x)


def test_mse_loss(xp):
    a, b = random(xp, 3, 2), random(xp, 3, 2, seed=1)
    check(tr.mse_loss, ((a.numpy() - b.numpy()) ** 2).mean(), a, b)
    check(lambda a: tr.mse_loss(a, b.data), ((a.numpy() - b.numpy()) ** 2).mean(), a)
    with pytest.raises(ValueError, match=r"mse_loss: shapes \(3, 2\) and \(2,\) must be equal"):
        tr.mse_loss(a, b[0])


@pytest.mark.parametrize("smoothing", [0, 0.1, 1])
@pytest.mark.parametrize("ignored", [[], [1], [0, 3]])
def test_cross_entropy_with_label_smoothing_and_ignored_labels(xp, smoothing, ignored):
    logits, labels = random(xp, 4, 3), numpy.array([2, 0, 1, 1])
    log_softmax = numpy.log(numpy.exp(logits.numpy()) / numpy.exp(logits.numpy()).sum(1, keepdims=True))
    counted = [i for i in range(4) if i not in ignored]
    expected = -numpy.mean([(1 - smoothing) * log_softmax[i, labels[i]] + smoothing * log_softmax[i].mean()
                            for i in counted])
    for index in -100, 7:
        given = labels.copy()
        given[ignored] = index
        check(lambda x, given=given, index=index: tr.cross_entropy(x, xp.asarray(given), smoothing, index),
              expected, logits)


def test_cross_entropy_where_it_is_softmax_cross_entropy_or_nothing(xp):
    logits, labels = random(xp, 4, 3), xp.array([2, 0, 1, 1])
    expected = tr.softmax_cross_entropy(logits, labels).item()
    assert tr.cross_entropy(logits, labels).item() == pytest.approx(expected)
    assert numpy.isnan(tr.cross_entropy(logits, labels * 0 - 100).item())
    huge = tr.Tensor(xp.array([[1e4, 0.0, -xp.inf]]), requires_grad=True)
    loss = tr.cross_entropy(huge, xp.array([1]))
    loss.backward()
    assert loss.item() == 1e4 and huge.grad.tolist() == [[1, -1, 0]]
    assert tr.cross_entropy(logits.astype("float32"), [2, 0, 1, -100], 0.1).dtype == "float32"
    for wrong, error, message in ((xp.zeros(4), TypeError, "cross_entropy: labels must be an integer"),
                                  (xp.array([0, 1]), ValueError, r"\(4, 3\) and \(2,\)")):
        with pytest.raises(error, match=message):
            tr.cross_entropy(logits, wrong)
    with pytest.raises(ValueError, match="label_smoothing 1.5: expected a number from 0 to 1"):
        tr.cross_entropy(logits, labels, 1.5)


@pytest.mark.parametrize("call, error, message", [
    (lambda x: tr.var(x[0, :1]), ValueError, "var: of 1 values, minus the correction 1, nothing is left"),
    (lambda x: tr.min(x[:0]), ValueError, "min: no elements"),
    (lambda x: tr.unsqueeze(x, 4), ValueError, "out of bounds"),
    (lambda x: tr.squeeze(x, 2), ValueError, "out of"),
    (lambda x: tr.flatten(x, 1, 0), ValueError, r"flatten: axis 1 comes after axis 0 in shape \(2, 3\)"),
    (lambda x: tr.split(x, 0), ValueError, r"split: .* size >= 1, .* the 2 of axis 0 of shape \(2, 3\)"),
    (lambda x: tr.split(x, [1, 3]), ValueError, "split: expected a size"),
    (lambda x: tr.clip(x, x), TypeError, "clip: no gradient goes to a bound: write tr.maximum"),
    (lambda x: tr.clip(x, numpy.zeros(3, "float32")), TypeError, "clip: the first operand"),
    (lambda x: tr.clip(x, "a"), ValueError, "clip: expected numbers, one of which may be None, or arrays"),
    (lambda x: tr.max_pool2d(x.reshape(1, 2, 3, 1), 2, padding=2), ValueError, "padding 2 must be at most"),
    (lambda x: tr.max_pool2d(x.reshape(1, 2, 3, 1), 2, stride=0), ValueError, "max_pool2d: stride 0 must be"),
    (lambda x: tr.avg_pool2d(x.reshape(1, 2, 3, 1), (1, 4)), ValueError, r"size \(1, 4\) must be"),
    (lambda x: tr.pad(x, -1), ValueError, "pad: expected a"),
])
def test_what_does_not_fit_an_extra_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call(random(numpy, 2, 3))
