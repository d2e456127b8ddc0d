"""How far the float32 gradient of the paper's whole network is from float64's, with each way to convolve.

    python tests/benchmarks/precision.py                       about 40 seconds and 5 GB

One batch of 32 noise images. Prints |g - g64| / |g64|, where |.| is the Euclidean norm and g the gradient of
all weights, or that of one kernel: of these, the median over the kernels. Also prints how many ReLUs of the
network are open in one run and closed in the other. Such a flip, where the input of a ReLU lies within
rounding error of 0, changes the gradient far more than rounding does: the median shows rounding alone.
Exits with status 1 if the error of the fast convolutions exceeds both 5 times that of im2col and 1e-4.
"""
from __future__ import annotations

import sys

import measuring
import numpy

import tinyres as tr
from tinyres import nn


def gradients(dtype: str) -> tuple[list[numpy.ndarray], list[numpy.ndarray]]:
    """The gradients of all kernels for one batch, cast to float64, and where each ReLU is open."""
    network, masks, relu = tr.models.cifar_net(), [], nn.relu

    def watched(x: tr.Tensor) -> tr.Tensor:
        masks.append(x.data > 0)
        return relu(x)

    for _, tensor in network.named_tensors():
        tensor.data = tensor.data.astype(dtype)
    rng = numpy.random.default_rng(0)
    images, labels = rng.standard_normal((32, 32, 32, 3)).astype("float32"), rng.integers(0, 10, 32)
    nn.relu = watched
    tr.softmax_cross_entropy(network(tr.Tensor(images.astype(dtype))), labels).backward()
    nn.relu = relu
    return [parameter.grad.astype("float64") for parameter in network.parameters()], masks


def main() -> None:
    measuring.begin()
    fast = gradients("float32")
    with tr.kernel.plain():
        (exact, exact_masks), reference = gradients("float64"), gradients("float32")
    whole = {}
    for name, (ours, masks) in {"as chosen": fast, "im2col": reference}.items():
        squares = [(((a - b) ** 2).sum(), (b**2).sum()) for a, b in zip(ours, exact, strict=True)]
        whole[name] = (sum(error for error, _ in squares) / sum(size for _, size in squares)) ** 0.5
        median = numpy.median([(error / size) ** 0.5 for error, size in squares])
        flips = sum((a != b).sum() for a, b in zip(masks, exact_masks, strict=True))
        print(f"{name:<12} all weights {whole[name]:.1e}   median kernel {median:.1e}   "
              f"{flips} flips of {sum(mask.size for mask in masks):,}")
    sys.exit(bool(whole["as chosen"] > max(5 * whole["im2col"], 1e-4)))


if __name__ == "__main__":
    main()
