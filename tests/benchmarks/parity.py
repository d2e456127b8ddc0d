"""The same network, weights and batches in PyTorch: do both give the same losses?

    python tests/benchmarks/parity.py             needs PyTorch: pip install torch

20 steps of a network of 2 blocks per stage, 5 of the paper's and 8 of a narrow All-CNN-C without dropout,
whose masks would differ, in float32 and float64, on noise tinted by class, so that there is something to
learn. Prints the largest relative difference of a loss beside its bound, and exits with status 1 if one
exceeds it; first the losses of PyTorch's All-CNN-C in float64, which tests/test_models.py holds.
"""
from __future__ import annotations

import sys

import measuring
import numpy

import tinyres as tr

try:
    import torch
    from torch.nn import functional
except ImportError:
    sys.exit("parity.py compares with PyTorch, which is not installed: pip install torch")

BOUNDS = {"float32": 1e-4, "float64": 1e-9}
LR, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 1e-4


def kernel(conv: tr.nn.Conv2d) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.from_numpy(conv.weight.numpy().transpose(3, 2, 0, 1).copy()))


def all_convolutional() -> tr.models.ResidualNetwork:
    network = tr.models.all_convolutional_net(widths=(4, 8), seed=3)
    for _, module in network.named_modules():
        if isinstance(module, tr.nn.Dropout):
            module.p = 0.0
    return network


class TorchAllConvolutional(torch.nn.Module):
    """The network of `all_convolutional` with the same weights."""

    def __init__(self, network: tr.models.ResidualNetwork) -> None:
        super().__init__()
        layers = [module for _, module in network.named_modules() if isinstance(module, tr.nn.Conv2d)]
        self.kernels = torch.nn.ParameterList(map(kernel, layers))
        self.biases = torch.nn.ParameterList(
            torch.nn.Parameter(torch.from_numpy(layer.bias.numpy().copy())) for layer in layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        strides, padding = (1, 1, 2, 1, 1, 2, 1, 1, 1), (1, 1, 1, 1, 1, 1, 0, 0, 0)
        for layer in zip(self.kernels, self.biases, strides, padding, strict=True):
            x = functional.relu(functional.conv2d(x, *layer))
        return x.mean(dim=(2, 3))


class TorchNetwork(torch.nn.Module):
    """A network of `tr.models` with the same weights, in PyTorch's layouts."""

    def __init__(self, network: tr.models.ResidualNetwork) -> None:
        super().__init__()
        self.stem, self.stem_options = kernel(network.stem), (network.stem.stride, network.stem.padding)
        self.kernels = torch.nn.ParameterList(
            kernel(conv) for block in network.blocks for conv in (block.conv1, block.conv2))
        self.strides = [block.stride for block in network.blocks]
        self.register_buffer("projection", torch.from_numpy(network.projection.matrix.numpy().copy()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.conv2d(x, self.stem, None, *self.stem_options)
        for i, stride in enumerate(self.strides):
            w1, w2 = self.kernels[2 * i], self.kernels[2 * i + 1]
            h = functional.relu(functional.conv2d(x, w1, stride=stride, padding=1))
            h = functional.conv2d(h, w2, padding=1)
            if stride > 1:
                x = functional.avg_pool2d(x, stride)
            added = h.shape[1] - x.shape[1]
            x = functional.pad(x, (0, 0, 0, 0, added // 2, added - added // 2)) + h
        return x.mean(dim=(2, 3)) @ self.projection


def losses_of_both(blocks: int, steps: int, batch_size: int, dtype: str) -> tuple[list[float], list[float]]:
    """blocks: per stage of a residual network; 0: All-CNN-C."""
    network = tr.models.cifar_net(blocks=blocks) if blocks else all_convolutional()
    for _, tensor in network.named_tensors():
        tensor.data = tensor.data.astype(dtype)
    twin = (TorchNetwork if blocks else TorchAllConvolutional)(network)
    optimizer = tr.optim.SGD(network.parameters(), LR, MOMENTUM, WEIGHT_DECAY)
    twin_optimizer = torch.optim.SGD(twin.parameters(), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)
    rng, ours, theirs = numpy.random.default_rng(0), [], []
    tints = rng.standard_normal((10, 1, 1, 3))
    for _ in range(steps):
        labels = rng.integers(0, 10, batch_size)
        images = (tints[labels] + rng.standard_normal((batch_size, 32, 32, 3))).astype(dtype)

        loss = tr.softmax_cross_entropy(network(tr.Tensor(images)), labels)
        loss.backward()
        optimizer.step()
        ours.append(loss.item())

        twin_loss = functional.cross_entropy(twin(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())),
                                             torch.from_numpy(labels))
        twin_optimizer.zero_grad()
        twin_loss.backward()
        twin_optimizer.step()
        theirs.append(twin_loss.item())
    return ours, theirs


def main() -> None:
    measuring.begin()
    failed = False
    print("All-CNN-C:", [round(loss, 12) for loss in losses_of_both(0, 8, 4, "float64")[1]])
    print(f"{'network':>20} {'steps':>6} {'dtype':>8} {'first loss':>11} {'last loss':>10} {'PyTorch':>10} "
          f"{'largest difference':>19} {'bound':>7}")
    for blocks, steps, batch_size in (2, 20, 16), (9, 5, 8), (0, 8, 4):
        for dtype, bound in BOUNDS.items():
            ours, theirs = losses_of_both(blocks, steps, batch_size, dtype)
            difference = max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))
            failed |= not difference <= bound
            name = f"{blocks} per stage" if blocks else "All-CNN-C"
            print(f"{name:>19} {steps:>7} {dtype:>8} {ours[0]:>11.5f} {ours[-1]:>10.5f} "
                  f"{theirs[-1]:>10.5f} {difference:>19.2e} {bound:>7.0e}")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
