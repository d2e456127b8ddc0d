"""What one training step of the paper's CIFAR network asks of a GPU: launches and bytes, kernel by kernel.

    python tests/benchmarks/gpu_count.py [--precision float16] [--plain]

It needs, in the place of CuPy, a module of that name that computes on the CPU and counts: LOG (launches)
and BYTES (read and written), by name. Products are counted, not computed: each matrix once for each
product that reads or writes it. Beside the bytes, the milliseconds that they take at 3.35 TB/s, the rate
of an H100's memory.
--plain: with the definitions only. Captured, forward and backward pass are one launch by Python; what is
counted here is what the GPU then runs.
"""
from __future__ import annotations

import argparse
import ctypes
import sys
from collections import Counter

import numpy

import tinyres as tr
from tinyres.fast import gpu, gpu_block, gpu_sgd, precision
from tinyres.training import training_step

BYTES_PER_SECOND = 3.35e12
ITEMSIZE = {2: 2, 0: 4, 1: 8}  # of cuBLAS's data types
NO_KERNEL = "SYNC", "H2D", "event", "np function", "GFLOP"  # names in LOG of what is no kernel


class CountingLibrary:
    """cuBLAS that counts the traffic of products, and their work, but does none of it."""

    def __init__(self) -> None:
        self.launches, self.bytes, self.flop = 0, 0, 0

    def __getattr__(self, name: str) -> object:
        return lambda *arguments: 0

    def cublasGemmStridedBatchedEx(self, *arguments: object) -> int:
        n, m, k = (argument.value for argument in arguments[3:6])
        batch, beta = arguments[20], arguments[15]._obj.value
        sizes = (ITEMSIZE[arguments[i]] for i in (8, 12, 17))
        numbers = n * k, k * m, n * m * (2 if beta else 1)
        self.launches += 1
        self.bytes += batch * sum(count * size for count, size in zip(numbers, sizes, strict=True))
        self.flop += 2 * batch * n * m * k
        return 0


def correct_counts(cupy: object) -> None:
    """Where a kernel reads less or more than the arrays that it is given, count what it reads and writes."""
    launch, at_once = gpu_block._launch, gpu_sgd._at_once

    def launch_combine(name: str, arrays: tuple, units: int, *settings: int) -> None:
        launch(name, arrays, units, *settings)
        if name.startswith("combine"):
            beside, read = arrays[1], settings[2] in (gpu_block.ADD, gpu_block.WHERE_POSITIVE)
            middle = beside.nbytes // (3 if beside.ndim == 5 else 1)  # of a stack the middle pixels only
            cupy.BYTES["K combine"] -= beside.nbytes - middle * read

    def update(parameters: list, *settings: float) -> None:
        at_once(parameters, *settings)
        cupy.BYTES["K sgd"] += 5 * sum(weight.nbytes for weight, *_ in parameters)  # reads 3, writes 2

    gpu_block._launch = launch_combine
    gpu_sgd._at_once = update


def count(products: str, batch_size: int, plain: bool) -> tuple[Counter[str], Counter[str], CountingLibrary]:
    """(launches, bytes) by kernel, and products, of the second step: the first has things made once."""
    cupy = tr.backend.use("cupy")
    precision.use(products)
    library = CountingLibrary()
    gpu._cublas = lambda device: (library, ctypes.c_void_p(1))
    model = tr.models.cifar_net()
    gpu_block.arrange(model)
    model = precision.Float16(model) if products == "float16" else model
    optimizer = tr.optim.SGD(model.parameters(), 0.05, 0.9, 1e-4)
    images = cupy.zeros((batch_size, 32, 32, 3), "float32")
    labels = cupy.zeros(batch_size, numpy.int64)
    correct_counts(cupy)
    for _ in range(2):
        cupy.LOG.clear(), cupy.BYTES.clear()
        library.__init__()
        if plain:
            with tr.backend.plain():
                training_step(model, optimizer, images, labels)
        else:
            training_step(model, optimizer, images, labels)
    launches = Counter({name: n for name, n in cupy.LOG.items() if not name.startswith(NO_KERNEL)})
    launches["products (cuBLAS)"] += library.launches
    sizes = Counter(cupy.BYTES)
    sizes["products (cuBLAS)"] += library.bytes
    return launches, sizes, library


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=precision.PRECISIONS, default="tf32")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--plain", action="store_true")
    args = parser.parse_args()
    if not tr.backend.gpu_available() or not hasattr(tr.backend.cupy, "BYTES"):
        sys.exit("gpu_count.py needs, in the place of CuPy, a module that counts launches and bytes")
    launches, sizes, library = count(args.precision, args.batch_size, args.plain)
    print(f"batch {args.batch_size}, {args.precision}{', definitions only' * args.plain}, "
          f"{library.flop / 1e12:.3f} TFLOP in products\n{'kernel':<32}{'launches':>9}{'GB':>9}{'ms':>8}")
    for name in sorted(launches, key=lambda name: -sizes[name]):
        print(f"{name:<32}{launches[name]:>9}{sizes[name] / 1e9:>9.3f}"
              f"{1e3 * sizes[name] / BYTES_PER_SECOND:>8.3f}")
    total = sum(sizes[name] for name in launches)
    milliseconds = 1e3 * total / BYTES_PER_SECOND
    print(f"{'total':<32}{sum(launches.values()):>9}{total / 1e9:>9.3f}{milliseconds:>8.3f}")


if __name__ == "__main__":
    main()
