"""The paper's CIFAR-10 run in PyTorch: with equal initial weights, batches and recipe, is the error the same?

    python tests/benchmarks/gpu_twin.py --out runs/gpu/twin          needs a GPU, CuPy and PyTorch with CUDA
    python tests/benchmarks/gpu_twin.py --backend numpy --dataset shapes --blocks 1 --widths 8 16 --steps 50

It saves every 1,000 steps and on SIGTERM, and goes on where it stopped. Convolutions are computed in TF32, as
with `run_cifar.py --precision tf32`.
"""
from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import numpy

import tinyres as tr
from tinyres.datasets.loader import evaluation_batches, training_batches

try:
    import torch
    from parity import TorchNetwork
    from torch.nn import functional
except ImportError:
    sys.exit("gpu_twin.py trains PyTorch, which is not installed: pip install torch")

DATASETS = {"cifar10": tr.datasets.cifar10, "shapes": lambda root: tr.datasets.shapes()}


def to_torch(array: tr.backend.Array) -> torch.Tensor:
    """A tensor of the same memory; images (N, H, W, C) become (N, C, H, W) in channels_last."""
    tensor = torch.from_numpy(array) if isinstance(array, numpy.ndarray) else torch.from_dlpack(array)
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def test_error(network: TorchNetwork, split: tr.datasets.Split) -> float:
    wrong = 0
    with torch.no_grad():
        for images, labels in evaluation_batches(split, 500):
            wrong += int((network(to_torch(images)).argmax(dim=1) != to_torch(labels)).sum())
    return wrong / len(split.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["numpy", "cupy"], default="cupy")
    parser.add_argument("--dataset", choices=DATASETS, default="cifar10")
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu/twin"))
    args = parser.parse_args()
    xp = tr.backend.use(args.backend)
    device = "cpu" if xp is numpy else "cuda"
    torch.backends.cudnn.benchmark = True
    train, test, _ = DATASETS[args.dataset](Path("data")).moved_to(xp)
    network = TorchNetwork(tr.models.cifar_net(10, args.blocks, args.widths)).to(
        device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.05, 0.9, weight_decay=1e-4)
    schedule = tr.optim.step_decay(0.05, [30_000 * args.steps // 50_000, args.steps])
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint, step = args.out / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    for images, labels in training_batches(train, 128, 0, step, args.steps):
        optimizer.param_groups[0]["lr"] = schedule(step)
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(to_torch(images)), to_torch(labels))
        loss.backward()
        optimizer.step()
        step += 1
        if step % 1000 == 0 or step == args.steps or stopped:
            torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step},
                       checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)
            print(f"PyTorch, step {step}/{args.steps}  loss {loss.item():.3f}  test error "
                  f"{test_error(network, test):.2%}", flush=True)
        if stopped:
            sys.exit(1)


if __name__ == "__main__":
    main()
