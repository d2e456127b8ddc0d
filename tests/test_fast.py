"""Every variant of every kernel against its definition, over random shapes; which one is taken, and when."""
from __future__ import annotations

import collections
import contextlib
import inspect
import operator
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from support.checking import block_of

import tinyres as tr
from tinyres.arithmetic import matrix_product
from tinyres.conv import convolution_gradients, convolve, output_size
from tinyres.extras.losses import error_rate
from tinyres.fast.cpu import elementwise, im2col, memory, winograd, winograd_rows
from tinyres.fast.gpu import conv as gpu_conv
from tinyres.fast.gpu import loss_scale
from tinyres.fast.gpu.precision import any_not_finite, converted
from tinyres.fast.gpu.uncopied_gradients import unshared
from tinyres.nn import residual_sum
from tinyres.ops import mean_cross_entropy, rectify, relu_gradient
from tinyres.optim import sgd_update, take
from tinyres.tensor import leaf_gradient, sum_of_two

CASES = 60  # random arguments for each kernel


class Draw:
    """Random sizes and arrays for one set of arguments."""

    def __init__(self, xp, seed):
        self.xp, self.rng = xp, numpy.random.default_rng(seed)

    def size(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def choice(self, *values):
        return values[self.size(0, len(values) - 1)]

    def array(self, *shape):
        return self.xp.asarray(self.rng.standard_normal(shape))

    def image(self):
        """(N, H, W, C), often with sides that tiles of 4 x 4 pixels need."""
        H, W = (self.choice(4, 8, 12) if self.size(0, 1) else self.size(1, 9) for _ in "HW")
        return self.size(0, 7), H, W, self.size(1, 6)

    def convolution(self):
        """x, w, stride, padding, often 3 x 3 with stride 1 or 2 and padding 1."""
        while True:
            shape = self.image()
            if which := self.size(0, 3):
                kernel, stride, padding = (3, 3), (2, 2) if which == 1 else (1, 1), (1, 1)
            else:
                kernel, stride, padding = ((self.size(low, high), self.size(low, high))
                                           for low, high in ((1, 4), (1, 3), (0, 2)))
            w_shape = *kernel, shape[3], self.size(1, 6)
            if min(output_size(shape, w_shape, stride, padding)) >= 1:
                return self.array(*shape), self.array(*w_shape), stride, padding

    def gradients(self):
        x, w, stride, padding = self.convolution()
        g = self.array(len(x), *output_size(x.shape, w.shape, stride, padding), w.shape[3])
        return g, x, w, stride, padding, self.choice((True, True), (True, False), (False, True))

    def alike(self, count):
        shape = [self.size(0, 9) for _ in range(self.size(1, 4))]
        return [self.array(*shape) for _ in range(count)]

    def product(self):
        n, m, p = (self.size(1, 9) for _ in "nmp")
        a, b = self.array(n, m), self.array(m, p)
        return (a if self.size(0, 1) else self.array(m, n).T), (b if self.size(0, 1) else self.array(p, m).T)

    def block(self):
        """x and a residual block; half of the blocks keep the shape."""
        N, H, W, C = self.size(1, 3), self.size(1, 6), self.size(1, 6), self.size(1, 6)
        O, stride = (C, 1) if self.size(0, 1) else (C + self.size(0, 6), self.size(1, 3))  # noqa: E741
        x, *weights = map(self.tensor, ((N, H * stride, W * stride, C), (3, 3, C, O), (3, 3, O, O)))
        return x, block_of(*weights, stride)

    def logits(self):
        N, classes = self.size(1, 300), self.size(1, 12)
        labels = self.xp.asarray(self.rng.integers(-classes, classes, N))
        logits = self.array(N, classes) if self.size(0, 1) else self.array(classes, N).T
        return logits, labels.astype(self.choice("int64", "int8"))

    def tensor(self, shape):
        return tr.Tensor(self.array(*shape), requires_grad=True)

    def gradient(self):
        gradient, = self.alike(1)
        return gradient if self.xp is numpy else unshared(gradient),

    def update(self):
        lists = [self.alike(3) for _ in range(self.size(1, 4))]
        return *map(list, zip(*lists, strict=True)), 0.1, 0.9, 0.01

    def step(self):
        return operator.methodcaller("zero_grad"), tr.optim.SGD([self.tensor((2, 3))], 0.1)

    def conversion(self):
        source, dtype = self.choice(("float32", "float16"), ("float16", "float32"))
        scale = self.choice(None, self.xp.full((), 8.0, "float32"))
        return [array.astype(source) for array in self.alike(self.size(1, 4))], dtype, scale

    def perhaps_infinite(self):
        arrays = self.alike(3)
        if self.size(0, 1) and arrays[1].size:
            arrays[1][(-1,) * arrays[1].ndim] = self.choice(numpy.inf, -numpy.inf, numpy.nan)
        return arrays,

    def loss_scale(self):
        scale, good = 2.0 ** self.size(-3, 24), float(self.choice(0, 5, loss_scale.GROWTH_STEPS - 1))
        return *(self.xp.full((), value, "float32") for value in (scale, good)), self.xp.full(
            (), self.size(0, 1), "uint32")


ARGUMENTS = {
    sum_of_two: lambda draw: draw.alike(2),
    leaf_gradient: Draw.gradient,
    rectify: lambda draw: draw.alike(1),
    relu_gradient: lambda draw: draw.alike(2),
    matrix_product: Draw.product,
    convolve: Draw.convolution,
    convolution_gradients: Draw.gradients,
    residual_sum: Draw.block,
    mean_cross_entropy: Draw.logits,
    error_rate: Draw.logits,
    sgd_update: Draw.update,
    take: Draw.step,
    converted: Draw.conversion,
    any_not_finite: Draw.perhaps_infinite,
    loss_scale.adapt: Draw.loss_scale,
}


def copied(value):
    """A copy of arguments, so that the next function does not see what this one writes into them."""
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item) for item in value)
    if isinstance(value, tr.Tensor):
        return value
    return value.copy() if tr.backend.is_array(value) and value.flags.c_contiguous else value


def flat(value):
    """Every array in nested tuples and lists, and None for all else; of a computed tensor its data, after
    computing the gradients of the tensors from which it was computed; of a function that of 2."""
    if inspect.isfunction(value):
        return flat(value(tr.backend.current().full((), 2.0)))
    if isinstance(value, tr.nn.Module):
        return flat(value.parameters())
    if isinstance(value, tr.Tensor):
        if value.node:
            value.backward(tr.backend.xp_of(value.data).cos(value.data))
            return flat(value.data)
        gradient, value.grad = value.grad, None  # or the next one would be added
        return flat(gradient)
    if isinstance(value, (list, tuple)):
        return [array for item in value for array in flat(item)]
    return [tr.backend.to_numpy(value)] if tr.backend.is_array(value) else [None]


def test_every_kernel_is_tested_here():
    assert set(ARGUMENTS) == set(tr.kernel.KERNELS)


@pytest.fixture
def small_limits(monkeypatch):
    """Limits so low that small arrays are cut into many slices, and few channels count as many."""
    monkeypatch.setattr(elementwise, "MIN_BYTES", 64)
    monkeypatch.setattr(elementwise, "SLICE_BYTES", 64)
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 2)
    monkeypatch.setattr(winograd, "MIN_PAIRS", 4)
    monkeypatch.setattr(winograd, "GROUPS", 3)
    monkeypatch.setattr(winograd, "MIN_TILES", 1)
    monkeypatch.setattr(winograd, "MIN_WORK", 0)
    monkeypatch.setattr(winograd, "TILES", 4)
    monkeypatch.setattr(winograd_rows, "MIN_WORK", 0)
    monkeypatch.setattr(winograd_rows, "MIN_PIXELS", 0)
    monkeypatch.setattr(winograd_rows, "MAX_BYTES", 2000)
    monkeypatch.setattr(im2col, "MAX_BYTES", 2000)
    monkeypatch.setattr(gpu_conv, "MAX_BYTES", 2000)
    monkeypatch.setattr(gpu_conv, "MIN_ROWS", 4)


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("kernel", ARGUMENTS, ids=lambda kernel: kernel.__name__)
def test_variants_against_the_definition(xp, kernel):
    taken = collections.Counter()
    for seed in range(CASES):
        arguments = ARGUMENTS[kernel](Draw(xp, seed))
        for applies, variant in kernel.variants:
            if not applies(*arguments):
                continue
            taken[variant] += 1
            theirs, ours = copied(arguments), copied(arguments)
            results = flat((kernel.definition(*theirs), *theirs)), flat((variant(*ours), *ours))
            for expected, got in zip(*results, strict=True):
                assert (got is None) == (expected is None), (variant.__name__, seed)
                if expected is not None:
                    assert got.dtype == expected.dtype and got.shape == expected.shape
                    numpy.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10,
                                                  err_msg=f"{variant.__name__}, seed {seed}")
    library = "numpy" if xp is numpy else "cupy"
    here = [variant for applies, variant in kernel.variants if library in applies.__doc__.lower()
            and "if switched on" not in applies.__doc__]  # which has tests of its own
    assert all(taken[variant] >= 5 for variant in here), taken


@pytest.mark.parametrize(("channels", "methods", "limits"), [
    (128, (winograd.convolve_winograd, winograd.gradients_winograd), (11, 15, 11)),
    (16, (winograd_rows.convolve_winograd_rows, winograd_rows.gradients_winograd_rows), (4, 8, 3))])
def test_winograd_is_as_precise_as_it_says(channels, methods, limits):
    rng = numpy.random.default_rng(0)
    x, g, w = (rng.standard_normal(shape)
               for shape in ((8, 16, 16, channels), (8, 16, 16, channels), (3, 3, channels, channels)))

    def results(dtype, convolve, gradients):
        x_, g_, w_ = (array.astype(dtype) for array in (x, g, w))
        return convolve(x_, w_, (1, 1), (1, 1)), *gradients(g_, x_, w_, (1, 1), (1, 1), (True, True))

    definitions = convolve.definition, convolution_gradients.definition
    for exact, plain, fast, limit in zip(results("float64", *definitions), results("float32", *definitions),
                                         results("float32", *methods), limits, strict=True):
        errors = [numpy.sqrt(((result - exact)**2).mean()) for result in (fast, plain)]
        assert fast.dtype == "float32" and errors[0] < limit * errors[1], errors


@pytest.mark.parametrize("size", [(1, 4, 8), (2, 8, 8), (3, 12, 4)])
@pytest.mark.parametrize("needs_grad", [(True, True), (True, False), (False, True)])
def test_winograd_point_by_point(monkeypatch, size, needs_grad):
    """The path for kernels too large for a cache, on small kernels."""
    monkeypatch.setattr(winograd, "MAX_SUMMED_KERNEL", 0)
    rng = numpy.random.default_rng(0)
    x, w, g = (rng.standard_normal(shape) for shape in ((*size, 5), (3, 3, 5, 6), (*size, 6)))
    numpy.testing.assert_allclose(winograd.convolve_winograd(x, w, (1, 1), (1, 1)),
                                  convolve.definition(x, w, (1, 1), (1, 1)), rtol=1e-10, atol=1e-10)
    results = (method(g, x, w, (1, 1), (1, 1), needs_grad)
               for method in (winograd.gradients_winograd, convolution_gradients.definition))
    for got, expected in zip(*results, strict=True):
        assert (got is None) == (expected is None)
        if expected is not None:
            numpy.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10)


def test_each_convolution_is_taken_by_the_variant_meant_for_it():
    def variants(H, C, O, kernel=3, stride=1, padding=1, dtype="float32", N=64):  # noqa: E741
        x, w = numpy.zeros((N, H, H, C), dtype), numpy.zeros((kernel, kernel, C, O), dtype)
        chosen = convolve.choose(x, w, (stride,) * 2, (padding,) * 2), convolution_gradients.choose(
            x, x, w, (stride,) * 2, (padding,) * 2, (True, True))
        return tuple(sys.modules[function.__module__] for function in chosen)

    def variant(*sizes, **options):
        out, gradients = variants(*sizes, **options)
        assert out == gradients
        return out

    assert variant(8, 128, 256) is winograd
    assert variant(8, 32, 64) is variant(8, 16, 128) is winograd
    assert variant(8, 8, 256) is variant(8, 256, 8) is variant(8, 32, 32) is winograd_rows
    assert variant(7, 256, 256) is winograd_rows
    assert variant(8, 256, 256, N=1) is variant(4, 64, 128, N=8) is variant(8, 3, 16, N=1) is im2col
    assert variant(8, 64, 64, N=32) is variant(16, 128, 128, N=2) is winograd
    assert variant(8, 64, 64, N=16) is winograd_rows
    assert variant(8, 256, 256, stride=2) is variant(8, 256, 256, padding=0) is im2col
    assert variant(8, 16, 16, dtype="float16") is variant(8, 16, 16, dtype="int64") is im2col
    assert variant(8, 256, 256, kernel=5) is variant(7, 32, 64, stride=2) is im2col
    assert variant(16, 32, 64, stride=2) is im2col
    assert variant(8, 128, 256, dtype="float16") is im2col
    with tr.kernel.plain():
        assert variant(8, 128, 256) is tr.conv


@pytest.mark.skipif(sys.platform != "linux", reason="only there the C library can be told")
def test_any_optimizer_keeps_memory_until_memory_kept_ends():
    with tr.fast.memory_kept():
        pass
    for optimizer in tr.optim.Adam, tr.optim.SGD:
        assert not memory._kept
        weight = tr.Tensor(numpy.ones(3), requires_grad=True)
        tr.sum(weight * weight).backward()
        optimizer([weight], 0.1).step()
        assert memory._kept
        with tr.fast.memory_kept():
            pass


def test_small_arrays_are_left_to_numpy():
    small, large = numpy.zeros((2, 1000)), numpy.zeros((2, 300_000))
    assert rectify.choose(small) is rectify.definition and rectify.choose(large) is not rectify.definition
    assert sum_of_two.choose(large, large[0]) is sum_of_two.definition


def test_a_whole_training_step_is_the_textbooks():
    """With and without variants, from the same weights: a step of a network that takes nearly all of them."""
    weights = []
    for context in (tr.kernel.plain(), contextlib.nullcontext()):
        network = tr.models.cifar_net(blocks=1, widths=(16, 48, 64))
        optimizer = tr.optim.SGD(network.parameters(), 0.05, 0.9, 1e-4)
        images = numpy.random.default_rng(0).standard_normal((8, 32, 32, 3), dtype="float32")
        with context:
            tr.training.training_step(network, optimizer, images, numpy.arange(8))
        weights.append(numpy.concatenate([p.numpy().ravel() for p in network.parameters()]))
    assert numpy.linalg.norm(weights[1] - weights[0]) < 1e-6 * numpy.linalg.norm(weights[0])


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="needs Unix")
def test_a_program_whose_output_nobody_reads_ends_without_a_word():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "tinyres.fast"], stdout=writer, stderr=subprocess.PIPE,
                          timeout=120, cwd=Path(__file__).resolve().parent.parent)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


def test_python_m_tinyres_fast_lists_kernels_variants_and_layers():
    done = subprocess.run([sys.executable, "-m", "tinyres.fast"], capture_output=True, text=True, timeout=120,
                          cwd=Path(__file__).resolve().parent.parent)
    assert done.returncode == 0, done.stderr
    for kernel in tr.kernel.KERNELS:
        assert f"{kernel.__name__}: " in done.stdout
        for _, variant in kernel.variants:
            assert variant.__name__ in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if " x convolve " in line]
    assert sum(int(count) for count, *_ in rows) == 55
    taken = {row[6]: row[5] for row in rows}  # by the first layer
    assert taken["blocks.18.conv2"] == "convolve_winograd" and taken["blocks.9.conv1"] == "convolve_im2col"
