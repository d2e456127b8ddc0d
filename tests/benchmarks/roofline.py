"""What NumPy can reach at best for each convolution of a network on this CPU, and what tinyres reaches.

    python tests/benchmarks/roofline.py                  1 block per stage, widths 16-32-64, batch 128
    python tests/benchmarks/roofline.py --blocks 9 --widths 64 128 256 --batch-size 32

For each layer, forward pass and both gradients together: the floating-point operations of the method that
computes it (Winograd's are fewer than the definition's), divided by the rate at which all cores multiply
matrices of that very shape from their caches; and the bytes that its copies read and write, divided by the
rate at which all cores copy large arrays. "bound" is the sum of both, since a matrix product cannot begin
before its operand is copied; "measured" is the median of 9 runs.
"""
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import measuring
import numpy

import tinyres as tr
from tinyres.conv import convolve
from tinyres.fast import memory_kept
from tinyres.fast.cpu.threads import parallel_map, thread_count


def seconds(work: Callable[[], object], runs: int = 9) -> float:
    """The median time of a call, after two that do not count."""
    times = []
    for _ in range(runs + 2):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def copy_rate() -> float:
    """Bytes read and written per second, all cores copying arrays larger than their caches."""
    source = numpy.ones((16, 2**21), "float32")
    target = numpy.empty_like(source)

    def copy(i: int) -> None:
        numpy.copyto(target[i], source[i])

    return 2 * source.nbytes / seconds(lambda: parallel_map(copy, range(len(source))))


def product_rate(rows: int, inner: int, columns: int) -> float:
    """Operations per second of many (rows, inner) @ (inner, columns) on all cores, within their caches."""
    stack = max(1, 2**18 // (rows * inner))  # a mebibyte: within the cache of a core
    left = numpy.ones((thread_count(), stack, rows, inner), "float32")
    right = numpy.ones((inner, columns), "float32")
    out = numpy.empty((thread_count(), stack, rows, columns), "float32")
    work = 2 * rows * inner * columns * stack
    repeats = max(1, int(1e8) // work)

    def multiply(core: int) -> None:
        for _ in range(repeats):
            numpy.matmul(left[core], right, out=out[core])

    return work * repeats * thread_count() / seconds(lambda: parallel_map(multiply, range(thread_count())))


def costs(method: str, pixels: int, C: int, O: int, inputs: int,  # noqa: E741
          first: bool) -> tuple[list[tuple[float, tuple[int, int, int]]], float]:
    """[(operations, shape) of each product] and bytes copied, of one layer, forward and its gradients.

    pixels: of the output, all images together; inputs: the same of the input. first: the input needs no
    gradient.
    """
    passes = 2 if first else 3
    if method == "winograd":
        tiles = pixels / 16
        points = 2 * 36 * tiles * C * O
        maps = 2 * tiles * 240 * (2 * C + (not first) * C + 2 * O)
        copies = 4 * (2 * 36 * tiles * (2 * C + (not first) * C) + 2 * pixels * 2 * O)
        return [(passes * points, (64, C, O)), (maps, (6, 6, C))], copies
    product = 2 * pixels * 9 * C * O
    if method == "winograd_rows":
        to_points, others = C + (C if first else O), O + (O if first else 2 * C)
        maps = 12 * pixels * (to_points + others)
        copies = 4 * 2.5 * pixels * (to_points + others)
        return [(passes * product / 2, (256, 3 * C, O)), (maps, (6, 6, 512))], copies
    copies = 4 * (2 * inputs * C + 2 * 9 * pixels * C) * passes
    return [(passes * product, (256, 9 * C, O))], copies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--batch-size", type=int, default=128)
    args = parser.parse_args()
    measuring.begin()
    net = tr.models.cifar_net(blocks=args.blocks, widths=args.widths)
    rate = copy_rate()
    print(f"{thread_count()} threads, copies {rate / 1e9:.0f} GB/s\n"
          f"{'convolution':<26}{'method':<12}{'GFLOP':>7}{'GFLOP/s':>9}{'MB':>7}{'products':>10}{'copies':>8}"
          f"{'bound':>7}{'measured':>10}   ms")
    rng, side, totals, seen = numpy.random.default_rng(0), 32, [0.0, 0.0], {}
    convolutions = [net.stem] + [c for block in net.blocks for c in (block.conv1, block.conv2)]
    for i, layer in enumerate(convolutions):
        C, O = layer.weight.shape[2:]  # noqa: E741
        out_side = side // layer.stride
        key = side, C, O, layer.stride
        if key not in seen:
            x, g = (rng.standard_normal((args.batch_size, s, s, c), "float32")
                    for s, c in ((side, C), (out_side, O)))
            pair = (layer.stride,) * 2
            variant = convolve.choose(x, layer.weight.data, pair, (1, 1))
            name = variant.__module__.rsplit(".", 1)[-1]
            products, copied = costs(name, g.size // O, C, O, x.size // C, i == 0)
            product_time = sum(work / product_rate(*shape) for work, shape in products)
            bound = product_time + copied / rate
            image = tr.Tensor(x, requires_grad=i > 0)
            with memory_kept():
                measured = seconds(lambda: layer(image).backward(g))  # noqa: B023
            work = sum(work for work, _ in products)
            seen[key] = bound, measured
            print(f"{f'{side}x{side}x{C} -> {O}, stride {layer.stride}':<26}{name:<14}{work / 1e9:>7.2f}"
                  f"{work / product_time / 1e9:>9.0f}{copied / 1e6:>7.0f}{1000 * product_time:>10.1f}"
                  f"{1000 * copied / rate:>8.1f}{1000 * bound:>7.1f}{1000 * measured:>10.1f}", flush=True)
        totals = [total + part for total, part in zip(totals, seen[key], strict=True)]
        side = out_side
    print(f"all {len(convolutions)} convolutions of the network: bound {1000 * totals[0]:.0f} ms, "
          f"measured {1000 * totals[1]:.0f} ms")


if __name__ == "__main__":
    main()
