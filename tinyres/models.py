"""The paper's networks, and nothing else."""
from __future__ import annotations

from collections.abc import Sequence

import numpy

from .nn import Conv2d, Module, RandomProjection, ResidualBlock
from .ops import global_avg_pool2d
from .tensor import Tensor


class ResidualNetwork(Module):
    """A convolution, stages of residual blocks, the mean over all pixels, a fixed random projection.

    (N, H, W, 3) images -> (N, num_classes) logits. Made by `cifar_net`.
    """

    def __init__(self, stem: Conv2d, blocks: list[ResidualBlock], projection: RandomProjection) -> None:
        self.stem, self.blocks, self.projection = stem, blocks, projection

    def __call__(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.projection(global_avg_pool2d(x))


def cifar_net(num_classes: int = 10, blocks: int = 9, widths: Sequence[int] = (64, 128, 256),
              residual: bool = True, seed: int = 0) -> ResidualNetwork:
    """The paper's network for CIFAR-10 and CIFAR-100 (Table 1), 13,538,736 trainable weights at the defaults.

    blocks: residual blocks a stage. widths: channels of each stage; from the second stage on, the first block
    halves the resolution. residual: False gives the plain twin, without identity. seed: of the initial
    weights. The paper says 13.59 million weights; its Table 1 adds up to the number above.

    | layers              | kernel              | stride   | pixels out |
    |---------------------|---------------------|----------|------------|
    | 1 convolution       | 3 x 3 x 3 x 16      | 1        | 32 x 32    |
    | 9 residual blocks   | 3 x 3 x 16 x 64     | 1        | 32 x 32    |
    | 9 residual blocks   | 3 x 3 x 64 x 128    | 2 at top | 16 x 16    |
    | 9 residual blocks   | 3 x 3 x 128 x 256   | 2 at top | 8 x 8      |
    | global average pool | 8 x 8               |          | 1          |
    | random projection   | 256 x classes       |          |            |

    Raises ValueError for blocks < 1, no widths, widths that are < 1 or fall from one stage to the next,
    num_classes < 2.
    """
    widths = tuple(widths)
    if blocks < 1 or not widths or min(widths) < 1 or list(widths) != sorted(widths) or num_classes < 2:
        raise ValueError(f"cifar_net: expected blocks >= 1, widths >= 1 that do not fall, num_classes >= 2, "
                         f"got blocks {blocks}, widths {widths}, num_classes {num_classes}")
    rng = numpy.random.default_rng(seed)
    channels = min(16, widths[0])
    stem = Conv2d(3, channels, 3, padding=1, rng=rng)
    layers = []
    for stage, width in enumerate(widths):
        for i in range(blocks):
            stride = 2 if stage > 0 and i == 0 else 1
            layers.append(ResidualBlock(channels, width, stride, residual=residual, rng=rng))
            channels = width
    return ResidualNetwork(stem, layers, RandomProjection(channels, num_classes, rng=rng))
