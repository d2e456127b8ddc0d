"""Convolution and its gradients against seven loops; what shapes, strides and dtypes it refuses."""
import contextlib
import itertools

import numpy
import pytest

import tinyres as tr
from tinyres import conv
from tinyres.fast.cpu import winograd_rows


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


@pytest.mark.parametrize("size", [(5, 7), (6, 4), (1, 1)])
@pytest.mark.parametrize("kernel", [(1, 1), (2, 2), (3, 3), (5, 5), (3, 1), (2, 4)])
@pytest.mark.parametrize("stride", [1, 2, 3, (1, 2)])
@pytest.mark.parametrize("padding", [0, 1, 2, (0, 2)])
def test_forward_and_both_gradients(xp, size, kernel, stride, padding):
    """The definition against loops and difference quotients, and the variant that is chosen against both."""
    x, w = random(xp, 2, *size, 2), random(xp, *kernel, 2, 3, seed=1)
    gradients = []
    stride_pair = (stride, stride) if isinstance(stride, int) else stride
    padding_pair = (padding, padding) if isinstance(padding, int) else padding
    if any(side + 2 * p < k for side, p, k in zip(size, padding_pair, kernel, strict=True)):
        for context in tr.kernel.plain(), contextlib.nullcontext():
            with context, pytest.raises(ValueError, match="does not fit an image"):
                tr.conv2d(x, w, stride, padding)
        return
    expected = naive(x.numpy(), w.numpy(), stride_pair, padding_pair)
    cotangent = random(xp, *expected.shape, seed=2).data
    for context in tr.kernel.plain(), contextlib.nullcontext():
        with context:
            out = tr.conv2d(x, w, stride, padding)
            x.grad = w.grad = None
            out.backward(cotangent)
        numpy.testing.assert_allclose(out.numpy(), expected, rtol=1e-12, atol=1e-13)
        gradients.append([tr.backend.to_numpy(tensor.grad) for tensor in (x, w)])
    for plain, chosen in zip(*gradients, strict=True):
        numpy.testing.assert_allclose(chosen, plain, rtol=1e-12, atol=1e-13)
    with tr.kernel.plain():
        assert tr.gradcheck(lambda x, w: tr.conv2d(x, w, stride, padding), x, w) < 1e-6


@pytest.mark.parametrize("padding", [0, 1])
def test_no_gradient_work_for_an_operand_that_needs_none(xp, monkeypatch, padding):
    x, w, calls = random(xp, 1, 4, 4, 2), random(xp, 3, 3, 2, 2), []
    x.requires_grad = False
    windows = conv._windows
    monkeypatch.setattr(conv, "_windows", lambda *arguments: calls.append(arguments) or windows(*arguments))
    monkeypatch.delattr(winograd_rows, "rotate_180")  # calling it would now be a NameError
    for context, windows_made in (contextlib.nullcontext(), 0), (tr.kernel.plain(), 1):
        with context:
            out = tr.sum(tr.conv2d(x, w, padding=padding))
            calls.clear()
            out.backward()
        # the definition makes windows once for each gradient; variants ask it for the gradient of x alone
        assert len(calls) == windows_made and x.grad is None and w.grad is not None


def test_float32_stays_float32(xp):
    x = tr.Tensor(xp.ones((1, 3, 3, 1), "float32"), requires_grad=True)
    w = tr.Tensor(xp.ones((3, 3, 1, 1), "float32"), requires_grad=True)
    out = tr.conv2d(x, w, 1, 1)
    tr.sum(out).backward()
    assert out.dtype == x.grad.dtype == w.grad.dtype == "float32"


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
    with pytest.raises(ValueError, match="conv2d: (stride|padding) .* must be an integer"):
        tr.conv2d(random(xp, 1, 4, 4, 2), random(xp, 3, 3, 2, 2), **options)


def test_mixed_dtypes(xp):
    with pytest.raises(TypeError, match="conv2d: .* float32"):
        tr.conv2d(random(xp, 1, 4, 4, 2), tr.Tensor(xp.zeros((3, 3, 2, 2), "float32")))
