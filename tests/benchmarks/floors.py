"""Each layer of a residual network beside its floor, on this CPU.

    python tests/benchmarks/floors.py                                     the paper's network, batch 32
    python tests/benchmarks/floors.py --kernels Haswell                   as on a laptop without AVX-512
    python tests/benchmarks/floors.py --blocks 1 --widths 16 32 64 --batch-size 128
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
from collections import Counter
from collections.abc import Callable, Iterator

import measuring
import numpy

import tinyres as tr
from tinyres.conv import convolution_gradients, convolve
from tinyres.fast import memory_kept
from tinyres.fast.cpu.threads import parallel_map, thread_count
from tinyres.models import ResidualNetwork
from tinyres.ops import rectify, relu_gradient
from tinyres.optim import sgd_update
from tinyres.tensor import sum_of_two

Row = tuple[str, int, float, float]  # name, occurrences in a step, measured, floor, in milliseconds


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
    source = numpy.ones((16, 2**21), "float32")
    target = numpy.empty_like(source)
    copying = milliseconds(lambda: parallel_map(lambda i: numpy.copyto(target[i], source[i]), range(16)))
    return 2 * len(a) ** 3 / milliseconds(lambda: numpy.matmul(a, a, out=out)), 2 * source.nbytes / copying


def operations(method: str, pixels: int, C: int, O: int, first: bool) -> tuple[int, int]:  # noqa: E741
    """(forward, backward) of a convolution's products, as a method computes it. pixels: of the output, all
    images together. first: the input needs no gradient."""
    if method == "convolve_winograd":
        products = 2 * 36 * (pixels // 16) * C * O
        x_map, g_map = (2 * 240 * (pixels // 16) * channels for channels in (C, O))
        return products + x_map + g_map, 2 * products + 2 * x_map + g_map
    forward = 2 * pixels * 9 * C * O
    if method == "convolve_winograd_rows":
        forward = forward // 2 + 12 * pixels * (C + O)
    return forward, forward * (1 if first else 2)


def layers(net: ResidualNetwork, batch_size: int, product_rate: float, copy_rate: float) -> Iterator[Row]:
    """Each kind of layer of a network for images of 32 x 32 pixels."""
    rng = numpy.random.default_rng(0)

    def array(*shape: int) -> numpy.ndarray:
        return rng.standard_normal(shape, "float32")

    side, kinds, outputs = 32, Counter[tuple[int, int, int, int]](), Counter[tuple[int, int]]()
    for layer in [net.stem, *(conv for block in net.blocks for conv in (block.conv1, block.conv2))]:
        C, O = layer.weight.shape[2:]  # noqa: E741
        kinds[side, C, O, layer.stride] += 1
        side //= layer.stride
        outputs[side, O] += layer is not net.stem
    for (side, C, O, stride), count in kinds.items():  # noqa: E741
        x, w, pair = array(batch_size, side, side, C), array(3, 3, C, O), (stride, stride)
        g = array(batch_size, side // stride, side // stride, O)
        name = f"{side}x{side}x{C} -> {O}, stride {stride}"
        arguments, first = (x, w, pair, (1, 1)), C == 3
        forward, backward = operations(convolve.choose(*arguments).__name__, g.size // O, C, O, first)
        yield (f"{name}, forward", count, milliseconds(lambda: convolve(*arguments)),  # noqa: B023
               forward / product_rate)
        yield (f"{name}, backward", count,
               milliseconds(lambda: convolution_gradients(g, *arguments, (not first, True))),  # noqa: B023
               backward / product_rate)
    for (side, C), count in outputs.items():
        if count > 1:
            x, g = array(batch_size, side, side, C), array(batch_size, side, side, C)
            for times, arrays, kernel, inputs in ((count, 3, sum_of_two, (x, g)),
                                                  (count // 2, 2, rectify, (x,)),
                                                  (count // 2, 3, relu_gradient, (g, x))):
                yield (f"{side}x{side}x{C}, {kernel.__name__}", times,
                       milliseconds(lambda: kernel(*inputs)), arrays * x.nbytes / copy_rate)  # noqa: B023
    weights = [parameter.numpy() for parameter in net.parameters()]
    others = [[array(*w.shape) for w in weights] for _ in range(2)]
    yield (f"SGD, {net.num_parameters():,} weights", 1,
           milliseconds(lambda: sgd_update(weights, *others, 1e-9, 0.9, 1e-4)),
           5 * sum(w.nbytes for w in weights) / copy_rate)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--kernels", help="the processor whose kernels OpenBLAS takes, such as Haswell")
    args = parser.parse_args()
    if args.kernels and os.environ.get("OPENBLAS_CORETYPE") != args.kernels:
        measuring.again(*sys.argv[1:], OPENBLAS_CORETYPE=args.kernels)
        return
    measuring.begin(keep=args.kernels)
    net = tr.models.cifar_net(blocks=args.blocks, widths=args.widths)
    with memory_kept():
        product_rate, copy_rate = rates()
        rows = list(layers(net, args.batch_size, product_rate, copy_rate))
    print(f"{thread_count()} threads: products {product_rate / 1e6:.0f} GFLOP/s, copies "
          f"{copy_rate / 1e6:.0f} GB/s\n{f'layer, batch {args.batch_size}':<38}{'times':>6}{'ms':>8}"
          f"{'floor':>8}{'ratio':>7}{'above it, ms per step':>24}")
    for name, count, measured, floor in sorted(rows, key=lambda row: row[1] * (row[3] - row[2])):
        print(f"{name:<38}{count:>6}{measured:>8.2f}{floor:>8.2f}{measured / floor:>7.1f}"
              f"{count * (measured - floor):>24.1f}")
    measured, floor = (sum(row[1] * row[i] for row in rows) for i in (2, 3))
    print(f"{'all of a step':<44}{measured:>8.0f}{floor:>8.0f}{measured / floor:>7.1f}"
          f"{measured - floor:>24.0f}")


if __name__ == "__main__":
    main()
