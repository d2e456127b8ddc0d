"""Whether implicit GEMM pays on this GPU: its times beside those of the variants that are taken without it.

    python tests/benchmarks/gpu_implicit.py             needs a GPU and CuPy; a minute or two

Each 3 x 3 convolution of the paper's CIFAR network (except the stem, with its 3 channels), forward and both
gradients; then residual blocks and whole training steps. In these, relu and the sum are passes of their own
with implicit GEMM, and fused without it. Milliseconds, medians over rounds in which both take turns;
captured, so that the time of launching does not count. It pays where the ratio is below 1; the steps decide.
"off" is the norm of the difference of the results over the norm of the results: the order of the sums
differs.
"""
from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator

import numpy
from gpu import cupy, milliseconds, tinyres_step

import tinyres as tr
from tinyres.backend import Array
from tinyres.conv import convolution_gradients, convolve
from tinyres.fast.gpu import capture, implicit, precision
from tinyres.nn import Conv2d, residual_sum

LAYERS = ((32, 16, 64, 1), (32, 64, 64, 1), (32, 64, 128, 2), (16, 128, 128, 1), (16, 128, 256, 2),
          (8, 256, 256, 1))  # side, C, O, stride
REPEATS = 10  # of one call in a graph
Work = Callable[[], list[Array]]


def random(dtype: str, *shape: int) -> Array:
    return cupy.asarray(numpy.random.default_rng(0).standard_normal(shape).astype(dtype))


def layers(batch_size: int, dtype: str) -> Iterator[tuple[str, float, Work]]:
    """(name, multiply-adds, a function that computes it) for convolutions and blocks."""
    for side, C, O, stride in LAYERS:  # noqa: E741
        x, w = random(dtype, batch_size, side, side, C), random(dtype, 3, 3, C, O) / C**0.5
        g, settings = random(dtype, batch_size, side // stride, side // stride, O), ((stride,) * 2, (1, 1))
        name, work = f"{side}x{side}x{C} -> {O}{', stride 2' * (stride - 1)}", g.size * w.size // O
        yield f"{name}, forward", work, lambda: [convolve(x, w, *settings)]  # noqa: B023
        yield (f"{name}, gradients", 2 * work,
               lambda: list(convolution_gradients(g, x, w, *settings, (True, True))))  # noqa: B023
        if C == O:
            yield f"{name}, block", 6 * work, block(g, x, w)


def block(g: Array, x: Array, w: Array) -> Work:
    """A function that computes the result and gradients of a residual block with the same weights twice."""
    image = tr.Tensor(x, requires_grad=True)
    convolutions = [Conv2d(*w.shape[2:], 3, padding=1) for _ in range(2)]
    for convolution in convolutions:
        convolution.weight = tr.Tensor(w, requires_grad=True)

    def compute() -> list[Array]:
        out = residual_sum(image, image, *convolutions)
        out.backward(g)
        return [out.data, image.grad, *(convolution.weight.grad for convolution in convolutions)]

    return compute


def switched(on: bool, work: Callable[[], object]) -> Callable[[], object]:
    """The same work with implicit GEMM on or off."""
    def run() -> object:
        implicit.use(on)
        try:
            return work()
        finally:
            implicit.use(False)
    return run


def medians(works: list[Callable[[], object]], rounds: int) -> list[float]:
    """Milliseconds of each; they take turns."""
    for work in works:
        milliseconds(work, capture.WARM_UP_CALLS + 2)  # until it is captured
    times = [[milliseconds(work) for work in works] for _ in range(rounds)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def off(got: list[Array], expected: list[Array]) -> float:
    got, expected = (cupy.concatenate([a.astype("float32").ravel() for a in arrays])
                     for arrays in (got, expected))
    return float(cupy.linalg.norm(got - expected) / cupy.linalg.norm(expected))


def report(name: str, without: float, with_it: float, work: float, difference: str = "") -> None:
    print(f"{name:<38}{without:>10.3f}{with_it:>10.3f}{with_it / without:>8.2f}"
          f"{2 * work / with_it / 1e9:>9.0f}{difference:>10}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precisions", nargs="+", default=["tf32", "float16"], choices=["tf32", "float16"])
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    tr.backend.use("cupy")
    print(f"{cupy.cuda.runtime.getDeviceProperties(0)['name'].decode()}, CuPy {cupy.__version__}, batch "
          f"{args.batch_size}")
    for products in args.precisions:
        precision.use(products)
        print(f"{products:<38}{'without':>10}{'implicit':>10}{'ratio':>8}{'TFLOP/s':>9}{'off':>10}")
        for name, work, compute in layers(args.batch_size, "float16" if products == "float16" else "float32"):
            difference = off(switched(True, compute)(), switched(False, compute)())
            graphs = [switched(on, capture.CUDAGraph(lambda: [compute() for _ in range(REPEATS)]))  # noqa: B023
                      for on in (False, True)]
            times = [time / REPEATS for time in medians(graphs, args.rounds)]
            report(name, *times, work, f"{difference:.0e}")
        steps = [switched(on, tinyres_step(args.batch_size, products, True, arranged=not on))
                 for on in (False, True)]
        report("a training step", *medians(steps, args.rounds), 3 * 1972.8e6 * args.batch_size)


if __name__ == "__main__":
    main()
