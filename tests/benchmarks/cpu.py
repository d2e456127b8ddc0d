"""tinyres against PyTorch on this CPU: whole training steps, inference, single convolutions, memory.

    python tests/benchmarks/cpu.py              needs PyTorch: pip install torch; about ten minutes on 2 cores

Each contender is a process of its own, uses all cores, and takes its turn in every round; figures are medians
over the rounds after a warm-up. tinyres uses as many processes or threads as run_cifar.py would. PyTorch runs
in its contiguous and in its channels_last layout, and the better of the two counts. The last two columns are
tinyres with its definitions only, im2col for every convolution, which shows what the variants gain; and, if
it is installed (pip install dezero matplotlib) and memory suffices, DeZero, whose convolution is im2col on
NumPy too. Memory is the peak over three steps, of all processes together.
"""
from __future__ import annotations

import argparse
import contextlib
import importlib.util
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

import measuring
import numpy

import tinyres as tr
from tinyres.distributed import Group
from tinyres.distributed.forked import forked, process_count
from tinyres.fast.cpu.threads import core_count

PAPER, SMALL = dict(), dict(blocks=1, widths=(16, 32, 64))
CONTENDERS = "tinyres", "contiguous", "channels_last", "im2col", "dezero"
CORES = core_count()
Work = Callable[[], object]


def network(options: dict, batch_size: int, train: bool, contender: str, group: Group) -> Work:
    """A training step or a forward pass of `tr.models.cifar_net(**options)` in the processes of a group."""
    rng = numpy.random.default_rng(0)
    images, labels = rng.standard_normal((batch_size, 32, 32, 3), "float32"), rng.integers(0, 10, batch_size)
    net = tr.models.cifar_net(**options)
    if contender in ("tinyres", "im2col"):
        optimizer = tr.optim.SGD(net.parameters(), 0.05, 0.9, 1e-4)
        images, labels = images[group.shard], labels[group.shard]

        def step() -> None:
            tr.softmax_cross_entropy(net(tr.Tensor(images)), labels).backward()
            group.all_reduce_mean([parameter.grad for parameter in optimizer.parameters])
            optimizer.step()

        return step if train else tr.no_grad()(lambda: net(tr.Tensor(images)))

    if contender == "dezero":
        return dezero_step(net, images, labels)

    import torch
    from parity import TorchNetwork
    layout = getattr(torch, "channels_last" if contender == "channels_last" else "contiguous_format")
    twin = TorchNetwork(net).to(memory_format=layout)
    torch_optimizer = torch.optim.SGD(twin.parameters(), 0.05, 0.9, weight_decay=1e-4)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).contiguous(memory_format=layout)
    y = torch.from_numpy(labels)

    def torch_step() -> None:
        torch_optimizer.zero_grad()
        torch.nn.functional.cross_entropy(twin(x), y).backward()
        torch_optimizer.step()

    return torch_step if train else torch.no_grad()(lambda: twin(x))


def dezero_step(net: tr.models.ResidualNetwork, images: numpy.ndarray, labels: numpy.ndarray) -> Work:
    """One training step of the same network, with the same weights, in DeZero."""
    numpy.int = int  # DeZero 0.0.13 is older than NumPy 2
    import dezero
    from dezero import functions

    class AddChannels(dezero.Function):
        def __init__(self, added: int) -> None:
            super().__init__()
            self.before, self.after = added // 2, added - added // 2

        def forward(self, x: numpy.ndarray) -> numpy.ndarray:
            return numpy.pad(x, [(0, 0), (self.before, self.after), (0, 0), (0, 0)])

        def backward(self, gy: dezero.Variable) -> dezero.Variable:
            return gy[:, self.before:gy.shape[1] - self.after]

    class Network(dezero.Model):
        def __init__(self) -> None:
            super().__init__()
            convolutions = [net.stem] + [conv for block in net.blocks for conv in (block.conv1, block.conv2)]
            for i, convolution in enumerate(convolutions):
                kernel = convolution.weight.numpy().transpose(3, 2, 0, 1).copy()
                setattr(self, f"w{i}", dezero.Parameter(kernel))

        def forward(self, x: numpy.ndarray) -> dezero.Variable:
            x = functions.conv2d(x, self.w0, pad=1)
            for i, block in enumerate(net.blocks):
                w1, w2 = getattr(self, f"w{2 * i + 1}"), getattr(self, f"w{2 * i + 2}")
                h = functions.conv2d(x, w1, stride=block.stride, pad=1)
                h = functions.conv2d(functions.relu(h), w2, pad=1)
                if block.stride > 1:
                    x = functions.average_pooling(x, block.stride, block.stride)
                x = (AddChannels(block.added_channels)(x) if block.added_channels else x) + h
            pixels = x.shape[2] * x.shape[3]
            means = functions.sum(functions.reshape(x, (*x.shape[:2], pixels)), axis=2) / pixels
            return functions.matmul(means, net.projection.matrix.numpy())

    model = Network()
    optimizer = dezero.optimizers.MomentumSGD(0.05, 0.9).setup(model)
    optimizer.add_hook(dezero.optimizers.WeightDecay(1e-4))
    x = images.transpose(0, 3, 1, 2).copy()

    def step() -> None:
        loss = functions.softmax_cross_entropy(model(x), labels)
        model.cleargrads()
        loss.backward()
        optimizer.update()

    return step


def layer(shape: tuple[int, int, int, int], train: bool, contender: str, group: Group) -> Work:
    """One 3 x 3 convolution of shape (N, H = W, C, O), forward alone or with both gradients."""
    N, H, C, O = shape  # noqa: E741
    rng = numpy.random.default_rng(0)
    x, w, g = (rng.standard_normal(s, "float32") for s in ((N, H, H, C), (3, 3, C, O), (N, H, H, O)))
    if contender in ("tinyres", "im2col"):
        image, kernel = tr.Tensor(x, requires_grad=True), tr.Tensor(w, requires_grad=True)
        if train:
            return lambda: tr.conv2d(image, kernel, 1, 1).backward(g)
        return tr.no_grad()(lambda: tr.conv2d(image, kernel, 1, 1))

    import torch
    layout = getattr(torch, "channels_last" if contender == "channels_last" else "contiguous_format")
    tx, tg, tw = (torch.from_numpy(a.copy()).contiguous(memory_format=layout)
                  for a in (x.transpose(0, 3, 1, 2), g.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1)))
    tx.requires_grad_(), tw.requires_grad_()

    def both() -> None:
        tx.grad = tw.grad = None
        torch.nn.functional.conv2d(tx, tw, padding=1).backward(tg)

    return both if train else torch.no_grad()(lambda: torch.nn.functional.conv2d(tx, tw, padding=1))


def serve(connection: Connection, make: Callable[..., Work], arguments: tuple, contender: str) -> None:
    """In a process of its own: do the work as often as asked; answer with the seconds of each, peak MiB."""
    import resource
    if contender not in ("tinyres", "im2col", "dezero"):
        import torch
        torch.set_num_threads(int(os.environ.get("OPENBLAS_NUM_THREADS", CORES)))
    plain = tr.kernel.plain() if contender == "im2col" else contextlib.nullcontext()
    kept = tr.fast.memory_kept() if contender in ("tinyres", "im2col") else contextlib.nullcontext()
    count = 1
    if contender == "tinyres" and make is network:  # as run_cifar.py does
        options, batch_size, _ = arguments
        count = process_count(batch_size, tr.models.cifar_net(**options).num_parameters())
    with plain, kept, forked(count) as group:  # as in tinyres.training.train
        work = make(*arguments, contender, group)
        while times := int(group.all_reduce_sum(connection.recv() if group.rank == 0 else 0)[0]):
            start = time.perf_counter()
            for _ in range(times):
                work()
            seconds = (time.perf_counter() - start) / times
            mebibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            answer = seconds, group.all_reduce_sum(mebibytes)[0]
            if group.rank == 0:
                connection.send(answer)


def measure(make: Callable[..., Work], arguments: tuple, rounds: int,
            contenders: tuple[str, ...] = CONTENDERS[:-1],
            times: int = 1) -> dict[str, tuple[float, float]]:
    """(median seconds, peak MiB) of each contender; the first two rounds are a warm-up.

    times: how often short work is repeated in one turn, so that waking up for it does not count.
    """
    context = multiprocessing.get_context("spawn")
    processes = {}
    for contender in contenders:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, make, arguments, contender), daemon=True)
        process.start()
        theirs.close()  # so that a process that fails causes an EOFError here
        processes[contender] = process, ours, []
    for _ in range(rounds + 2):
        for _, connection, answers in processes.values():
            connection.send(times)
            answers.append(connection.recv())
    for process, connection, _ in processes.values():
        connection.send(0)
        process.join()
    return {name: (statistics.median(seconds for seconds, _ in answers[2:]), answers[2][1])
            for name, (_, _, answers) in processes.items()}


def report(name: str, figures: dict[str, float]) -> None:
    best = min(figures["contiguous"], figures["channels_last"])
    dezero = f"{figures['dezero'] / best:.2f}" if "dezero" in figures else "-"
    print(f"{name:<48} {figures['tinyres']:>9.1f} {best:>9.1f} {figures['tinyres'] / best:>7.2f} "
          f"{figures['im2col'] / best:>7.2f} "
          f"{dezero:>7}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; default: 5")
    parser.add_argument("--only", default="", help="only the lines whose name contains this")
    args = parser.parse_args()
    measuring.begin()
    if importlib.util.find_spec("torch") is None:
        sys.exit("cpu.py compares with PyTorch, which is not installed: pip install torch")
    dezero_installed = importlib.util.find_spec("dezero") is not None
    print(f"{'':48} {'tinyres':>9} {'PyTorch':>9} {'ratio':>7} "
          f"{'im2col':>7} {'DeZero':>7}")
    for name, arguments in (
        ("(a) training step, paper's network, batch 32", (PAPER, 32, True)),
        ("(a) training step, paper's network, batch 128", (PAPER, 128, True)),
        ("(b) training step, 1 block, 16-32-64, batch 128", (SMALL, 128, True)),
        ("(c) inference, paper's network, batch 128", (PAPER, 128, False)),
    ):
        if args.only in name:
            with_dezero = dezero_installed and ("batch 32" in name or "(b)" in name)
            figures = measure(network, arguments, args.rounds, CONTENDERS[:None if with_dezero else -1],
                              times=30 if "(b)" in name else 3 if "batch 32" in name else 1)
            report(name + ", ms", {contender: 1000 * seconds for contender, (seconds, _) in figures.items()})
            if "128" in name and "(a)" in name:
                report("(e) its peak memory, MiB", {name: peak for name, (_, peak) in figures.items()})
    for shape in (32, 32, 64, 64), (32, 16, 128, 128), (32, 8, 256, 256):
        for train in False, True:
            name = (f"(d) {shape[0]} x {shape[1]}x{shape[1]}, {shape[2]} channels, forward"
                    f"{' and gradients' if train else ''}, ms")
            if args.only in name:
                figures = measure(layer, (shape, train), args.rounds, times=10)
                report(name, {contender: 1000 * seconds for contender, (seconds, _) in figures.items()})


if __name__ == "__main__":
    main()
