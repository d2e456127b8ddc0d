"""tinyres against PyTorch on this CPU: whole training steps, inference, single convolutions, memory.

    python tests/benchmarks/cpu.py              needs PyTorch: pip install torch; about ten minutes on 2 cores

Both use all cores. The two take turns in one process, and the figures are medians after a warm-up. PyTorch
runs in its contiguous and its channels_last layout, and the better of the two counts. The last column is
tinyres with its plain im2col convolution alone, to show what the faster ones buy. Memory is the peak of a
process of its own.
"""
from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy

import tinyres as tr
from tinyres import conv

try:
    import torch
    from torch.nn import functional
except ImportError:
    sys.exit("cpu.py compares with PyTorch, which is not installed: pip install torch")

from parity import TorchNetwork

PAPER, SMALL = dict(), dict(blocks=1, widths=(16, 32, 64))
LAYERS = [(32, 32, 16, 64), (32, 32, 64, 64), (32, 16, 128, 128), (32, 8, 256, 256)]  # N, H = W, C, O


def medians(functions: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Seconds that each function takes: medians over rounds in which all of them take turns."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_number in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if round_number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def our_step(options: dict, batch_size: int, train: bool) -> Callable[[], None]:
    network = tr.models.cifar_net(**options)
    optimizer = tr.optim.SGD(network.parameters(), 0.05, 0.9, 1e-4)
    images, labels = batch(batch_size)

    def step() -> None:
        if not train:
            with tr.no_grad():
                network(tr.Tensor(images))
            return
        tr.softmax_cross_entropy(network(tr.Tensor(images)), labels).backward()
        optimizer.step()

    return step


def torch_step(options: dict, batch_size: int, train: bool, channels_last: bool) -> Callable[[], None]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = TorchNetwork(tr.models.cifar_net(**options)).to(memory_format=layout)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, 0.9, weight_decay=1e-4)
    images, labels = batch(batch_size)
    images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=layout)
    labels = torch.from_numpy(labels)

    def step() -> None:
        if not train:
            with torch.no_grad():
                network(images)
            return
        optimizer.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    return step


def batch(batch_size: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    rng = numpy.random.default_rng(0)
    return rng.standard_normal((batch_size, 32, 32, 3), dtype="float32"), rng.integers(0, 10, batch_size)


def plain(function: Callable[[], None]) -> Callable[[], None]:
    """The same with im2col for every convolution."""
    def run() -> None:
        before, conv.FAST_PATHS = conv.FAST_PATHS, ()
        try:
            function()
        finally:
            conv.FAST_PATHS = before
    return run


def our_layer(N: int, H: int, C: int, O: int) -> tuple[Callable[[], None], Callable[[], None]]:  # noqa: E741
    rng = numpy.random.default_rng(0)
    x = tr.Tensor(rng.standard_normal((N, H, H, C), dtype="float32"), requires_grad=True)
    w = tr.Tensor(rng.standard_normal((3, 3, C, O), dtype="float32"), requires_grad=True)
    g = rng.standard_normal((N, H, H, O), dtype="float32")

    def forward() -> None:
        with tr.no_grad():
            tr.conv2d(x, w, 1, 1)

    return forward, lambda: tr.conv2d(x, w, 1, 1).backward(g)


def torch_layer(N: int, H: int, C: int, O: int,  # noqa: E741
                channels_last: bool) -> tuple[Callable[[], None], Callable[[], None]]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(N, C, H, H).contiguous(memory_format=layout).requires_grad_()
    w = torch.randn(O, C, 3, 3).contiguous(memory_format=layout).requires_grad_()
    g = torch.randn(N, O, H, H).contiguous(memory_format=layout)

    def forward() -> None:
        with torch.no_grad():
            functional.conv2d(x, w, padding=1)

    def both() -> None:
        x.grad = w.grad = None
        functional.conv2d(x, w, padding=1).backward(g)

    return forward, both


def compare(name: str, ours: Callable[[], None], theirs: list[Callable[[], None]], repeats: int) -> None:
    candidates = {"ours": ours, "contiguous": theirs[0], "channels_last": theirs[1], "im2col": plain(ours)}
    times = medians(candidates, repeats)
    best = min(times["contiguous"], times["channels_last"])
    print(f"{name:<44} {1000 * times['ours']:>9.1f} {1000 * best:>9.1f} {times['ours'] / best:>7.2f} "
          f"{times['im2col'] / best:>7.2f}", flush=True)


def peak_memory(which: str) -> float:
    """Peak resident MiB of a fresh process that takes three steps of the paper's network at batch 128."""
    command = [sys.executable, __file__, "--peak", which]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="counted rounds of whole steps; default: 5")
    parser.add_argument("--only", default="", help="only the lines with this in their name")
    parser.add_argument("--peak", choices=["tinyres", "PyTorch"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        step = our_step(PAPER, 128, True) if args.peak == "tinyres" else torch_step(PAPER, 128, True, True)
        for _ in range(3):
            step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    print(f"{torch.get_num_threads()} threads, NumPy {numpy.__version__}, PyTorch {torch.__version__}\n")
    print(f"{'':44} {'tinyres':>9} {'PyTorch':>9} {'ratio':>7} {'im2col':>7}")
    print(f"{'':44} {'ms':>9} {'ms':>9} {'':>7} {'ratio':>7}")
    for name, options, batch_size, train in (
        ("(a) training step, paper's network, batch 32", PAPER, 32, True),
        ("(a) training step, paper's network, batch 128", PAPER, 128, True),
        ("(b) training step, 1 block 16-32-64, batch 128", SMALL, 128, True),
        ("(c) inference, paper's network, batch 128", PAPER, 128, False),
    ):
        if args.only in name:
            theirs = [torch_step(options, batch_size, train, last) for last in (False, True)]
            compare(name, our_step(options, batch_size, train), theirs, args.repeats)
    for shape in LAYERS:
        for part, what in enumerate(("forward", "forward and gradients")):
            name = f"(d) {shape[1]}x{shape[1]}, {shape[2]} -> {shape[3]}, {what}"
            if args.only in name:
                theirs = [torch_layer(*shape, last)[part] for last in (False, True)]
                compare(name, our_layer(*shape)[part], theirs, 15)
    if args.only in "(e) memory":
        ours, theirs = peak_memory("tinyres"), peak_memory("PyTorch")
        name = "(e) peak memory of (a) at batch 128, MiB"
        print(f"{name:<44} {ours:>9.0f} {theirs:>9.0f} {ours / theirs:>7.2f}")


if __name__ == "__main__":
    main()
