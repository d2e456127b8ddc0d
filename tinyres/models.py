"""The paper's networks, and nothing else. `models.pretrained` is in the folder pretrained."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from numpy.random import Generator, default_rng

from .module import Module, evaluating
from .nn import Conv2d, RandomProjection, ResidualBlock
from .ops import global_avg_pool2d
from .support import layer_checks as checks
from .tensor import Tensor, no_grad


def is_residual(block: Any) -> bool:
    """Whether a block computes x + h(x): it has `h` and `shortcut`, and is not the plain twin of one."""
    return hasattr(block, "h") and hasattr(block, "shortcut") and getattr(block, "residual", True)


class ResidualNetwork(Module):
    """A convolution, residual blocks, the mean over all pixels, a fixed random projection.

    (N, H, W, 3) images -> (N, num_classes) logits. Made by `cifar_net` and `imagenet_net`.
    """

    def __init__(self, stem: Module, blocks: Sequence[Module], projection: Module) -> None:
        self.stem, self.blocks, self.projection = stem, blocks, projection

    def __call__(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The last block's output: (N, H, W, channels)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x

    def classify(self, features: Tensor) -> Tensor:
        """The logits of features: (N, H, W, channels) -> (N, num_classes)."""
        return self.projection(global_avg_pool2d(features))

    def steps(self, x: Tensor) -> Iterator[tuple[str, Any, Tensor, Tensor]]:
        """Walk images through the network: (name, block, x, out) for the stem, whose block is None, and for
        each block, with its input x and its output.

        Names are those of the parameters, "stem" and "blocks.0". A step is computed when it is asked for.
        """
        out = self.stem(x)
        yield "stem", None, x, out
        for i, block in enumerate(self.blocks):
            x, out = out, block(out)
            yield f"blocks.{i}", block, x, out

    def residual_ratios(self, images: Tensor) -> list[float]:
        """||h(x)|| / ||x|| of each residual block x + h(x), norms over all images: 0 is the identity.

        x is what the block's `shortcut` makes of it. Blocks without `h` and `shortcut`, and those of the
        plain twin, which add nothing to x, have no ratio.
        """
        ratios = []
        with no_grad(), evaluating(self):
            for _, block, x, _ in self.steps(images):
                if is_residual(block):
                    squares = [float((y.data ** 2).sum()) for y in (block.h(x), block.shortcut(x))]
                    ratios.append((squares[0] / max(squares[1], 1e-30)) ** 0.5)
        return ratios


def cifar_net(num_classes: int = 10, blocks: int = 9, widths: Sequence[int] = (64, 128, 256),
              residual: bool = True, seed: int | Generator = 0, initial_scale: float | None = None,
              block: Callable[..., Module] = ResidualBlock) -> ResidualNetwork:
    """The paper's network for CIFAR-10 and CIFAR-100 (Table 1), 13,538,736 trainable weights at the defaults.

    blocks: residual blocks per stage. widths: channels of each stage; from the second stage on, the first
    block halves the resolution. residual: False gives the plain twin, without identity. seed: of the initial
    weights, or their generator. initial_scale: of residual blocks; default: the paper's (see
    nn.ResidualBlock). block: the class of the blocks, which is called as nn.ResidualBlock is.

    The paper says 13.59 million weights; its Table 1 adds up to the number above.

    | layers              | kernel              | stride   | pixels out |
    |---------------------|---------------------|----------|------------|
    | 1 convolution       | 3 x 3 x 3 x 16      | 1        | 32 x 32    |
    | 9 residual blocks   | 3 x 3 x 16 x 64     | 1        | 32 x 32    |
    | 9 residual blocks   | 3 x 3 x 64 x 128    | 2 at top | 16 x 16    |
    | 9 residual blocks   | 3 x 3 x 128 x 256   | 2 at top | 8 x 8      |
    | global average pool | 8 x 8               |          | 1          |
    | random projection   | 256 x classes       |          |            |

    Raises ValueError for blocks < 1, no widths, widths < 1 or in decreasing order, or num_classes < 2.
    """
    rng = default_rng(seed)
    checks.network("cifar_net", num_classes, [blocks] * len(widths), widths)
    stem = Conv2d(3, min(16, widths[0]), 3, padding=1, rng=rng)
    return _build_stages(stem, num_classes, [blocks] * len(widths), widths, 1, rng, block, residual=residual,
                         initial_scale=initial_scale)


def imagenet_net(num_classes: int = 1000, blocks: Sequence[int] = (3, 4, 6, 3),
                 widths: Sequence[int] = (80, 168, 328, 672), seed: int | Generator = 0,
                 residual: bool = True, initial_scale: float | None = None,
                 block: Callable[..., Module] = ResidualBlock) -> ResidualNetwork:
    """The paper's network for ImageNet (section 4.2), 35,708,208 trainable weights at the defaults.

    blocks, widths: residual blocks and channels of each stage, whose first block halves the resolution. The
    other options are those of `cifar_net`. The paper prints no table, but says: all-convolutional, 34
    layers, 35.7 million weights. The 34-layer network of He et al. (2015) without its max pooling, in the
    widths below, is both.

    | layers              | kernel              | stride   | pixels out |
    |---------------------|---------------------|----------|------------|
    | 1 convolution       | 7 x 7 x 3 x 80      | 2        | 112 x 112  |
    | 3 residual blocks   | 3 x 3 x 80 x 80     | 2 at top | 56 x 56    |
    | 4 residual blocks   | 3 x 3 x 80 x 168    | 2 at top | 28 x 28    |
    | 6 residual blocks   | 3 x 3 x 168 x 328   | 2 at top | 14 x 14    |
    | 3 residual blocks   | 3 x 3 x 328 x 672   | 2 at top | 7 x 7      |
    | global average pool | 7 x 7               |          | 1          |
    | random projection   | 672 x classes       |          |            |

    Raises ValueError as `cifar_net` does, and unless blocks and widths are equal in number.
    """
    rng = default_rng(seed)
    checks.network("imagenet_net", num_classes, blocks, widths)
    stem = Conv2d(3, widths[0], 7, stride=2, padding=3, rng=rng)
    return _build_stages(stem, num_classes, blocks, widths, 2, rng, block, residual=residual,
                         initial_scale=initial_scale)


def _build_stages(stem: Conv2d, num_classes: int, blocks: Sequence[int], widths: Sequence[int],
                  first_stride: int, rng: Generator, block: Callable[..., Module],
                  **options: Any) -> ResidualNetwork:
    """Stages of residual blocks and a projection. first_stride: of the first stage; the others have 2.
    options: of the blocks."""
    channels, layers = stem.weight.shape[3], []
    for stage, width in enumerate(widths):
        for i in range(blocks[stage]):
            stride = 1 if i > 0 else first_stride if stage == 0 else 2
            layers.append(block(channels, width, stride, rng=rng, **options))
            channels = width
    return ResidualNetwork(stem, layers, RandomProjection(channels, num_classes, rng=rng))
