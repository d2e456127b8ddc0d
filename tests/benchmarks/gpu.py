"""tinyres against PyTorch on this GPU: whole training steps of the paper's CIFAR network.

    python tests/benchmarks/gpu.py             needs a GPU, CuPy and PyTorch with CUDA; about five minutes

All contenders take turns in one process, at the same precision: tinyres launching kernel by kernel and
launching the captured step whole; PyTorch (channels_last, fused SGD) as it is and compiled. Figures are
medians over the rounds after a warm-up; each round launches several steps and then waits for the GPU. Ratios
are tinyres / PyTorch. The first line is what this GPU reaches: in a large copy, and in a large matrix product
at each precision. "products" and "memory" are the milliseconds that a step's products and tinyres's memory
traffic would take at those rates.
"""
from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy

import tinyres as tr
from tinyres.fast.gpu import block, capture, cublas, precision
from tinyres.training import loss_and_error, training_step

if not tr.backend.gpu_available():
    sys.exit(f"gpu.py needs a GPU: {tr.backend.why_no_gpu()}")
import cupy  # noqa: E402

try:
    import torch
except ImportError:
    torch = None

STEP_FLOP_PER_IMAGE = 2 * 1972.8e6 * 3  # forward and two gradients of 1972.8 million multiply-adds
# Bytes that a residual block moves, counted in images of its output (fast/gpu/block.py): forward, each of its
# two convolutions multiplies 1 into 3 and adds 3 up into 1; backward, it multiplies 3 into 3, adds 3 up into
# 3, and multiplies 1 by 3 for the kernel's gradient; the shortcut, its gradient and relu's are one more each.
IMAGES_PER_BLOCK = 2 * (8 + 12 + 4) + 3
STEPS = 10  # in one measurement
Work = Callable[[], object]


def step_bytes(batch_size: int, products: str) -> float:
    """Memory traffic of all residual blocks of the paper's network in one step."""
    numbers = batch_size * 9 * sum(side * side * width for side, width in ((32, 64), (16, 128), (8, 256)))
    return IMAGES_PER_BLOCK * numbers * (2 if products == "float16" else 4)


def tinyres_step(batch_size: int, products: str, captured: bool, arranged: bool = True) -> Work:
    tr.backend.use("cupy")
    precision.use(products)
    network = tr.models.cifar_net()
    if arranged:
        block.arrange(network)
    network = precision.Float16(network) if products == "float16" else network
    optimizer = tr.optim.SGD(network.parameters(), 0.05, 0.9, 1e-4)
    rng = numpy.random.default_rng(0)
    images = cupy.asarray(rng.standard_normal((batch_size, 32, 32, 3), "float32"))
    labels = cupy.asarray(rng.integers(0, 10, batch_size))
    compute = capture.captured(loss_and_error) if captured else loss_and_error
    return lambda: training_step(network, optimizer, images, labels, compute=compute)


def torch_step(batch_size: int, products: str, compiled: bool) -> Work:
    from parity import TorchNetwork
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = products != "float32"
    torch.backends.cudnn.benchmark = True
    tr.backend.use("numpy")
    network = TorchNetwork(tr.models.cifar_net()).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, 0.9, weight_decay=1e-4, fused=True)
    rng = numpy.random.default_rng(0)
    images = torch.from_numpy(rng.standard_normal((batch_size, 32, 32, 3), "float32").transpose(0, 3, 1, 2))
    images = images.cuda().contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(rng.integers(0, 10, batch_size)).cuda()
    forward = torch.compile(network) if compiled else network

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.float16, enabled=products == "float16"):
            loss = torch.nn.functional.cross_entropy(forward(images), labels)
        loss.backward()
        optimizer.step()

    return step


def milliseconds(work: Work, steps: int = STEPS) -> float:
    """The time of one call, where several are launched before the GPU is waited for."""
    start = time.perf_counter()
    for _ in range(steps):
        work()
    cupy.cuda.runtime.deviceSynchronize()
    return 1000 * (time.perf_counter() - start) / steps


def median(work: Work, rounds: int) -> float:
    milliseconds(work)
    return statistics.median(milliseconds(work) for _ in range(rounds))


def limits() -> tuple[float, dict[str, float]]:
    """Print and return the rates of this GPU: copies in TB/s, matrix products in TFLOP/s by precision."""
    source = cupy.ones(2**28, cupy.float32)
    target = cupy.empty_like(source)
    copy = 2 * source.nbytes / median(lambda: cupy.copyto(target, source), 5) / 1e9
    rates = {}
    tr.backend.use("cupy")
    for products in precision.PRECISIONS:
        precision.use(products)
        a = cupy.ones((8192, 8192), cupy.float16 if products == "float16" else cupy.float32)
        out = cupy.empty_like(a)
        rates[products] = 2 * 8192**3 / median(lambda: cublas.matmul(a, a, out), 5) / 1e9  # noqa: B023
    print(f"large copies {copy:.2f} TB/s; large matrix products, TFLOP/s: "
          + ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items()), flush=True)
    cupy.get_default_memory_pool().free_all_blocks()  # or it would serve what comes next, uncounted
    return copy, rates


def measure(batch_size: int, products: str, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """(median milliseconds, peak GiB) of each contender. One that fails is reported and left out."""
    makers = {"eager": lambda: tinyres_step(batch_size, products, False),
              "captured": lambda: tinyres_step(batch_size, products, True)}
    if torch and torch.cuda.is_available():
        makers |= {"torch": lambda: torch_step(batch_size, products, False),
                   "torch.compile": lambda: torch_step(batch_size, products, True)}
    steps, memory, times = {}, {}, {}
    for name, make in makers.items():
        try:
            free = cupy.cuda.runtime.memGetInfo()[0]
            work = make()
            if name in ("eager", "captured"):
                tr.backend.use("cupy")
            milliseconds(work)
            memory[name] = (free - cupy.cuda.runtime.memGetInfo()[0]) / 2**30
            steps[name], times[name] = work, []
        except Exception as error:
            print(f"{name} failed: {type(error).__name__}: {str(error)[:300]}", flush=True)
    for _ in range(rounds):
        for name, work in steps.items():
            if name in ("eager", "captured"):
                tr.backend.use("cupy")
            times[name].append(milliseconds(work))
    return {name: statistics.median(values) for name, values in times.items()}, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--precisions", nargs="+", default=precision.PRECISIONS, choices=precision.PRECISIONS)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    print(f"{name}, CuPy {cupy.__version__}, CUDA {cupy.cuda.runtime.runtimeGetVersion()}, "
          f"PyTorch {torch.__version__ if torch else 'not installed'}")
    copy, rates = limits()
    columns = "eager", "captured", "torch", "torch.compile"
    print(f"{'step of the paper network':<28}{'products':>9}{'memory':>8}"
          + "".join(f"{column:>15}" for column in columns)
          + f"{'best ratio':>12}{'images/s':>10}   ms")
    for products in args.precisions:
        for batch_size in args.batch_sizes:
            times, memory = measure(batch_size, products, args.rounds)
            floor = STEP_FLOP_PER_IMAGE * batch_size / rates[products] / 1e9
            traffic = step_bytes(batch_size, products) / copy / 1e9
            ours = min((times[name] for name in columns[:2] if name in times), default=float("nan"))
            theirs = min((times[name] for name in columns[2:3] if name in times), default=float("nan"))
            print(f"{f'batch {batch_size}, {products}':<28}{floor:>9.1f}{traffic:>8.1f}"
                  + "".join(f"{times.get(column, float('nan')):>15.2f}" for column in columns)
                  + f"{ours / theirs:>12.2f}{1000 * batch_size / ours:>10.0f}", flush=True)
            print(f"{'   its memory, GiB':<45}"
                  + "".join(f"{memory.get(column, float('nan')):>15.2f}" for column in columns), flush=True)
            cupy.get_default_memory_pool().free_all_blocks()
            if torch:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
