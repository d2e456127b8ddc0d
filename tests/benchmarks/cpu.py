"""tinyres beside other libraries on this CPU: whole training steps and inference, as a Markdown table.

    python tests/benchmarks/cpu.py                  every library takes the fastest instructions that it knows
    python tests/benchmarks/cpu.py --avx2           those of a processor without AVX-512
    python tests/benchmarks/cpu.py --only "batch 32" "batch 8$"    the rows that match one of these
    python tests/benchmarks/cpu.py --threads 1

It compares with what is installed (pip install torch onnx onnxruntime openvino): PyTorch with its contiguous
and its channels_last layout, torch.compile of the latter, and for inference ONNX Runtime and OpenVINO. A row
takes one to five minutes, most of them for the network of 55 convolutions at batch 128 and for compiling.

Each contender is a process of its own, which sleeps unless it is its turn, and has as many threads as there
are cores. Turns of TURN seconds alternate; figures are medians of milliseconds over the rounds that count.
Before, all must have given the same logits or losses. tinyres keeps memory and takes as many processes or
threads as run_cifar.py would; in a loop of one's own, one process without `memory_kept`. The definitions are
tinyres without variants: im2col for every convolution. Memory is the peak of all processes of a contender.
A figure in brackets does not count: with --avx2, that of ONNX Runtime where the processor has AVX-512.
"""
from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import math
import multiprocessing
import os
import re
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import measuring
import numpy

import tinyres as tr
from tinyres.distributed import Group
from tinyres.distributed.forked import forked, process_count
from tinyres.fast.cpu import machine
from tinyres.fast.cpu.threads import core_count

PAPER, DEEP = dict(), dict(widths=(16, 32, 64))
SMALL, FOUR = dict(blocks=1, widths=(16, 32, 64)), dict(blocks=1, widths=(32, 64, 128, 256))
TRAINERS = {"PyTorch": "torch", "its channels_last": "torch", "torch.compile": "torch"}  # and their packages
PEERS = {**TRAINERS, "ONNX Runtime": "onnxruntime", "OpenVINO": "openvino"}
# what keeps NumPy, PyTorch with oneDNN, and OpenVINO from AVX-512. Nothing keeps ONNX Runtime from it
AVX2 = {"OPENBLAS_CORETYPE": "Haswell", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
TURN, PAUSE = 0.3, 0.05  # seconds; after a turn, threads that wait for more work fall asleep
TOLERANCE = 1e-4  # the largest difference from our logits or loss, relative to the largest of them
Work = Callable[[], numpy.ndarray]


class Row(NamedTuple):
    name: str
    options: dict
    batch_size: int
    train: bool = True
    own_loop: bool = False
    definition: bool = False

    def network(self) -> tr.models.ResidualNetwork:
        return tr.models.cifar_net(**self.options)

    def batch(self) -> tuple[numpy.ndarray, numpy.ndarray]:
        rng = numpy.random.default_rng(0)
        images = rng.standard_normal((self.batch_size, 32, 32, 3), "float32")
        return images, rng.integers(0, 10, self.batch_size)


ROWS = (
    Row("training step, paper's network, batch 32", PAPER, 32),
    Row("training step, paper's network, batch 128", PAPER, 128),
    Row("training step, 16-32-64, batch 128", SMALL, 128),
    Row("training step, 16-32-64, batch 128, own loop", SMALL, 128, own_loop=True),
    Row("training step, 32-64-128-256, batch 64", FOUR, 64),
    Row("training step, 32-64-128-256, batch 64, own loop", FOUR, 64, own_loop=True),
    Row("training step, 55 convolutions, 16-32-64, batch 32", DEEP, 32, definition=True),
    Row("training step, 55 convolutions, 16-32-64, batch 8", DEEP, 8, definition=True),
    Row("inference, paper's network, batch 128", PAPER, 128, train=False),
    Row("inference, paper's network, batch 1", PAPER, 1, train=False),
    Row("inference, 32-64-128-256, batch 128", FOUR, 128, train=False),
    Row("inference, 32-64-128-256, batch 1", FOUR, 1, train=False),
)


def our_work(row: Row, group: Group) -> Work:
    """A training step, which returns the loss, or a forward pass, which returns logits, in tinyres."""
    net, (images, labels) = row.network(), row.batch()
    optimizer = tr.optim.SGD(net.parameters(), 0.05, 0.9, 1e-4)
    images, labels = images[group.shard], labels[group.shard]

    def step() -> numpy.ndarray:
        loss = tr.softmax_cross_entropy(net(tr.Tensor(images)), labels)
        loss.backward()
        group.all_reduce_mean([parameter.grad for parameter in optimizer.parameters])
        optimizer.step()
        return loss.numpy()

    return step if row.train else tr.no_grad()(lambda: net(tr.Tensor(images)).numpy())


def their_work(row: Row, contender: str, threads: int) -> Work:
    """The same in another library, with the same weights."""
    import torch
    from parity import TorchNetwork
    torch.set_num_threads(threads)
    layout = torch.contiguous_format if contender == "PyTorch" else torch.channels_last
    twin, (images, labels) = TorchNetwork(row.network()).train(row.train), row.batch()
    x, y = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)
    if contender == "ONNX Runtime":
        import onnxruntime
        file, settings = io.BytesIO(), onnxruntime.SessionOptions()
        with warnings.catch_warnings():  # that there is a newer exporter, which needs one more package
            warnings.simplefilter("ignore")
            torch.onnx.export(twin, (x,), file, input_names=["x"], dynamo=False)
        settings.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(file.getvalue(), settings, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"x": x.numpy()})[0]
    if contender == "OpenVINO":
        import openvino
        converted = openvino.convert_model(twin, example_input=x, input=list(x.shape))
        options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
                   "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.compile_model(converted, "CPU", options)
        return lambda: compiled(x.numpy())[0]

    x, twin = x.contiguous(memory_format=layout), twin.to(memory_format=layout)
    optimizer = torch.optim.SGD(twin.parameters(), 0.05, 0.9, weight_decay=1e-4, fused=True)
    if contender == "torch.compile":
        import torch._inductor.config
        torch._inductor.config.freezing = not row.train  # weights become constants, in the order that suits
        twin = torch.compile(twin)

    def step() -> numpy.ndarray:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach().numpy()

    return step if row.train else torch.no_grad()(lambda: twin(x).numpy())


def serve(connection: Connection, row: Row, contender: str, threads: int) -> None:
    """In a process of its own: do the work as often as asked; answer with the seconds of each, what the last
    one returned, and the peak memory in MiB."""
    import resource
    count = 1
    if contender == "tinyres" and row.train and not row.own_loop:
        count = process_count(row.batch_size, row.network().num_parameters())
    plain = tr.kernel.plain() if contender == "definitions" else contextlib.nullcontext()
    kept = tr.fast.memory_kept() if contender not in PEERS and not row.own_loop else contextlib.nullcontext()
    with plain, kept, forked(count) as group:
        work = their_work(row, contender, threads) if contender in PEERS else our_work(row, group)
        while times := int(group.all_reduce_sum(connection.recv() if group.rank == 0 else 0)[0]):
            start = time.perf_counter()
            for _ in range(times):
                result = work()
            seconds = (time.perf_counter() - start) / times
            mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            peak, *results = group.all_reduce_sum(mebibytes, *result.ravel())
            if group.rank == 0:
                connection.send((seconds, numpy.divide(results, group.size), peak))


def measure(row: Row, contenders: list[str], rounds: int, threads: int) -> list[dict[str, float]]:
    """[the median milliseconds of each contender, its peak MiB], after two rounds in which results are
    compared."""
    context = multiprocessing.get_context("spawn")
    connections: dict[str, Connection] = {}
    answers: dict[str, list[tuple]] = {contender: [] for contender in contenders}
    for contender in contenders:
        connections[contender], theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, row, contender, threads), daemon=True).start()
        theirs.close()  # so that a process that fails causes an EOFError here
    for i in range(rounds + 2):
        for contender, connection in connections.items():
            connection.send(1 if i < 2 else max(1, math.ceil(TURN / answers[contender][1][0])))
            try:
                answers[contender].append(connection.recv())
            except EOFError:
                sys.exit(f"{contender} has failed in: {row.name}")
            time.sleep(PAUSE)
            if i < 2:
                expected, given = answers["tinyres"][i][1], answers[contender][i][1]
                difference = abs(given - expected).max() / abs(expected).max()
                if not difference <= TOLERANCE:
                    sys.exit(f"{contender} differs from tinyres by {difference:.1e} in: {row.name}")
    for connection in connections.values():
        connection.send(0)
    for process in multiprocessing.active_children():
        process.join()
    return [{contender: 1000 * statistics.median(answer[0] for answer in given[2:])
             for contender, given in answers.items()},
            {contender: given[-1][2] for contender, given in answers.items()}]


def line(name: str, figures: dict[str, float], peers: list[str], apart: list[str]) -> str:
    """A line of the table. The best peer is bold; those apart are in brackets and do not count."""
    best = min((figures[peer] for peer in peers if peer in figures and peer not in apart), default=math.nan)

    def cell(contender: str) -> str:
        if contender not in figures:
            return ""
        text = f"{figures[contender]:.{max(0, 2 - int(math.log10(figures[contender])))}f}"
        return f"({text})" if contender in apart else f"**{text}**" if figures[contender] == best else text

    cells = [cell("tinyres"), *map(cell, peers), f"{figures['tinyres'] / best:.2f}", cell("definitions")]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--avx2", action="store_true", help="nothing newer than AVX2, where that can be said")
    parser.add_argument("--only", nargs="+", default=[""], metavar="PATTERN", help="rows that match one")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; default: 5")
    parser.add_argument("--threads", type=int, default=core_count(), help="default: as many as cores")
    args = parser.parse_args()
    limits = AVX2 if args.avx2 else {}
    if any(os.environ.get(name) != value for name, value in limits.items()):
        # compiled code is kept apart, for it differs
        measuring.again(*sys.argv[1:], **limits, TORCHINDUCTOR_CACHE_DIR=os.path.expanduser("~/.cache/avx2"))
        return
    measuring.begin(keep=limits.get("OPENBLAS_CORETYPE"))
    os.environ["OPENBLAS_NUM_THREADS"] = str(args.threads)
    peers = [peer for peer, package in PEERS.items() if importlib.util.find_spec(package) and
             importlib.util.find_spec("torch") and (peer != "torch.compile" or shutil.which("g++"))]
    versions = "".join(f"; {package} {version(package)}" for package in sorted({PEERS[p] for p in peers}))
    print(f"L2 {machine.l2_bytes() // 1024} KiB; {args.threads} threads{versions}"
          f"{''.join(f'; {name}={value}' for name, value in limits.items())}; not installed, or without "
          f"PyTorch or g++: {', '.join(peer for peer in PEERS if peer not in peers) or 'none'}\n")
    apart = ["ONNX Runtime"] if args.avx2 and "avx512f" in Path("/proc/cpuinfo").read_text() else []
    columns = ["ms", "tinyres", *peers, "ratio to the best", "definitions"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for row in ROWS:
        if any(re.search(pattern, row.name) for pattern in args.only):
            contenders = ["tinyres", *(peer for peer in peers if peer in TRAINERS or not row.train),
                          *["definitions"] * row.definition]
            times, peaks = measure(row, contenders, args.rounds, args.threads)
            print(line(row.name, times, peers, apart), flush=True)
            if row.train and row.options == PAPER and row.batch_size == 128:
                print(line("its peak memory, MiB", peaks, peers, []), flush=True)


if __name__ == "__main__":
    main()
