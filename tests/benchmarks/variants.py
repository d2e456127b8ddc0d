"""Every variant for NumPy beside the definition, and whether what is chosen is the fastest that there is.

    python tests/benchmarks/variants.py                     the kernels that OpenBLAS takes here; five minutes
    python tests/benchmarks/variants.py --kernels Haswell   those that it takes without AVX-512
    python tests/benchmarks/variants.py --layers            only the layers of the paper's network, a minute
    python tests/benchmarks/variants.py --batch-sizes 1 2   only a part of the grid

The grid: 3 x 3 convolutions, forward and backward, of 1 to 128 images with sides 4 to 32, 3 to 512
channels, strides 1 and 2, float32. What is chosen is compared with the fastest, twice where it seems slower;
the ten worst cases are printed, then how often each variant was chosen and was the fastest. With --layers
each layer has a line, and other kernels too: a variant whose ratio to the definition is not below 1 there has
no reason to exist.

Medians of calls in a row, after calls that do not count. The threads of BLAS, which the definitions use, keep
a core busy for a while after their last product: here for 2**20 cycles only, or all others would pay for it.
"""
from __future__ import annotations

import argparse
import collections
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator

import measuring
import numpy

import tinyres as tr
from tinyres.conv import convolution_gradients, convolve
from tinyres.fast import memory_kept
from tinyres.fast.cpu import winograd, winograd_rows
from tinyres.kernel import Kernel
from tinyres.ops import rectify, relu_gradient
from tinyres.optim import sgd_update
from tinyres.tensor import sum_of_two

CHANNELS = (3, 16), (16, 16), (16, 64), (32, 32), (64, 64), (64, 128), (128, 128), (256, 256), (512, 512)
BATCH_SIZES, SIDES = (1, 2, 4, 8, 16, 32, 64, 128), (4, 8, 16, 32)
WARM_UP_SECONDS = 0.01
TIMEOUT = "OPENBLAS_THREAD_TIMEOUT"  # cycles, as a power of two
MAX_MULTIPLICATIONS = 5e9  # a call with more says nothing that one with fewer images does not say
LAYERS = ((32, 3, 16, 1), (32, 16, 64, 1), (32, 64, 64, 1), (16, 128, 128, 1), (8, 256, 256, 1),
          (32, 64, 128, 2), (16, 128, 256, 2), (32, 16, 16, 1))
Case = tuple[str, Kernel, tuple[object, ...]]
# the conditions of variants of gradients that look at the size of the work
GRADIENTS = [applies for applies, function in convolution_gradients.variants
             if function.__module__.endswith(("winograd", "winograd_rows"))]
rng = numpy.random.default_rng(0)


def array(*shape: int) -> numpy.ndarray:
    return rng.standard_normal(shape, "float32")


def convolutions(N: int, side: int, C: int, O: int, stride: int) -> Iterator[Case]:  # noqa: E741
    x, w, pair = array(N, side, side, C), array(3, 3, C, O), (stride, stride)
    g = array(N, side // stride, side // stride, O)
    name = f"{N:>3} x {side}x{side}x{C} -> {O}, stride {stride}"
    yield f"{name}, forward", convolve, (x, w, pair, (1, 1))
    yield f"{name}, backward", convolution_gradients, (g, x, w, pair, (1, 1), (C > 3, True))


def grid(batch_sizes: Iterable[int]) -> Iterator[Case]:
    for N in batch_sizes:
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
    found = {}
    for function in functions:
        start, times = time.perf_counter(), []
        while (now := time.perf_counter()) < start + WARM_UP_SECONDS + seconds or len(times) < 3:
            function(*arguments)
            if now > start + WARM_UP_SECONDS:
                times.append(1000 * (time.perf_counter() - now))
        found[function] = statistics.median(times)
    return found


def possible(applies: Callable[..., bool], arguments: tuple[object, ...]) -> bool:
    """Whether a variant gives the right result, also where its condition says that it would not pay."""
    if applies in (winograd.many_channels, winograd_rows.enough_pixels, *GRADIENTS):
        x, w, stride, padding = arguments[-4:] if len(arguments) == 4 else arguments[1:5]
        return winograd_rows.numpy_3x3_same(x, w, stride, padding) and (
            "multiples of 4" not in applies.__doc__ or x.shape[1] % 4 == 0)
    return applies(*arguments)


def gap(times: dict[Callable, float], chosen: Callable) -> float:
    return times[chosen] - min(times.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", help="the processor whose kernels OpenBLAS takes, such as Haswell")
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=BATCH_SIZES)
    parser.add_argument("--seconds", type=float, default=0.02, help="for each variant of each case")
    args = parser.parse_args()
    if TIMEOUT not in os.environ:
        measuring.again(*sys.argv[1:], **{TIMEOUT: "20"},
                        **{"OPENBLAS_CORETYPE": args.kernels} if args.kernels else {})
        return
    measuring.begin(keep=args.kernels)
    results = []
    with memory_kept():
        for name, kernel, arguments in layers() if args.layers else grid(args.batch_sizes):
            times, chosen = medians(kernel, arguments, args.seconds), kernel.choose(*arguments)
            if not args.layers and times[chosen] > 1.1 * min(times.values()):  # or was it an accident?
                again = medians(kernel, arguments, 3 * args.seconds)
                times = {function: min(times[function], again[function]) for function in times}
            best = min(times, key=times.__getitem__)
            more = times[chosen] - times[best]
            results.append((1 + more / times[best], more, name, chosen, best, times))
            if args.layers:
                plain = times[kernel.definition]
                print(f"{name:<45} {chosen.__name__:<26} definition {plain:>8.2f}, variant "
                      f"{times[chosen]:>8.2f} ms, ratio {times[chosen] / plain:.2f}", flush=True)
    if not args.layers:
        report(sorted(results, key=lambda result: -result[0]))


def report(results: list[tuple]) -> None:
    """What was chosen wrongly, the worst first. results: (ratio to the fastest, milliseconds more than it,
    name, chosen, fastest, all times)."""
    wrong = [more for ratio, more, *_ in results if ratio > 1.1]
    print(f"{len(results)} cases; more than 10 % slower than the fastest: {len(wrong)}, and by more than "
          f"0.05 ms: {sum(more > 0.05 for more in wrong)}. The worst:")
    for ratio, _, name, _, _, times in results[:10]:
        print(f"{ratio:>6.2f}  {name:<46}" + ", ".join(f"{f.__name__} {t:.3f}" for f, t in times.items()))
    for what, place in ("chosen", 3), ("fastest", 4):
        counts = collections.Counter(result[place].__name__ for result in results)
        print(what, ", ".join(f"{name} {count}" for name, count in counts.most_common()))


if __name__ == "__main__":
    main()
