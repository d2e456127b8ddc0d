"""What each variant for NumPy gains: its time beside the definition's, on the shapes of the paper's network.

    python tests/benchmarks/variants.py                          about two minutes

Batch 32, float32, milliseconds: medians of 9 calls in a row, after calls that do not count for a quarter of a
second. For the threads of BLAS, which the definitions use, keep a core busy for a while after their last
product, and the system takes some time to give each of two waking threads a core. A variant whose ratio is
not below 1 on the shapes that it takes has no reason to exist.
"""
from __future__ import annotations

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

ROUNDS, BATCH_SIZE, WARM_UP_SECONDS = 9, 32, 0.25


def work() -> Iterator[tuple[str, Kernel, tuple[object, ...]]]:
    """(name, kernel, arguments) for every kernel that has variants for NumPy."""
    rng = numpy.random.default_rng(0)

    def array(*shape: int) -> numpy.ndarray:
        return rng.standard_normal(shape, "float32")

    for side, C, O, stride in ((32, 3, 16, 1), (32, 16, 64, 1), (32, 64, 64, 1), (16, 128, 128, 1),  # noqa: E741
                               (8, 256, 256, 1), (32, 64, 128, 2), (16, 128, 256, 2), (32, 16, 16, 1)):
        x, w, pair = array(BATCH_SIZE, side, side, C), array(3, 3, C, O), (stride, stride)
        g = array(BATCH_SIZE, side // stride, side // stride, O)
        name = f"{side}x{side}x{C} -> {O}, stride {stride}"
        yield name, convolve, (x, w, pair, (1, 1))
        yield name, convolution_gradients, (g, x, w, pair, (1, 1), (True, True))
    for side, C in ((32, 64), (16, 128), (8, 256)):
        x, g = array(BATCH_SIZE, side, side, C), array(BATCH_SIZE, side, side, C)
        for kernel, arguments in ((sum_of_two, (x, g)), (rectify, (x,)), (relu_gradient, (g, x))):
            yield f"{side}x{side}x{C}", kernel, arguments
    weights = [parameter.numpy() for parameter in tr.models.cifar_net().parameters()]
    gradients, velocities = [[array(*w.shape) for w in weights] for _ in range(2)]
    yield "13.5 million weights", sgd_update, (weights, gradients, velocities, 1e-9, 0.9, 1e-4)


def milliseconds(function: Callable[..., object], arguments: tuple[object, ...]) -> float:
    start = time.perf_counter()
    function(*arguments)
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    measuring.begin()
    print(f"{'kernel':<22} {'work':<28} {'variant':<26} {'definition':>10} {'variant':>9} {'ratio':>6}")
    with memory_kept():
        for name, kernel, arguments in work():
            variant, medians = kernel.choose(*arguments), []
            for function in kernel.definition, variant:
                start = time.perf_counter()
                while time.perf_counter() < start + WARM_UP_SECONDS:
                    function(*arguments)
                medians.append(statistics.median(milliseconds(function, arguments) for _ in range(ROUNDS)))
            plain, fast = medians
            print(f"{kernel.__name__:<22} {name:<28} {variant.__name__:<26} {plain:>10.2f} {fast:>9.2f} "
                  f"{fast / plain:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
