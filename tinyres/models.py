"""The paper's networks and those beside which they stand. `models.pretrained` is in the folder pretrained."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from numpy.random import Generator, default_rng

from .module import Module, evaluating
from .nn import BatchNorm2d, Conv2d, Dropout, RandomProjection, ResidualBlock, Sequential
from .ops import global_avg_pool2d, relu
from .support import layer_checks as checks
from .tensor import Tensor, no_grad


def is_residual(block: Any) -> bool:
    """Whether a block computes x + h(x): it has `h` and `shortcut`, and is not the plain twin of one."""
    return hasattr(block, "h") and hasattr(block, "shortcut") and getattr(block, "residual", True)


class ResidualNetwork(Module):
    """A convolution, residual blocks, the mean over all pixels, a fixed random projection.

    (N, H, W, 3) images -> (N, num_classes) logits. Made by `cifar_net` and `imagenet_net`, and by
    `all_convolutional_net`, which puts single convolutions in the place of blocks and projects nothing.
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


class NormalizedBlock(ResidualBlock):
    """A residual block, or its plain twin, with batch normalization after each convolution (He et al., 2015).

    Weights start as theirs, whatever `initial_scale` is: normalization undoes every scale.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, residual: bool = True,
                 initial_scale: float | None = None, rng: Generator | None = None) -> None:
        super().__init__(in_channels, out_channels, stride, residual=residual, initial_scale=1.0, rng=rng)
        self.norm1, self.norm2 = BatchNorm2d(out_channels), BatchNorm2d(out_channels)

    def h(self, x: Tensor) -> Tensor:
        """norm2(conv2(relu(norm1(conv1(x)))))."""
        return self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))


def cifar_net(num_classes: int = 10, blocks: int = 9, widths: Sequence[int] = (64, 128, 256),
              residual: bool = True, seed: int | Generator = 0, initial_scale: float | None = None,
              block: Callable[..., Module] = ResidualBlock) -> ResidualNetwork:
    """The paper's network for CIFAR-10 and CIFAR-100 (Table 1), 13,538,736 trainable weights at the defaults.

    blocks: residual blocks per stage. widths: channels of each stage; from the second stage on, the first
    block halves the resolution. residual: False gives the plain twin, without identity. seed: of the initial
    weights, or their generator. initial_scale: of residual blocks; default: the paper's (see
    nn.ResidualBlock). block: the class of the blocks, which is called as nn.ResidualBlock is; with
    NormalizedBlock, the first convolution is normalized as well.

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


def all_convolutional_net(num_classes: int = 10, widths: Sequence[int] = (96, 192),
                          seed: int | Generator = 0) -> ResidualNetwork:
    """All-CNN-C of Springenberg et al. (2015, "Striving for Simplicity"), which the paper compares itself
    with: 1,369,738 weights at the defaults, biases included.

    widths: channels before and after the second halving. The seed is also that of dropout's masks. Weights
    start as in He et al. (2015), biases at 0; ReLU after each convolution, the last one too.

    | layers                | kernel                     | stride | pixels out | dropout          |
    |-----------------------|----------------------------|--------|------------|------------------|
    | 2 convolutions        | 3 x 3 x 3 x 96, x 96 x 96  | 1      | 32 x 32    | 0.2 of the image |
    | 1 convolution         | 3 x 3 x 96 x 96            | 2      | 16 x 16    | 0.5 after it     |
    | 2 convolutions        | 3 x 3 x 96 x 192, x 192    | 1      | 16 x 16    |                  |
    | 1 convolution         | 3 x 3 x 192 x 192          | 2      | 8 x 8      | 0.5 after it     |
    | 1 without padding     | 3 x 3 x 192 x 192          | 1      | 6 x 6      |                  |
    | 2 convolutions        | 1 x 1 x 192 x 192, classes | 1      | 6 x 6      |                  |
    | global average pool   | 6 x 6                      |        | 1          |                  |

    Raises ValueError for other than two widths, widths < 1, or num_classes < 2.
    """
    if len(widths) != 2 or min(widths) < 1 or num_classes < 2:
        raise ValueError("all_convolutional_net: expected two widths >= 1 and num_classes >= 2, got widths "
                         f"{list(widths)}, num_classes {num_classes}")
    rng, channels = default_rng(seed), 3
    layers: list[Module] = []
    first, second = widths
    for width, size, stride, padding in [
            (first, 3, 1, 1), (first, 3, 1, 1), (first, 3, 2, 1), (second, 3, 1, 1), (second, 3, 1, 1),
            (second, 3, 2, 1), (second, 3, 1, 0), (second, 1, 1, 0), (num_classes, 1, 1, 0)]:
        std = (2 / (size**2 * channels)) ** 0.5
        convolution = Conv2d(channels, width, size, stride, padding, bias=True, std=std, rng=rng)
        before = [Dropout(0.2, rng=rng)] if not layers else []
        after = [Dropout(0.5, rng=rng)] if stride == 2 else []
        layers.append(Sequential(*before, convolution, relu, *after))
        channels = width
    return ResidualNetwork(layers[0], layers[1:], Sequential())


BLOCKS: dict[str, dict[str, Any]] = {  # options of `cifar_net` and `imagenet_net` by a network's name
    "residual": {}, "plain": {"residual": False}, "batch-norm": {"block": NormalizedBlock}}
NETWORKS = (*BLOCKS, "all-convolutional")


def named_net(network: str, num_classes: int, blocks: int, widths: Sequence[int], seed: int | Generator = 0,
              initial_scale: float | None = None) -> ResidualNetwork:
    """The network for CIFAR that has this name among NETWORKS; the all-convolutional one has no blocks."""
    if network == "all-convolutional":
        return all_convolutional_net(num_classes, widths, seed)
    return cifar_net(num_classes, blocks, widths, seed=seed, initial_scale=initial_scale, **BLOCKS[network])


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
    first = Sequential(stem, BatchNorm2d(stem.weight.shape[3])) if block is NormalizedBlock else stem
    return ResidualNetwork(first, layers, RandomProjection(channels, num_classes, rng=rng))
