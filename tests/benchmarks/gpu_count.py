"""What one training step of the paper's CIFAR network asks of a GPU: launches and bytes, kernel by kernel.

    python tests/benchmarks/gpu_count.py [--precision float16] [--plain]

In place of CuPy, it needs a module of that name that computes on the CPU and counts by name: LOG (launches)
and BYTES (read and written). Products are counted, not computed: each matrix once for each product that reads
or writes it. Where the matrices of a batch overlap, as the windows around two columns of pixels do, their
memory is counted once if a matrix is smaller than an eighth of the H100's cache of 50 MB, for then the next
one finds it there; "read again" is how much more it would be otherwise. Beside the bytes stand the
milliseconds that they take at 3.35 TB/s, the rate of an H100's memory.
--plain: with the definitions only. If captured, forward and backward pass are one launch by Python; this
counts what the GPU then runs.
"""
from __future__ import annotations

import argparse
import ctypes
import sys
from collections import Counter
from collections.abc import Iterable

import numpy

import tinyres as tr
from tinyres.cli.launch import in_precision
from tinyres.fast.gpu import cublas, lists, loss_scale, passes, precision
from tinyres.training import training_step

BYTES_PER_SECOND, CACHE_BYTES = 3.35e12, 50e6
ITEMSIZE = {2: 2, 0: 4, 1: 8}  # of cuBLAS's data types
NO_KERNEL = "SYNC", "H2D", "event", "np function", "GFLOP"  # beginnings of names in LOG that are no kernels'


class CountingLibrary:
    """A cuBLAS that counts the work and the memory traffic of products without computing them."""

    def __init__(self) -> None:
        self.launches, self.bytes, self.again, self.flop = 0, 0, 0, 0

    def __getattr__(self, name: str) -> object:
        return lambda *arguments: 0

    def cublasGemmStridedBatchedEx(self, *arguments: object) -> int:
        n, m, k = (argument.value for argument in arguments[3:6])
        batch = arguments[20]
        self.launches += 1
        self.flop += 2 * batch * n * m * k
        # both factors and the result as cuBLAS sees them: transposed, rows, columns, place of arguments
        for transposed, rows, columns, i in (arguments[1], n, k, 7), (arguments[2], k, m, 11), (0, n, m, 16):
            row, lines = (columns, rows) if transposed else (rows, columns)
            leading, step, size = arguments[i + 2], arguments[i + 3].value, ITEMSIZE[arguments[i + 1]]
            touched = numbers = batch * rows * columns
            if step < leading and rows * columns * size < CACHE_BYTES / 8:
                touched = min(numbers, lines * min(leading, row + (batch - 1) * step))
            self.bytes += touched * size
            self.again += (numbers - touched) * size
        return 0


def correct_counts(cupy: object) -> None:
    """Where a kernel reads or writes less or more than the arrays given to it, count what it does."""
    launch, launch_lists = passes._launch, lists._launch

    def launch_pass(name: str, shape: tuple, arrays: tuple, units: int, *settings: int) -> None:
        launch(name, shape, arrays, units, *settings)
        if name.startswith("combine"):
            partial, _, out, *parts = arrays
            pool, adds_parts = settings[4:6]
            moved = partial.nbytes + out.nbytes + pool**2 * partial.nbytes // 3
            moved += bool(adds_parts) * sum(array.nbytes for array in parts)
            cupy.BYTES["K combine"] += moved - sum(array.nbytes for array in arrays)

    def launch_on_lists(name: str, rows: Iterable[tuple], *arguments: object) -> None:
        rows = list(rows)
        launch_lists(name, rows, *arguments)
        kernel = "K " + name.split("<")[0]
        cupy.BYTES[kernel] += sum(array.nbytes for arrays in rows for array in arrays)
        if kernel == "K sgd":  # reads three arrays and writes two of them
            cupy.BYTES[kernel] += sum(w.nbytes + v.nbytes for w, _, v in rows)

    passes._launch, lists._launch = launch_pass, launch_on_lists


def count(products: str, batch_size: int, plain: bool) -> tuple[Counter[str], Counter[str], CountingLibrary]:
    """Launches and bytes by kernel, and the products, of the second step; the first one does more."""
    cupy = tr.backend.use("cupy")
    precision.use(products)
    library = CountingLibrary()
    cublas._cublas = lambda device: (library, ctypes.c_void_p(1))
    model = in_precision(products, tr.models.cifar_net())
    optimizer = tr.optim.SGD(model.parameters(), 0.05, 0.9, 1e-4)
    if products == "float16":
        optimizer = loss_scale.ScaledOptimizer(optimizer, model)
        optimizer.steps = 1  # Python looks at the first step, whose products are not computed here
    images = cupy.zeros((batch_size, 32, 32, 3), "float32")
    labels = cupy.zeros(batch_size, numpy.int64)
    correct_counts(cupy)
    for _ in range(2):
        cupy.LOG.clear(), cupy.BYTES.clear()
        library.__init__()
        if plain:
            with tr.kernel.plain():
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
        sys.exit("gpu_count.py needs, in place of CuPy, a module that counts launches and bytes")
    launches, sizes, library = count(args.precision, args.batch_size, args.plain)
    print(f"batch {args.batch_size}, {args.precision}{', definitions only' * args.plain}, "
          f"{library.flop / 1e12:.3f} TFLOP in products\n{'kernel':<32}{'launches':>9}{'GB':>9}{'ms':>8}")
    for name in sorted(launches, key=lambda name: -sizes[name]):
        print(f"{name:<32}{launches[name]:>9}{sizes[name] / 1e9:>9.3f}"
              f"{1e3 * sizes[name] / BYTES_PER_SECOND:>8.3f}")
    total = sum(sizes[name] for name in launches)
    milliseconds = 1e3 * total / BYTES_PER_SECOND
    print(f"{'total':<32}{sum(launches.values()):>9}{total / 1e9:>9.3f}{milliseconds:>8.3f}")
    print(f"{'read again, from the cache':<32}{'':>9}{library.again / 1e9:>9.3f}"
          f"{1e3 * library.again / BYTES_PER_SECOND:>8.3f}")


if __name__ == "__main__":
    main()
