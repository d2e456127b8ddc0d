"""What can be known of the GPU's convolution without a GPU: that its CUDA kernels compile, what they copy,
and that its products on strided windows are the convolution and its gradients.

The CUDA kernels are compiled for the CPU with a header that gives them their indices (cuda_on_cpu.h), and the
definition of cuBLAS takes its place, applied to memory: column by column, with leading dimensions.
"""
from __future__ import annotations

import ctypes
import gc
import itertools
import shutil
import subprocess
from pathlib import Path

import numpy
import pytest
from support.checking import block_of

import tinyres as tr
from tinyres import nn
from tinyres.conv import convolution_gradients, convolve
from tinyres.fast.gpu import block, cublas, cuda, lists, loss, passes, uncopied_gradients
from tinyres.fast.gpu import conv as gpu_conv

HEADER = Path(__file__).parent / "support" / "cuda_on_cpu.h"


def gemm(transposes, sizes, leading, strides, batch, a, b, out):
    """cublasGemmStridedBatchedEx by its definition, on flat memory: out_i = op(b_i) @ op(a_i) by columns."""
    n, m, k = sizes

    def element(memory, transposed, ld, stride, i, row, column):
        return memory[i * stride + (row * ld + column if transposed else column * ld + row)]

    with numpy.errstate(all="ignore"):  # what no result needs is read, too, and may be anything
        for i, row in itertools.product(range(batch), range(n)):
            for column in range(m):
                total = sum(element(b, transposes[1], leading[1], strides[1], i, row, inner)
                            * element(a, transposes[0], leading[0], strides[0], i, inner, column)
                            for inner in range(k))
                place = i * strides[2] + column * leading[2] + row
                out[place] = total


def memory_of(array):
    """The flat memory that an array is a view of, from its first element on."""
    extent = sum((size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True))
    return numpy.lib.stride_tricks.as_strided(array, (extent // array.itemsize + 1,), (array.itemsize,))


def product(a, b, out, layouts=None):
    gemm(*cublas.gemm_arguments(*layouts or (a, b, out)), *map(memory_of, (a, b, out)))
    return out


@pytest.mark.parametrize("turn_a", [False, True])
@pytest.mark.parametrize("turn_b", [False, True])
@pytest.mark.parametrize("batch", [None, 1, 3])
def test_gemm_arguments(turn_a, turn_b, batch):
    rng, front = numpy.random.default_rng(0), () if batch is None else (batch,)
    a = rng.standard_normal((*front, 4, 2) if turn_a else (*front, 2, 4))
    b = rng.standard_normal((4, 5) if not turn_b else (5, 4))
    a, b = a.swapaxes(-1, -2) if turn_a else a, b.T if turn_b else b
    out = numpy.ones((*front, 2, 7))[..., :5]
    product(a, b[None] if front else b, out)
    numpy.testing.assert_allclose(out, a @ b, rtol=1e-12)


def test_gemm_arguments_that_do_not_fit():
    a = numpy.zeros((4, 6))
    with pytest.raises(ValueError, match="do not fit"):
        cublas.gemm_arguments(a, a, a)
    with pytest.raises(ValueError, match="must be contiguous"):
        cublas.gemm_arguments(a[:, ::2], numpy.zeros((3, 2)), numpy.zeros((4, 2)))
    with pytest.raises(ValueError, match="of out the last"):
        cublas.gemm_arguments(a, numpy.zeros((6, 2)), numpy.zeros((2, 4)).T)


# The CUDA kernels on a CPU


def compiled(folder, kernels, calls):
    """The library of C functions `calls` around the kernels of a file, compiled by g++ for the CPU."""
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(f'#include "{HEADER}"\n#include "{kernels}"\n' + "\n".join(calls))
    subprocess.run(["g++", "-O1", "-shared", "-fPIC", "-o", library, source], check=True, timeout=300)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """A function (name, shape, arrays, units, settings...) that runs a kernel of passes.cu on NumPy."""
    names = [name for name in passes.NAMES if "half" not in name]
    calls = []
    for i, name in enumerate(names):
        pointers, count = {"combine": (5, 13), "gather": (5, 20), "lay_out": (2, 9), "cut": (2, 16)}[
            name.split("<")[0]]
        number = name.split("<")[1].split(",")[0]
        parameters = [f"{number}* p{j}" for j in range(pointers)]
        parameters += [f"unsigned a{j}" for j in range(count)]
        arguments = ", ".join(parameter.split()[-1] for parameter in parameters)
        calls.append(f'extern "C" void kernel_{i}({", ".join(parameters)}) '
                     f'{{ RUN_2D({name}({arguments})); }}')
    loaded = compiled(tmp_path_factory.mktemp("kernels"), passes.SOURCE, calls)

    def run(name, shape, arrays, units, *settings):
        assert all(array.flags.c_contiguous for array in arrays[1:])  # the first one has strides
        N, H, W = shape
        getattr(loaded, f"kernel_{names.index(name)}")(
            *(ctypes.c_void_p(array.ctypes.data) for array in arrays),
            *map(ctypes.c_uint, (N * H, H, W, passes._pitch(W), units, *settings)))

    return run


@pytest.fixture
def launched(monkeypatch, kernels):
    """gpu/conv.py and block.py with NumPy for their memory, kernels compiled for the CPU, and `product` for
    cuBLAS; the names of the passes that run."""
    names = []
    monkeypatch.setattr(cuda, "cupy", numpy)
    monkeypatch.setattr(cuda, "address", lambda array: array.ctypes.data)
    monkeypatch.setattr(cublas, "matmul", product)
    monkeypatch.setattr(gpu_conv, "MIN_ROWS", 4)
    monkeypatch.setattr(passes, "_launch", lambda name, *arguments: (
        names.append(name.split("<")[0]), kernels(name, *arguments)))
    return names


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("C, dtype", [(1, "float32"), (2, "float32"), (4, "float32"), (3, "float64")])
@pytest.mark.parametrize("size", [(3, 5), (1, 1), (4, 2)])
@pytest.mark.parametrize("needs_grad", [(True, True), (True, False), (False, True)])
def test_sums_of_rows_on_the_gpu_against_im2col(C, dtype, size, needs_grad):
    check(block.convolve_3x3, block.gradients_3x3, (2, *size, C), (3, 3, C, 2), (1, 1), (1, 1), dtype,
          needs_grad)


@pytest.mark.usefixtures("launched")
@pytest.mark.parametrize("kernel, stride, padding", [((3, 3), (2, 2), (1, 1)), ((2, 3), (1, 2), (0, 2)),
                                                     ((1, 1), (1, 1), (0, 0)), ((5, 5), (3, 1), (2, 1))])
@pytest.mark.parametrize("needs_grad", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("budget", [1, 2**29])
def test_columns_on_the_gpu_against_im2col(monkeypatch, kernel, stride, padding, needs_grad, budget):
    monkeypatch.setattr(gpu_conv, "MAX_BYTES", budget)
    check(gpu_conv.convolve_on_gpu, gpu_conv.gradients_on_gpu, (3, 5, 6, 3), (*kernel, 3, 2), stride, padding,
          "float64", needs_grad)


def check(convolution, gradients, x_shape, w_shape, stride, padding, dtype, needs_grad):
    rng = numpy.random.default_rng(0)
    x, w = rng.standard_normal(x_shape).astype(dtype), rng.standard_normal(w_shape).astype(dtype)
    expected = convolve.definition(x, w, stride, padding)
    tolerance = 1e-4 if dtype == "float32" else 1e-11
    out = convolution(x, w, stride, padding)
    numpy.testing.assert_allclose(out, expected, rtol=0, atol=tolerance)
    g = rng.standard_normal(expected.shape).astype(dtype)
    ours, reference = (method(g, x, w, stride, padding, needs_grad)
                       for method in (gradients, convolution_gradients.definition))
    for gradient, other in zip(ours, reference, strict=True):
        assert (gradient is None) == (other is None)
        if other is not None:
            assert gradient.dtype == dtype
            numpy.testing.assert_allclose(gradient, other, rtol=0, atol=tolerance)


@pytest.mark.parametrize("C, O, stride", [(1, 1, 1), (4, 4, 1), (2, 4, 1), (4, 12, 1), (2, 3, 2), (4, 12, 2)])
@pytest.mark.parametrize("size", [(4, 6), (2, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fused_blocks_on_the_gpu_against_the_definition(launched, C, O, stride, size, dtype):  # noqa: E741
    rng, results = numpy.random.default_rng(0), []
    x, *weights = (tr.Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True)
                   for shape in ((3, *size, C), (3, 3, C, O), *[(3, 3, O, O)] * 3))
    first, second = block_of(*weights[:2], stride), block_of(*weights[2:])
    for residual_sum in nn.residual_sum.definition, block.residual_sum_fused:
        y = residual_sum(x, first)
        out = residual_sum(y, second)  # finds the pixels that the first block has laid out
        tr.sum(out * out).backward()
        results.append([out.data, *(tensor.grad for tensor in (x, *weights))])
        for tensor in (x, *weights):
            tensor.grad = None
    # two of the image and one of the gradient, none between the blocks; with stride 2, one is relu's instead
    strided = stride > 1
    assert [launched.count(name) for name in ("lay_out", "combine", "gather")] == [
        3, 8 - 2 * strided, strided]
    for expected, got in zip(*results, strict=True):
        numpy.testing.assert_allclose(got, expected, rtol=0, atol=(2e-5 if dtype == "float32" else 1e-12)
                                      * abs(expected).max())
    del y, out, got, expected, results
    gc.collect()
    kept = *passes._memory.values(), uncopied_gradients._unshared
    assert not any(map(len, kept)), "memory lives as long as what is a view of it"


def test_a_view_of_an_image_is_another_image(launched):
    """It may start where the image starts, but its pixels have other neighbors."""
    rng, results = numpy.random.default_rng(0), []
    x, *weights = (tr.Tensor(rng.standard_normal(shape), requires_grad=True)
                   for shape in ((2, 4, 4, 4), *[(3, 3, 4, 4)] * 4))
    for residual_sum in nn.residual_sum.definition, block.residual_sum_fused:
        first, second = block_of(*weights[:2]), block_of(*weights[2:])
        for view in (lambda y: tr.transpose(y, (0, 2, 1, 3)), lambda y: y[:, :2], lambda y: y[:, :, ::-1],
                     lambda y: tr.transpose(y, (0, 3, 2, 1)), lambda y: y[::2],
                     lambda y: tr.concatenate([y, x])):  # y gets the first half of its gradient
            y = view(residual_sum(x, first))
            out = view(residual_sum(y, second))
            tr.sum(out * out).backward()
            results += [out.data, x.grad, *(w.grad for w in weights)]
            for tensor in (x, *weights):
                tensor.grad = None
    for expected, got in zip(results[:len(results) // 2], results[len(results) // 2:], strict=True):
        numpy.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-10 * abs(expected).max())
    assert launched


def test_pixels_that_lie_apart(launched):
    """Four channels of six: a pixel is one word of 16 bytes, but the next pixel is not the next word. And
    four rows of five."""
    rng = numpy.random.default_rng(0)
    x, w = (rng.standard_normal(shape, "float32") for shape in ((2, 5, 4, 6), (3, 3, 4, 4)))
    x = x[:, :4, :, :4]
    numpy.testing.assert_allclose(gpu_conv.convolve_on_gpu(x, w, (2, 2), (1, 1)),
                                  convolve.definition(x, w, (2, 2), (1, 1)), rtol=1e-5, atol=1e-5)
    ones = numpy.ones((2, 2, 2, 8), "float32")
    for g in numpy.broadcast_to(ones[0, 0, 0, :4], (2, 2, 2, 4)), ones[..., ::2], ones[..., :4]:
        ours, expected = (method(g, x, w, (2, 2), (1, 1), (True, True))
                          for method in (gpu_conv.gradients_on_gpu, convolution_gradients.definition))
        for gradient, other in zip(ours, expected, strict=True):
            numpy.testing.assert_allclose(gradient, other, rtol=1e-5, atol=1e-5)
    image, layers = tr.Tensor(x), block_of(tr.Tensor(w), tr.Tensor(w))
    expected, got = (residual_sum(image, layers).data
                     for residual_sum in (nn.residual_sum.definition, block.residual_sum_fused))
    numpy.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * abs(expected).max())
    assert {"cut", "gather", "lay_out"} < set(launched)


def test_an_unshared_gradient_is_kept_once():
    ones = uncopied_gradients.unshared(numpy.ones(2))
    a, b = (tr.Tensor(numpy.zeros(2), requires_grad=True) for _ in "ab")
    tr.sum(tr.Tensor(numpy.zeros(2), parents=(a, b), vjp=lambda g: (ones, ones))).backward()
    assert (a.grad is ones) != (b.grad is ones) and (a.grad == 1).all() and (b.grad == 1).all()


# The CUDA kernels compiled for GPUs that need not be there


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("module", [passes, lists, loss],
                         ids=["passes", "lists", "loss"])
def test_the_kernels_compile(architecture, module):
    cupy = pytest.importorskip("cupy", reason="CuPy, which brings the compiler, is not installed")
    from cupy_backends.cuda.libs import nvrtc
    packages = Path(cupy.__file__).parent.parent
    roots = [Path(cupy.cuda.get_cuda_path() or "/usr/local/cuda"), *packages.glob("nvidia/*")]
    options = [f"--gpu-architecture={architecture}", "--std=c++14", *(f"-I{root}/include" for root in roots)]
    program = nvrtc.createProgram(module.SOURCE.read_text(), "kernels.cu", [], [])
    for name in module.NAMES:
        nvrtc.addNameExpression(program, name)
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    code = nvrtc.getCUBIN(program)
    for name in module.NAMES:
        lowered = nvrtc.getLoweredName(program, name)
        assert (lowered if isinstance(lowered, bytes) else lowered.encode()) in code
