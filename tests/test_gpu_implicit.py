"""Implicit GEMM on a GPU against the textbook's convolution, computed by NumPy in float64."""
from __future__ import annotations

import numpy
import pytest
from support.checking import convolution_of

import tinyres as tr
from tinyres import nn
from tinyres.conv import convolution_gradients, convolve, output_size
from tinyres.fast.gpu import capture, implicit, precision
from tinyres.training import loss_and_error, training_step

needs_gpu = pytest.mark.skipif(not tr.backend.gpu_available(),
                              reason=f"no GPU here: {tr.backend.why_no_gpu()}")
# largest difference over largest value: of float32 sums of exact products; of results in float16
TOLERANCE = {"float32": 1e-4, "float16": 1e-3}
# N, H, W, C, O, stride: with pixels and channels that fill less than a tile, or more than one
SHAPES = [(1, 5, 7, 16, 32, 1), (3, 9, 6, 64, 48, 1), (2, 8, 9, 32, 128, 1), (1, 13, 21, 128, 16, 1),
          (1, 1, 1, 16, 16, 1), (3, 2, 1, 48, 64, 1), (2, 3, 50, 24, 8, 1), (1, 6, 4, 128, 256, 1),
          (1, 7, 9, 32, 64, 2), (3, 8, 8, 64, 128, 2), (1, 1, 2, 16, 48, 2), (2, 14, 5, 8, 16, 2)]


@pytest.fixture(params=["float32", "float16"])
def dtype(request):
    """A dtype for which implicit GEMM is switched on; float32 is multiplied as TF32."""
    tr.backend.use("cupy")
    precision.use("tf32")
    implicit.use(True)
    yield request.param
    implicit.use(False)
    precision.use("float32")
    tr.backend.use("numpy")


@pytest.fixture
def many_parts(monkeypatch):
    """Kernel gradients in many parts, although there are few pixels."""
    monkeypatch.setattr(implicit, "MIN_PIXELS", 16)


def random(dtype, *shape, seed=0):
    """Normally distributed numbers; those of float32 have 10 bits after the point, like TF32."""
    x = numpy.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return rounded(x) if dtype == "float32" else x


def rounded(x):
    return ((x.view("uint32") + 0x1000) & 0xFFFFE000).view("float32")


def operands(dtype, N, H, W, C, O, stride):  # noqa: E741
    x, w = random(dtype, N, H, W, C), random(dtype, 3, 3, C, O, seed=1)
    g = random(dtype, N, *output_size(x.shape, w.shape, (stride, stride), (1, 1)), O, seed=2)
    return g, x, w, (stride, stride), (1, 1)


def on_gpu(*arguments):
    import cupy
    return tuple(cupy.asarray(a) if isinstance(a, numpy.ndarray) else a for a in arguments)


def in_float64(*arguments):
    return tuple(a.astype("float64") if isinstance(a, numpy.ndarray) else a for a in arguments)


def check(got, expected, dtype):
    assert got.dtype == dtype and got.shape == expected.shape and got.flags.c_contiguous
    assert abs(got.get() - expected).max() <= TOLERANCE[dtype] * abs(expected).max()


@needs_gpu
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("multiprocessors", [1, 132])  # few enough for wide tiles and undivided sums, or not
@pytest.mark.usefixtures("many_parts")
def test_against_the_definition(monkeypatch, dtype, shape, multiprocessors):
    monkeypatch.setattr(implicit, "MULTIPROCESSORS", multiprocessors)
    g, *rest = operands(dtype, *shape)
    assert convolve.choose(*on_gpu(*rest)) is implicit.convolve_implicit
    check(convolve(*on_gpu(*rest)), convolve.definition(*in_float64(*rest)), dtype)
    for needs_grad in (True, True), (True, False), (False, True):
        arguments = g, *rest, needs_grad
        assert convolution_gradients.choose(*on_gpu(*arguments)) is implicit.gradients_implicit
        expected = convolution_gradients.definition(*in_float64(*arguments))
        for gradient, other in zip(convolution_gradients(*on_gpu(*arguments)), expected, strict=True):
            assert (gradient is None) == (other is None)
            if other is not None:
                check(gradient, other, dtype)


@needs_gpu
@pytest.mark.parametrize("shape", [(3, 9, 6, 64, 48, 1), (1, 7, 9, 32, 64, 2)])
@pytest.mark.usefixtures("many_parts")
def test_the_same_bytes_every_time(dtype, shape):
    g, *rest = on_gpu(*operands(dtype, *shape))
    first, second = ([convolve(*rest), *convolution_gradients(g, *rest, (True, True))] for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert a.get().tobytes() == b.get().tobytes()


@needs_gpu
@pytest.mark.parametrize("dtype", ["float32"], indirect=True)
def test_float32_is_rounded_to_the_nearest_tf32(dtype):
    g, x, w, *settings = operands(dtype, 1, 6, 5, 64, 64, 1)
    between = [(abs(array).view("uint32") + 0x1800).view("float32") for array in (g, x, w)]
    exact = [rounded(array) for array in between]
    assert all((a > b).all() for a, b in zip(exact, between, strict=True))  # cut off, they would be smaller
    for got, expected in zip((convolve(*on_gpu(*between[1:], *settings)),
                              *convolution_gradients(*on_gpu(*between, *settings), (True, True))),
                             (convolve.definition(*in_float64(*exact[1:], *settings)),
                              *convolution_gradients.definition(*in_float64(*exact, *settings),
                                                                (True, True))), strict=True):
        check(got, expected, dtype)


@needs_gpu
def test_values_that_are_not_finite_reach_only_their_windows(dtype):
    g, x, w, *settings = operands(dtype, 2, 9, 8, 24, 24, 1)  # tiles reach beyond the 9 x 24 columns
    for array in g, x:
        array[0, 4, 3, 5], array[1, 0, 0, 0] = numpy.inf, numpy.nan
    with numpy.errstate(invalid="ignore"):
        expected = (convolve.definition(*in_float64(x, w, *settings)),
                    *convolution_gradients.definition(*in_float64(g, x, w, *settings), (True, True)))
    got = (convolve(*on_gpu(x, w, *settings)),
           *convolution_gradients(*on_gpu(g, x, w, *settings), (True, True)))
    for result, other in zip(got, expected, strict=True):
        finite = numpy.isfinite(other)
        assert (numpy.isfinite(result.get()) == finite).all() and not finite.all()


@needs_gpu
@pytest.mark.parametrize("offset", [1, 2, 3, 4, 8])
def test_views_that_start_anywhere_and_have_gaps(dtype, offset):
    g, x, w, *settings = operands(dtype, 2, 5, 6, 16, 32, 1)
    expected = (convolve.definition(*in_float64(x, w, *settings)),
                *convolution_gradients.definition(*in_float64(g, x, w, *settings), (True, True)))

    def shifted(array):
        import cupy
        memory = cupy.empty(array.size + offset, dtype)
        view = memory[offset:].reshape(array.shape)
        view[...] = cupy.asarray(array)
        return view

    def with_gaps(array):
        import cupy
        view = cupy.empty((*array.shape[:2], array.shape[2] + 1, array.shape[3] + offset), dtype)
        view = view[:, :, 1:, offset:]
        view[...] = cupy.asarray(array)
        return view

    def transposed(array):
        return on_gpu(numpy.ascontiguousarray(array.T))[0].T

    for view in shifted, with_gaps, transposed:
        g_view, x_view, w_view = map(view, (g, x, w))
        got = (convolve(x_view, w_view, *settings),
               *convolution_gradients(g_view, x_view, w_view, *settings, (True, True)))
        for result, other in zip(got, expected, strict=True):
            check(result, other, dtype)


@needs_gpu
@pytest.mark.parametrize("stride", [1, 2])
def test_a_block_is_computed_by_its_definition(dtype, stride):
    w1, w2, x = (random(dtype, *shape, seed=seed) for seed, shape in enumerate(
        ((3, 3, 16, 16), (3, 3, 16, 16), (2, 6, 6, 16))))
    results = []
    for arrays in on_gpu(x, w1 / 8, w2 / 8), in_float64(x, w1 / 8, w2 / 8):
        x_, *weights = (tr.Tensor(array, requires_grad=True) for array in arrays)
        shortcut = tr.avg_pool2d(x_, stride) if stride > 1 else x_
        layers = convolution_of(weights[0], stride), convolution_of(weights[1])
        if tr.backend.is_array(arrays[0]) and not isinstance(arrays[0], numpy.ndarray):
            variant = nn.residual_sum.choose(shortcut, x_, *layers)
            assert variant is implicit.residual_sum_of_convolutions
        out = nn.residual_sum(shortcut, x_, *layers)
        tr.sum(out * out).backward()
        results.append([out, *(tensor.grad for tensor in (x_, *weights))])
    for got, expected in zip(*results, strict=True):
        got, expected = (a.numpy() if isinstance(a, tr.Tensor) else tr.backend.to_numpy(a)
                         for a in (got, expected))
        assert numpy.linalg.norm(got - expected) < 5e-3 * numpy.linalg.norm(expected)


@needs_gpu
def test_a_captured_step_gives_the_bytes_of_the_step(dtype):
    weights = []
    for compute in loss_and_error, capture.captured(loss_and_error):
        network = tr.models.cifar_net(blocks=1, widths=(16, 32))
        model = precision.Float16(network) if dtype == "float16" else network
        optimizer = tr.optim.SGD(model.parameters(), 0.05, 0.9)
        images, labels = on_gpu(random("float32", 2, 8, 8, 3), numpy.arange(2))
        for i in range(capture.WARM_UP_CALLS + 3):
            training_step(model, optimizer, images + i, labels, compute=compute)
        weights.append(numpy.concatenate([p.numpy().ravel() for p in network.parameters()]).tobytes())
    assert weights[0] == weights[1]


@needs_gpu
def test_what_it_leaves_to_other_variants(dtype):
    """Another kernel, stride, padding, precision or number of channels; when switched off, everything."""
    g, x, w, *settings = on_gpu(*operands(dtype, 1, 4, 4, 16, 16, 1))

    def taken(x=x, w=w, stride=(1, 1), padding=(1, 1)):
        forward = convolve.choose(x, w, stride, padding) is implicit.convolve_implicit
        assert forward == (convolution_gradients.choose(g, x, w, stride, padding, (True, True))
                           is implicit.gradients_implicit)
        return forward

    assert taken() and taken(stride=(2, 2))
    assert not taken(stride=(1, 2)) and not taken(stride=(3, 3))
    assert not taken(padding=(0, 0)) and not taken(padding=(1, 2))
    assert not taken(w=w[:2]) and not taken(w=w[:, :1])
    assert not taken(w=w[..., :12]) and not taken(x=x[..., :12], w=w[:, :, :12])
    assert not taken(x=x[:0]) and not taken(x=x.astype("float64"), w=w.astype("float64"))
    assert not taken(x=x.get(), w=w.get())
    precision.use("float32")
    assert taken() == (dtype == "float16")
    precision.use("tf32")
    implicit.use(False)
    assert not taken()
    with pytest.raises(ValueError, match="needs a GPU"):
        tr.backend.use("numpy")
        implicit.use(True)


def test_without_a_gpu_it_cannot_be_switched_on():
    with pytest.raises(ValueError, match="backend.use"):
        implicit.use(True)
    implicit.use(False)
    x, w = numpy.zeros((1, 4, 4, 16), "float32"), numpy.zeros((3, 3, 16, 16), "float32")
    assert convolve.choose(x, w, (1, 1), (1, 1)) is not implicit.convolve_implicit
