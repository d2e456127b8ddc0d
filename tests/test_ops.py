import numpy
import pytest
from support.checking import POOLED, check, check_pooling, random

import tinyres as tr


def test_astype_rounds_and_converts_the_gradient_back(xp):
    x = tr.Tensor(xp.asarray([1.0, 1 / 3, 65_504.0], "float64"), requires_grad=True)
    half = tr.astype(x, "float16")
    half.backward(xp.asarray([1, 2, 3], "float16"))
    assert half.numpy().tolist() == [1.0, float(numpy.float16(1 / 3)), 65_504.0]
    assert x.grad.dtype == "float64" and x.grad.tolist() == [1.0, 2.0, 3.0]
    with pytest.raises(TypeError, match="expected float16, float32 or float64, got int32"):
        tr.astype(x, "int32")


def test_exp_and_log(xp):
    x = random(xp, 3, 4)
    check(tr.exp, numpy.exp(x.numpy()), x)
    positive = tr.Tensor(xp.exp(x.data), requires_grad=True)
    check(tr.log, numpy.log(positive.numpy()), positive)


def test_relu(xp):
    x = random(xp, 5, 6)
    check(tr.relu, numpy.where(x.numpy() > 0, x.numpy(), 0), x)


def test_relu_has_derivative_zero_at_zero(xp):
    x = tr.Tensor(xp.array([-1.0, 0.0, 2.0]), requires_grad=True)
    tr.sum(tr.relu(x)).backward()
    assert x.grad.tolist() == [0, 0, 1]


@pytest.mark.parametrize("g", [numpy.inf, -numpy.inf, numpy.nan])
@pytest.mark.parametrize("size", [4, 2**19])
def test_relus_gradient_is_zero_where_x_is_not_positive_whatever_g_is(xp, g, size):
    """Whichever variant computes it: a small array, and one large enough for several threads."""
    x = tr.Tensor(xp.asarray(numpy.resize(numpy.array([-1, 0, 2], "float32"), (size, 3))), requires_grad=True)
    tr.relu(x).backward(xp.full((size, 3), g, "float32"))
    assert not x.grad[:, :2].any()
    numpy.testing.assert_array_equal(tr.backend.to_numpy(x.grad[:, 2]), numpy.full(size, g))


def test_derivatives_at_nan_are_those_of_pytorch_or_the_docstring_says_why_not(xp):
    def gradients(fn, *values):
        tensors = [tr.Tensor(xp.array(value), requires_grad=True) for value in values]
        fn(*tensors).sum().backward()
        return [x.grad.tolist() for x in tensors]

    nan = numpy.nan
    assert gradients(tr.abs, [nan, -1.0]) == [[0, -1]]
    assert gradients(tr.maximum, [nan, 1.0, nan, 2.0], [1.0, nan, nan, 2.0]) == [[1, 1, 1, 0.5]] * 2
    assert gradients(tr.minimum, [nan, 1.0, nan, 2.0], [1.0, nan, nan, 2.0]) == [[1, 1, 1, 0.5]] * 2
    assert gradients(lambda x: tr.clip(x, 0, 2), [nan, 1.0]) == [[0, 1]]
    for fn in tr.max, tr.min:
        assert gradients(fn, [nan, 1.0, nan]) == [[0.5, 0, 0.5]]
    assert gradients(tr.relu, [nan, 1.0]) == [[0, 1]] and "at nan, where PyTorch's is 1" in tr.relu.__doc__


def test_relu_lets_nan_through(xp):
    assert numpy.isnan(tr.relu(tr.Tensor(xp.array([numpy.nan]))).numpy()).all()


@pytest.mark.parametrize("shape", [(6, 4), (24,), (2, -1), 24, (2, 3, 4), numpy.array([4, 6]),
                                   numpy.int64(24)])
def test_reshape(xp, shape):
    x = random(xp, 2, 3, 4)
    check(lambda x: tr.reshape(x, shape), x.numpy().reshape(shape), x)


@pytest.mark.parametrize("shape", [(4,), (-2, 3), (-1, -1)])
def test_reshape_to_another_size_is_refused(xp, shape):
    with pytest.raises(ValueError, match=r"\(2, 3\) holds 6 values"):
        tr.reshape(random(xp, 2, 3), shape)


@pytest.mark.parametrize("axes", [None, (0, 1, 2), (2, 0, 1), (1, -1, 0)])
def test_transpose(xp, axes):
    x = random(xp, 2, 3, 4)
    check(lambda x: tr.transpose(x, axes), numpy.transpose(x.numpy(), axes), x)


@pytest.mark.parametrize("axes", [(0, 1), (0, 0, 1), (0, 1, 3), (2, 1), (5, 1, 0), (0, 1, -4), (0, 1, -1, 2)])
def test_transpose_by_no_permutation_is_refused(xp, axes):
    with pytest.raises(ValueError, match="not a permutation of the 3 axes"):
        tr.transpose(random(xp, 2, 3, 4), axes)


def test_pad(xp):
    x = random(xp, 2, 3)
    check(lambda x: tr.pad(x, [(1, 0), (2, 3)]), numpy.pad(x.numpy(), [(1, 0), (2, 3)]), x)


def test_pad_of_one_number(xp):
    x = random(xp)
    check(lambda x: tr.pad(x, []), x.numpy(), x)


@pytest.mark.parametrize("pad_width", [[(1, 1)], [(1, 1), (-1, 0)], [(1,), (1,)]])
def test_pad_by_what_does_not_fit_is_refused(xp, pad_width):
    with pytest.raises(ValueError, match="pad: expected a"):
        tr.pad(random(xp, 2, 3), pad_width)


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (), (0, 1, 2)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_sum_and_mean(xp, axis, keepdims):
    x = random(xp, 2, 3, 4)
    check(lambda x: tr.sum(x, axis, keepdims), x.numpy().sum(axis, keepdims=keepdims), x)
    check(lambda x: tr.mean(x, axis, keepdims), x.numpy().mean(axis, keepdims=keepdims), x)


def test_sum_of_one_number(xp):
    x = random(xp)
    check(tr.sum, x.numpy(), x)


def test_mean_of_nothing_is_refused(xp):
    with pytest.raises(ValueError, match="no elements"):
        tr.mean(tr.Tensor(xp.zeros((0, 2))))


@pytest.mark.parametrize("shape, size", POOLED)
def test_avg_pool2d_against_a_loop(xp, shape, size):
    check_pooling(tr.avg_pool2d, lambda window: window.sum(axis=(1, 2)) / size**2, random(xp, *shape), size)


@pytest.mark.parametrize("size", [0, 5, 1.5])
def test_avg_pool2d_by_a_wrong_size_is_refused(xp, size):
    with pytest.raises(ValueError, match="avg_pool2d: size"):
        tr.avg_pool2d(random(xp, 1, 4, 4, 1), size)


def test_pooling_needs_four_axes(xp):
    for fn in tr.global_avg_pool2d, lambda x: tr.avg_pool2d(x, 2):
        with pytest.raises(ValueError, match=r"\(N, H, W, C\), got \(4, 4\)"):
            fn(random(xp, 4, 4))


def test_global_avg_pool2d(xp):
    x = random(xp, 2, 3, 5, 4)
    check(tr.global_avg_pool2d, x.numpy().mean(axis=(1, 2)), x)


def test_softmax_cross_entropy_against_a_loop(xp):
    logits, labels = random(xp, 5, 3), numpy.array([0, 2, 1, 1, 0])
    rows = logits.numpy()
    total = 0.0
    for row, label in zip(rows, labels, strict=True):
        total -= numpy.log(numpy.exp(row[label]) / sum(numpy.exp(value) for value in row))
    check(lambda x: tr.softmax_cross_entropy(x, xp.asarray(labels)), total / 5, logits)


def test_softmax_cross_entropy_of_huge_logits_is_finite(xp):
    logits = tr.Tensor(xp.array([[1e4, 0.0, -1e4]], "float32"), requires_grad=True)
    loss = tr.softmax_cross_entropy(logits, xp.array([1]))
    loss.backward()
    assert loss.item() == 1e4 and logits.grad.tolist() == [[1, -1, 0]]


def test_softmax_cross_entropy_refuses_labels_of_the_wrong_kind(xp):
    logits = random(xp, 2, 3)
    with pytest.raises(TypeError, match="float64"):
        tr.softmax_cross_entropy(logits, xp.zeros(2))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3,\)"):
        tr.softmax_cross_entropy(logits, xp.zeros(3, int))
    with pytest.raises(ValueError, match=r"\(0, 3\) and \(0,\)"):
        tr.softmax_cross_entropy(tr.Tensor(xp.zeros((0, 3))), xp.zeros(0, int))


@pytest.mark.parametrize("label", [-1, 3])
def test_softmax_cross_entropy_refuses_labels_out_of_range(label):
    with pytest.raises(ValueError, match=f"{label}.*expected 0 to 2"):
        tr.softmax_cross_entropy(tr.Tensor(numpy.zeros((1, 3))), numpy.array([label]))


@pytest.mark.parametrize("fn", [tr.exp, tr.log, tr.relu, tr.sum, tr.mean, tr.global_avg_pool2d])
def test_arrays_are_not_taken_for_tensors(fn):
    with pytest.raises(TypeError, match="expected a Tensor, got ndarray"):
        fn(numpy.ones((1, 2, 2, 1)))

def constant(xp, shape, value, dtype="float32"):
    return tr.Tensor(xp.full(shape, value, dtype), requires_grad=True)


@pytest.mark.parametrize("fn, shape, value, dtype, expected", [
    (tr.mean, (10_000,), 10, "float16", 10), (lambda x: tr.mean(x, 0), (10_000, 2), 10, "float16", 10),
    (lambda x: tr.mean(x, 0), (10**6, 2), 0.1, "float32", 0.1),
    (lambda x: tr.mean(x, (0, 2)), (2, 3, 10**6), 0.1, "float32", 0.1),
    (lambda x: tr.sum(x, 1), (2, 10**6, 3), 0.1, "float32", 1e5),
    (lambda x: tr.sum(x, 0), (10**6, 3), 0.1, "float64", 1e5),
    (lambda x: tr.sum(x[:, :2]), (10**6, 3), 0.1, "float32", 2e5),
    (lambda x: tr.sum(x.T), (10**6, 2), 0.1, "float32", 2e5),
    (lambda x: tr.sum(x, 0), (4096, 2), 1, "float16", 4096),
    (tr.global_avg_pool2d, (1, 1000, 1000, 2), 0.1, "float32", 0.1),
    (tr.global_avg_pool2d, (1, 100, 100, 2), 10, "float16", 10),
    (lambda x: tr.avg_pool2d(x, 300), (1, 300, 300, 2), 0.1, "float32", 0.1),
    (lambda x: tr.avg_pool2d(x, 100), (1, 100, 100, 2), 10, "float16", 10),
    (lambda x: tr.softmax(x, 0) * 1e6, (10**6, 2), 0.1, "float32", 1),
    (lambda x: tr.log_softmax(x, 0), (10**6, 2), 0, "float32", -numpy.log(1e6)),
    (lambda x: tr.softmax(x), (10_000,), 0, "float16", 1e-4),
])
def test_sums_keep_their_accuracy_in_every_dtype_and_along_every_axis(xp, fn, shape, value, dtype, expected):
    tolerance = {"float16": 2e-3, "float32": 2e-6, "float64": 1e-13}[dtype]
    out = fn(constant(xp, shape, value, dtype))
    assert out.dtype == dtype
    numpy.testing.assert_allclose(out.numpy().astype("float64"), expected, rtol=tolerance)


def test_the_loss_of_many_classes_keeps_its_accuracy(xp):
    logits = xp.full((1, 10**6), -10, "float32")
    logits[0, 0] = 0
    loss = tr.softmax_cross_entropy(tr.Tensor(logits), xp.zeros(1, int))
    assert loss.item() == pytest.approx(numpy.log1p((10**6 - 1) * numpy.exp(-10)), rel=1e-6)


@pytest.mark.parametrize("shape, dtype, expected", [
    ((32, 32, 32, 8), "float16", 327.68), ((256, 112, 112, 2), "float32", 32112.64)])
def test_gradients_of_a_bias_keep_their_accuracy(xp, shape, dtype, expected):
    bias = constant(xp, shape[-1], 0, dtype)
    (tr.Tensor(xp.zeros(shape, dtype)) + bias).backward(xp.full(shape, 0.01, dtype))
    tolerance = 1e-3 if dtype == "float16" else 1e-5
    numpy.testing.assert_allclose(tr.backend.to_numpy(bias.grad), expected, rtol=tolerance)


def test_gradients_of_a_value_taken_often_keep_their_accuracy(xp):
    for dtype, count in ("float16", 4096), ("float32", 10**6):
        x = constant(xp, 2, 0, dtype)
        (x[xp.zeros(count, int)] * 0.25).sum().backward()
        assert x.grad.tolist() == [count / 4, 0]
        x = constant(xp, 2, 0, dtype)
        x[xp.zeros(count, int)].backward(xp.full(count, 0.1, dtype))
        assert float(x.grad[0]) == pytest.approx(count / 10, rel=1e-3 if dtype == "float16" else 1e-6)


def test_float16_is_scaled_in_float32(xp):
    x = constant(xp, 10**6, 1, "float16")
    tr.mean(x).backward(xp.asarray(1024, "float16"))
    numpy.testing.assert_allclose(tr.backend.to_numpy(x.grad[:2]).astype(float), 1024e-6, rtol=1e-3)
    x = tr.Tensor(xp.asarray([0, 600, 0, 600], "float16"), requires_grad=True)
    out = tr.std(x, correction=0)
    out.backward()
    assert out.dtype == x.grad.dtype == "float16" and out.item() == 300
    assert x.grad.tolist() == [-0.25, 0.25, -0.25, 0.25]


def test_short_sums_are_numpys_own_to_the_bit(xp):
    x = random(xp, 4, 8, 8, 6).astype("float32")
    assert (tr.global_avg_pool2d(x).data == x.data.sum(axis=(1, 2)) * (1 / 64)).all()
    assert (tr.sum(x[0], (0, 1)).data == x.data[0].sum(axis=(0, 1))).all()


@pytest.mark.parametrize("fn", [
    lambda x: tr.sum(x * 1e38), lambda x: tr.exp(x * 100), lambda x: tr.log(x - 10), lambda x: tr.log(x * 0),
    lambda x: 1 / (x * 0), lambda x: tr.sqrt(x * 0), lambda x: x * 1e30 * 1e30, lambda x: (x * 1e30) ** 2,
    lambda x: (x * 0) ** -1, lambda x: tr.astype(x * 1e30, "float16"),
    lambda x: x.reshape(2, 2) * 1e30 @ (x.reshape(2, 2) * 1e30),
    lambda x: tr.conv2d(x.reshape(1, 2, 2, 1) * 1e30, x.reshape(2, 2, 1, 1) * 1e30)])
def test_numpys_warnings_do_not_reach_the_user(fn):
    """pyproject.toml makes errors of warnings. Who asks NumPy for errors gets them."""
    x = constant(numpy, 4, 8)
    out = fn(x)
    out.backward(numpy.ones(out.shape, out.dtype))
    with pytest.raises(FloatingPointError), numpy.errstate(all="raise"):
        fn(x).backward(numpy.ones(out.shape, out.dtype))


def test_gradients_and_steps_that_overflow_do_not_warn_either(xp):
    w = constant(xp, 2, 1)
    (w * 1e38 * 3 + w * 3e38).sum().backward()  # of a value that is used twice
    (w * -3e38 * 10).sum().backward()  # of two losses: inf - inf
    assert numpy.isnan(tr.backend.to_numpy(w.grad)).all()
    w.grad = xp.full(2, 3e38, "float32")
    tr.optim.SGD([w], lr=1e3).step()
    assert numpy.isinf(w.numpy()).all()


def test_the_mean_over_pixels_of_no_images_is_empty(xp):
    for fn in tr.global_avg_pool2d, lambda x: tr.max(x, (1, 2)), lambda x: tr.mean(x, (1, 2)):
        x = constant(xp, (0, 2, 2, 3), 0)
        out = fn(x)
        out.backward(xp.zeros((0, 3), "float32"))
        assert out.shape == (0, 3) and x.grad.shape == x.shape
