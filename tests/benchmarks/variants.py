"""Every variant for NumPy beside the definition, and whether what is chosen is the fastest that there is.

    python tests/benchmarks/variants.py                     the kernels that OpenBLAS takes here; some ten minutes
    python tests/benchmarks/variants.py --kernels Haswell   those that it takes where there is no AVX-512
    python tests/benchmarks/variants.py --layers            only the layers of the paper's network, a minute

The grid: 3 x 3 convolutions, forward and backward, of 1 to 128 images with sides 4 to 32, 3 to 512 channels,
strides 1 and 2, float32; medians of calls that take turns. "off" is the time of what is chosen over the time of
the fastest. The ten worst are printed, then how often each variant was chosen and was the fastest. With --layers
each layer has a line, other kernels too: a variant whose ratio to the definition is not below 1 there has no
reason to exist.
"""
from __future__ import annotations

import argparse
import collections
import os
import statistics
import time
from collections.abc import Callable, Iterator

import measuring
import numpy

import tinyres as tr
from tinyres.conv import convolution_gradients, convolve
from tinyres.fast import memory_kept
from tinyres.kernel import Kernel
from tinyres.ops import rectify, relu_gradient
from tinyres.optim import sgd_update
from tinyres.tensor import sum_of_two

CHANNELS = (3, 16), (16, 16), (16, 64), (32, 32), (64, 64), (64, 128), (128, 128), (256, 256), (512, 512)
BATCH_SIZES, SIDES = (1, 2, 4, 8, 16, 32, 64, 128), (4, 8, 16, 32)
MAX_MULTIPLICATIONS = 5e9  # a call with more says nothing that one with fewer images does not say
LAYERS = ((32, 3, 16, 1), (32, 16, 64, 1), (32, 64, 64, 1), (16, 128, 128, 1), (8, 256, 256, 1),
          (32, 64, 128, 2), (16, 128, 256, 2), (32, 16, 16, 1))
Case = tuple[str, Kernel, tuple[object, ...]]
rng = numpy.random.default_rng(0)


def array(*shape: int) -> numpy.ndarray:
    return rng.standard_normal(shape, "float32")


def convolutions(N: int, side: int, C: int, O: int, stride: int) -> Iterator[Case]:  # noqa: E741
    x, w, pair = array(N, side, side, C), array(3, 3, C, O), (stride, stride)
    g = array(N, side // stride, side // stride, O)
    name = f"{N:>3} x {side}x{side}x{C} -> {O}, stride {stride}"
    yield f"{name}, forward", convolve, (x, w, pair, (1, 1))
    yield f"{name}, backward", convolution_gradients, (g, x, w, pair, (1, 1), (C > 3, True))


def grid() -> Iterator[Case]:
    for N in BATCH_SIZES:
        for side in SIDES:
            for C, O in CHANNELS:  # noqa: E741
                for stride in 1, 2:
                    if N * side**2 * 9 * C * O <= MAX_MULTIPLICATIONS * stride**2:
                        yield from convolutions(N, side, C, O, stride)


def layers() -> Iterator[Case]:
    for side, C, O, stride in LAYERS:  # noqa: E741
        yield from convolutions(32, side, C, O, stride)
    for side, C in ((32, 64), (16, 128), (8, 256)):
        x, g = array(32, side, side, C), array(32, side, side, C)
        for kernel, arguments in ((sum_of_two, (x, g)), (rectify, (x,)), (relu_gradient, (g, x))):
            yield f"{kernel.__name__} {side}x{side}x{C}", kernel, arguments
    weights = [parameter.numpy() for parameter in tr.models.cifar_net().parameters()]
    gradients, velocities = [[array(*w.shape) for w in weights] for _ in range(2)]
    yield "sgd_update, 13.5 million weights", sgd_update, (weights, gradients, velocities, 1e-9, 0.9, 1e-4)


def medians(kernel: Kernel, arguments: tuple[object, ...], seconds: float) -> dict[Callable, float]:
    """Milliseconds of a call of the definition and of each variant that can take the arguments."""
    functions = [kernel.definition, *(f for applies, f in kernel.variants if possible(applies, arguments))]
    times: dict[Callable, list[float]] = {function: [] for function in functions}
    for function in functions:
        function(*arguments)
    end = time.perf_counter() + seconds * len(functions)
    while time.perf_counter() < end or len(times[functions[0]]) < 3:
        for function in functions:
            for _ in range(2):  # the second: with its own threads awake, and not the other's
                start = time.perf_counter()
                function(*arguments)
                took = time.perf_counter() - start
            times[function].append(1000 * took)
    return {function: statistics.median(values) for function, values in times.items()}


def possible(applies: Callable[..., bool], arguments: tuple[object, ...]) -> bool:
    """Whether a variant gives the right result, even where it would not be chosen: see `able`, if it has one."""
    return getattr(applies, "able", applies)(*arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", help="the processor whose kernels OpenBLAS takes, such as Haswell")
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--seconds", type=float, default=0.06, help="for each variant of each case")
    args = parser.parse_args()
    if args.kernels and os.environ.get("OPENBLAS_CORETYPE") != args.kernels:
        words = ["--layers"] * args.layers + ["--kernels", args.kernels, "--seconds", str(args.seconds)]
        measuring.again(*words, OPENBLAS_CORETYPE=args.kernels)
        return
    measuring.begin(keep=args.kernels)
    results = []
    with memory_kept():
        for name, kernel, arguments in layers() if args.layers else grid():
            times = medians(kernel, arguments, args.seconds)
            chosen = kernel.choose(*arguments)
            best = min(times, key=times.__getitem__)
            results.append((times[chosen] / times[best], name, chosen, best, times))
            if args.layers:
                print(f"{name:<45} {chosen.__name__:<26} {times[kernel.definition]:>9.2f} {times[chosen]:>9.2f} "
                      f"ratio {times[chosen] / times[kernel.definition]:.2f}", flush=True)
    if args.layers:
        return
    results.sort(key=lambda result: -result[0])
    print(f"{len(results)} cases; more than 10 % off: {sum(result[0] > 1.1 for result in results)}. The worst:")
    for off, name, _, _, times in results[:10]:
        print(f"{off:>6.2f}  {name:<46}" + ", ".join(f"{f.__name__} {t:.3f}" for f, t in times.items()))
    for what, place in ("chosen", 2), ("fastest", 3):
        counts = collections.Counter(result[place].__name__ for result in results)
        print(what, ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    if log := os.environ.get("VARIANTS_LOG"):
        import json
        with open(log, "w") as file:
            for off, name, chosen, best, times in results:
                print(json.dumps([off, name, chosen.__name__, best.__name__,
                                  {f.__name__: t for f, t in times.items()}]), file=file)


if __name__ == "__main__":
    main()
