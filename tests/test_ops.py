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


def test_relu_lets_nan_through(xp):
    assert numpy.isnan(tr.relu(tr.Tensor(xp.array([numpy.nan]))).numpy()).all()


@pytest.mark.parametrize("shape", [(6, 4), (24,), (2, -1), 24, (2, 3, 4), numpy.array([4, 6]),
                                   numpy.int64(24)])
def test_reshape(xp, shape):
    x = random(xp, 2, 3, 4)
    check(lambda x: tr.reshape(x, shape), x.numpy().reshape(shape), x)


def test_reshape_to_another_size_is_refused(xp):
    with pytest.raises(ValueError, match=r"\(2, 3\) holds 6 values"):
        tr.reshape(random(xp, 2, 3), (4,))


@pytest.mark.parametrize("axes", [None, (0, 1, 2), (2, 0, 1), (1, -1, 0)])
def test_transpose(xp, axes):
    x = random(xp, 2, 3, 4)
    check(lambda x: tr.transpose(x, axes), numpy.transpose(x.numpy(), axes), x)


@pytest.mark.parametrize("axes", [(0, 1), (0, 0, 1), (0, 1, 3)])
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
