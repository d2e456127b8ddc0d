"""Each layer of the paper's network beside its floor, on this CPU.

    python tests/benchmarks/floors.py
    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/floors.py

The floor of a layer is the time that its products, including Winograd's transforms, would take at the rate of
a large product on the same number of threads; without products, it is the time that its bytes take at the
rate of a large copy. The layers are sorted by the time that a step would gain if they ran at their floors.
"""
from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import measuring
import numpy
from roofline import copy_rate

import tinyres as tr
from tinyres.conv import convolution_gradients, convolve
from tinyres.fast import memory_kept
from tinyres.fast.cpu.threads import thread_count
from tinyres.ops import rectify, relu_gradient
from tinyres.optim import sgd_update
from tinyres.tensor import sum_of_two

BATCH_SIZE = 32


def milliseconds(work: Callable[[], object]) -> float:
    """The median time of a call, after calls that do not count for a quarter of a second."""
    start = time.perf_counter()
    while time.perf_counter() < start + 0.25:
        work()
    times = []
    for _ in range(9):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def rates() -> tuple[float, float]:
    """(floating-point operations, bytes copied) per millisecond, with all threads."""
    a = numpy.ones((2048, 2048), "float32")
    out = numpy.empty_like(a)
    return 2 * len(a) ** 3 / milliseconds(lambda: numpy.matmul(a, a, out=out)), copy_rate() / 1000


def layers(operations: float, bytes_copied: float) -> list[tuple[str, int, float, float]]:
    """(name, occurrences in the paper's network, measured, floor) of each kind of layer, in milliseconds."""
    rng, rows = numpy.random.default_rng(0), []

    def array(*shape: int) -> numpy.ndarray:
        return rng.standard_normal(shape, "float32")

    for count, side, C, O, stride in ((1, 32, 3, 16, 1), (1, 32, 16, 64, 1), (17, 32, 64, 64, 1),  # noqa: E741
                                      (1, 32, 64, 128, 2), (17, 16, 128, 128, 1), (1, 16, 128, 256, 2),
                                      (17, 8, 256, 256, 1)):
        x, w, pair = array(BATCH_SIZE, side, side, C), array(3, 3, C, O), (stride, stride)
        g = array(BATCH_SIZE, side // stride, side // stride, O)
        pixels, first = g.size // O, C == 3
        if convolve.choose(x, w, pair, (1, 1)).__name__ == "convolve_winograd":
            products = 2 * 36 * (pixels // 16) * C * O
            x_transform, g_transform = (2 * 240 * (pixels // 16) * c for c in (C, O))
            forward = products + x_transform + g_transform
            backward = 2 * products + 2 * x_transform + g_transform
        elif stride == 1:
            forward = pixels * (9 * C * O + 12 * (C + O))
            backward = forward * (1 if first else 2)
        else:
            forward = 2 * pixels * 9 * C * O
            backward = 2 * forward
        needs_grad, name = (not first, True), f"{side}x{side}x{C} -> {O}, stride {stride}"
        arguments = x, w, pair, (1, 1)
        rows.append((f"{name}, forward", count, milliseconds(lambda: convolve(*arguments)),  # noqa: B023
                     forward / operations))
        rows.append((f"{name}, backward", count,
                     milliseconds(lambda: convolution_gradients(g, *arguments, needs_grad)),  # noqa: B023
                     backward / operations))
    for side, C in ((32, 64), (16, 128), (8, 256)):
        x, g = array(BATCH_SIZE, side, side, C), array(BATCH_SIZE, side, side, C)
        for count, arrays, kernel, arguments in ((18, 3, sum_of_two, (x, g)), (9, 2, rectify, (x,)),
                                                 (9, 3, relu_gradient, (g, x))):
            measured = milliseconds(lambda: kernel(*arguments))  # noqa: B023
            rows.append((f"{side}x{side}x{C}, {kernel.__name__}", count, measured,
                         arrays * x.nbytes / bytes_copied))
    weights = [parameter.numpy() for parameter in tr.models.cifar_net().parameters()]
    others = [[array(*w.shape) for w in weights] for _ in range(2)]
    measured = milliseconds(lambda: sgd_update(weights, *others, 1e-9, 0.9, 1e-4))
    rows.append(("SGD, 13.5 million weights", 1, measured, 5 * sum(w.nbytes for w in weights) / bytes_copied))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", help="the processor whose kernels OpenBLAS takes, such as Haswell")
    args = parser.parse_args()
    if args.kernels and os.environ.get("OPENBLAS_CORETYPE") != args.kernels:
        measuring.again(*sys.argv[1:], OPENBLAS_CORETYPE=args.kernels)
        return
    measuring.begin(keep=args.kernels)
    with memory_kept():
        operations, bytes_copied = rates()
        rows = layers(operations, bytes_copied)
    print(f"{thread_count()} threads: products {operations / 1e6:.0f} GFLOP/s, copies "
          f"{bytes_copied / 1e6:.0f} GB/s\n{'layer, batch 32':<38}{'times':>6}{'ms':>8}{'floor':>8}"
          f"{'ratio':>7}{'above it, ms per step':>24}")
    for name, count, measured, floor in sorted(rows, key=lambda row: row[1] * (row[3] - row[2])):
        print(f"{name:<38}{count:>6}{measured:>8.2f}{floor:>8.2f}{measured / floor:>7.1f}"
              f"{count * (measured - floor):>24.1f}")


if __name__ == "__main__":
    main()
