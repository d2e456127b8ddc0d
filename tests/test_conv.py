import itertools

import numpy
import pytest

import tinyres as tr
from tinyres import conv
from tinyres.conv import im2col, neighbours, sliced, winograd


def random(xp, *shape, seed=0):
    return tr.Tensor(xp.asarray(numpy.random.default_rng(seed).standard_normal(shape)), requires_grad=True)


def naive(x, w, stride, padding):
    """Convolution from its definition: seven loops, one of them inside numpy.dot."""
    N, H, W, C = x.shape
    KH, KW, _, O = w.shape  # noqa: E741
    padded = numpy.zeros((N, H + 2 * padding[0], W + 2 * padding[1], C))
    padded[:, padding[0]:padding[0] + H, padding[1]:padding[1] + W] = x
    OH, OW = (padded.shape[1] - KH) // stride[0] + 1, (padded.shape[2] - KW) // stride[1] + 1
    out = numpy.zeros((N, OH, OW, O))
    for n, i, j, o in itertools.product(range(N), range(OH), range(OW), range(O)):
        for a, b in itertools.product(range(KH), range(KW)):
            out[n, i, j, o] += numpy.dot(padded[n, i * stride[0] + a, j * stride[1] + b], w[a, b, :, o])
    return out


@pytest.fixture(params=["fast", "im2col"])
def path(request, monkeypatch):
    """The convolution as it is chosen, and the reference alone."""
    if request.param == "im2col":
        monkeypatch.setattr(conv, "FAST_PATHS", ())


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("size", [(5, 7), (6, 4), (1, 1)])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (5, 5), (3, 1), (2, 4)])
@pytest.mark.parametrize("stride", [1, 2, 3, (1, 2)])
@pytest.mark.parametrize("padding", [0, 1, 2, (0, 2)])
def test_forward_and_both_gradients(xp, size, kernel, stride, padding):
    x, w = random(xp, 2, *size, 3), random(xp, *kernel, 3, 2, seed=1)
    stride_pair = (stride, stride) if isinstance(stride, int) else stride
    padding_pair = (padding, padding) if isinstance(padding, int) else padding
    if any(side + 2 * p < k for side, p, k in zip(size, padding_pair, kernel, strict=True)):
        with pytest.raises(ValueError, match="does not fit an image"):
            tr.conv2d(x, w, stride, padding)
        return
    expected = naive(x.numpy(), w.numpy(), stride_pair, padding_pair)
    numpy.testing.assert_allclose(tr.conv2d(x, w, stride, padding).numpy(), expected, rtol=1e-12, atol=1e-13)
    assert tr.gradcheck(lambda x, w: tr.conv2d(x, w, stride, padding), x, w) < 1e-6


@pytest.mark.parametrize("budget", [1, 1000, 5000])
def test_any_budget_for_the_columns_gives_the_same(xp, monkeypatch, budget):
    x, w = random(xp, 3, 6, 5, 2), random(xp, 3, 3, 2, 4, seed=1)
    g = random(xp, 3, 3, 3, 4, seed=2).data
    whole = tr.conv2d(x, w, 2, 1)
    whole.backward(g)
    gradients = x.grad, w.grad
    monkeypatch.setattr(im2col, "COLUMN_BYTES", budget)
    parts = tr.conv2d(x, w, 2, 1)
    parts.backward(g)
    numpy.testing.assert_allclose(parts.numpy(), whole.numpy(), rtol=1e-13)
    for part, gradient in zip((x.grad, w.grad), gradients, strict=True):
        xp.testing.assert_allclose(part, gradient, rtol=1e-12)


@pytest.mark.parametrize("shape", [(7, 32, 32, 16), (2, 300, 300, 16)])
def test_the_columns_stay_within_the_budget(xp, shape):
    windows = im2col._windows(xp.zeros(shape, "float32"), (3, 3, shape[3], 4), (1, 1))
    sizes = [windows[part].size * 4 for part in im2col._slices(windows)]
    assert max(sizes) <= im2col.COLUMN_BYTES and sum(sizes) == windows.size * 4


@pytest.mark.parametrize("padding", [0, 1])
def test_no_gradient_work_for_an_operand_that_needs_none(xp, monkeypatch, padding):
    x, w = random(xp, 1, 4, 4, 2), random(xp, 3, 3, 2, 2)
    x.requires_grad = False
    monkeypatch.delattr(im2col, "grad_input")  # calling them would now be an AttributeError
    monkeypatch.delattr(neighbours, "turned")
    tr.sum(tr.conv2d(x, w, padding=padding)).backward()
    assert x.grad is None and w.grad is not None


def test_float32_stays_float32(xp):
    x = tr.Tensor(xp.ones((1, 3, 3, 1), "float32"), requires_grad=True)
    w = tr.Tensor(xp.ones((3, 3, 1, 1), "float32"), requires_grad=True)
    out = tr.conv2d(x, w, 1, 1)
    tr.sum(out).backward()
    assert out.dtype == x.grad.dtype == w.grad.dtype == "float32"


def test_float16_images_with_a_float32_kernel(xp):
    x, w = random(xp, 2, 6, 6, 4), random(xp, 3, 3, 4, 4, seed=1)
    half, master = tr.Tensor(x.data.astype("float16"), True), tr.Tensor(w.data.astype("float32"), True)
    out, expected = tr.conv2d(half, master, 1, 1), tr.conv2d(x, w, 1, 1)
    g = random(xp, *out.shape, seed=2).data
    out.backward(g.astype("float16"))
    expected.backward(g)
    assert (out.dtype, half.grad.dtype, master.grad.dtype) == ("float16", "float16", "float32")
    for ours, exact in ((out.data, expected.data), (half.grad, x.grad), (master.grad, w.grad)):
        assert abs(ours - exact).max() < 0.01 * abs(exact).max()


def test_an_empty_batch(xp):
    x, w = tr.Tensor(xp.zeros((0, 4, 4, 2)), True), random(xp, 3, 3, 2, 2)
    out = tr.conv2d(x, w)
    out.backward(xp.zeros((0, 2, 2, 2)))
    assert out.shape == (0, 2, 2, 2) and not w.grad.any()


@pytest.mark.parametrize("x, w", [((1, 4, 4, 2), (3, 3, 3, 2)), ((4, 4, 2), (3, 3, 2, 2)),
                                  ((1, 4, 4, 2), (3, 3, 2))])
def test_shapes_that_do_not_fit(xp, x, w):
    with pytest.raises(ValueError, match=r"expected \(N, H, W, C\) and \(KH, KW, C, O\)"):
        tr.conv2d(random(xp, *x), random(xp, *w))


@pytest.mark.parametrize("options", [dict(stride=0), dict(stride=1.5), dict(padding=-1),
                                     dict(stride=(1, 2, 3))])
def test_wrong_stride_and_padding(xp, options):
    with pytest.raises(ValueError, match="must be a whole number"):
        tr.conv2d(random(xp, 1, 4, 4, 2), random(xp, 3, 3, 2, 2), **options)


def test_mixed_dtypes(xp):
    with pytest.raises(TypeError, match="conv2d: .* float32"):
        tr.conv2d(random(xp, 1, 4, 4, 2), tr.Tensor(xp.zeros((3, 3, 2, 2), "float32")))


@pytest.mark.parametrize("stride, padding", [((2, 2), (1, 1)), ((1, 2), (0, 1))])
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_sliced_against_im2col(monkeypatch, stride, padding, wanted):
    monkeypatch.setattr(sliced, "SLICE_BYTES", 5000)
    rng = numpy.random.default_rng(0)
    x, w = rng.standard_normal((5, 6, 7, 3)), rng.standard_normal((3, 2, 3, 4))
    out = sliced.forward(x, w, stride, padding)
    numpy.testing.assert_allclose(out, im2col.forward(x, w, stride, padding), rtol=1e-12, atol=1e-12)
    assert len(list(sliced.slices(out, w, sliced.SLICE_BYTES))) > 1
    ours, reference = (method.gradients(out, x, w, stride, padding, wanted) for method in (sliced, im2col))
    for gradient, expected, want in zip(ours, reference, wanted, strict=True):
        assert (gradient is not None) == want
        if want:
            numpy.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (11, 8, 4, 1), (1, 12, 8, 2), (0, 4, 4, 1)])
@pytest.mark.parametrize("groups", [1, winograd.GROUPS])
@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_winograd_against_im2col(monkeypatch, shape, groups, wanted):
    monkeypatch.setattr(winograd, "GROUPS", groups)
    rng = numpy.random.default_rng(0)
    x, w, g = (rng.standard_normal(s) for s in (shape, (3, 3, shape[3], 5), (*shape[:3], 5)))
    one = (1, 1)
    numpy.testing.assert_allclose(winograd.forward(x, w, one, one), im2col.forward(x, w, one, one),
                                  rtol=1e-11, atol=1e-11)
    ours, reference = (method.gradients(g, x, w, one, one, wanted) for method in (winograd, im2col))
    for gradient, expected in zip(ours, reference, strict=True):
        if expected is None:
            assert gradient is None
        else:
            numpy.testing.assert_allclose(gradient, expected, rtol=1e-11, atol=1e-11)


def test_winograd_is_as_precise_as_it_says():
    rng = numpy.random.default_rng(0)
    x, w = rng.standard_normal((2, 8, 8, 128)), rng.standard_normal((3, 3, 128, 128)) / (3 * 128**0.5)
    exact = im2col.forward(x, w, (1, 1), (1, 1))
    out = winograd.forward(x.astype("float32"), w.astype("float32"))
    assert out.dtype == "float32" and abs(out - exact).max() < 2e-4


def test_the_fast_paths_are_taken_where_they_apply():
    def method(H, C, O, kernel=3, stride=1, padding=1, dtype="float32"):  # noqa: E741
        x, w = numpy.zeros((1, H, H, C), dtype), numpy.zeros((kernel, kernel, C, O), dtype)
        return next((m for m in conv.FAST_PATHS if m.applies(x, w, (stride,) * 2, (padding,) * 2)), im2col)

    assert method(8, 128, 256) is winograd
    assert method(8, 16, 256) is method(8, 256, 16) is method(7, 256, 256) is neighbours
    assert method(8, 256, 256, stride=2) is method(8, 256, 256, padding=0) is sliced
    assert method(8, 256, 256, kernel=5) is sliced
    assert method(8, 128, 256, dtype="float16") is neighbours


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (3, 4, 4, 1), (1, 1, 1, 2), (2, 1, 5, 2), (2, 5, 1, 2),
                                   (7, 8, 8, 4)])
@pytest.mark.parametrize("budget", [1, 2000, neighbours.SLICE_BYTES])
def test_neighbours_against_im2col(monkeypatch, shape, budget):
    monkeypatch.setattr(neighbours, "SLICE_BYTES", budget)
    rng = numpy.random.default_rng(0)
    x, w, g = (rng.standard_normal(s) for s in (shape, (3, 3, shape[3], 5), (*shape[:3], 5)))
    one = (1, 1)
    numpy.testing.assert_allclose(neighbours.forward(x, w), im2col.forward(x, w, one, one), rtol=1e-12,
                                  atol=1e-12)
    for wanted in (True, True), (True, False), (False, True):
        ours, reference = (method.gradients(g, x, w, one, one, wanted) for method in (neighbours, im2col))
        for gradient, expected in zip(ours, reference, strict=True):
            assert (gradient is None) == (expected is None)
            if expected is not None:
                numpy.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-12)
