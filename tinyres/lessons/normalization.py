"""Identity and normalization: what does each of them do for a deep network?

Take one block of two convolutions in four kinds:

    residual                x + conv(relu(conv(x)))
    residual, normalized    x + norm(conv(relu(norm(conv(x)))))
    plain                   relu(conv(relu(conv(x))))
    plain, normalized       relu(norm(conv(relu(norm(conv(x))))))

norm is batch normalization: from each channel it subtracts the mean over a batch and its pixels, and divides
by the standard deviation. Put 2 or 15 such blocks after a first convolution, which makes 5 or 31
convolutions, and let each network take 100 steps on drawn shapes, at learning rates each four times the one
before. To guess one of ten classes gives a loss of log 10 = 2.3. There are four pictures.

Loss against rate, 5 convolutions. The normalized networks learn most at a rate of 0.32. The residual one has
its best rate at 0.02, and diverges at 0.32. The plain one hardly learns in so few steps.

Loss against rate, 31 convolutions. The plain network learns at no rate. With the identity it learns, at a
rate of 0.005; at 0.08 it diverges. Normalization instead of the identity makes it learn, too, if at 0.02.
With both it learns at every rate up to 0.32, and faster by far.

Before training. What tells images apart is the fraction of the activations' energy that varies between
images, as in the lesson depth. 15 plain blocks lose most of it. The identity keeps it: it carries x past
every block. Normalization keeps most of it: the mean that it subtracts is one that images have in common.

Loss by step, 31 convolutions, each network at its best rate.

So each of the two lets a deep network learn, but they do not replace each other: the identity alone needs
small rates, and normalization allows large ones, in the deep network only together with the identity. (The
figures differ a little from machine to machine.)
"""
from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy
from numpy.random import default_rng

from .. import datasets, optim, plot, training
from ..fast import memory_kept
from ..models import NormalizedBlock, ResidualNetwork
from ..nn import Conv2d, RandomProjection, ResidualBlock
from ..support.diverged import Diverged
from ..support.pipes import end_with_reader
from . import PICTURES, picture
from .depth import varying_fractions

KINDS = {"residual": (ResidualBlock, True), "residual, normalized": (NormalizedBlock, True),
         "plain": (ResidualBlock, False), "plain, normalized": (NormalizedBlock, False)}
COLORS = dict(zip(KINDS, (4, 3, 5, 1), strict=True))
DEPTHS = {5: 2, 31: 15}  # convolutions: blocks
RATES = [0.005 * 4**i for i in range(5)]  # 0.005 to 1.28
WIDTH, BATCH = 16, 32

Losses = dict[str, list[list[float]]]  # by kind and rate, those of each step


def network(kind: str, blocks: int) -> ResidualNetwork:
    """A convolution to 8 x 8 pixels, blocks of one kind, the mean over all pixels, a random projection.

    Weights start as in He et al. (2015); the more residual blocks, the smaller is each h(x), see Theorem 2.1.
    """
    block, residual = KINDS[kind]
    rng = default_rng(0)
    return ResidualNetwork(
        Conv2d(3, WIDTH, 3, stride=4, padding=1, rng=rng),
        [block(WIDTH, WIDTH, residual=residual, initial_scale=1 / blocks, rng=rng) for _ in range(blocks)],
        RandomProjection(WIDTH, 10, rng=rng))


def losses(kind: str, blocks: int, rate: float, steps: int, split: datasets.Split) -> list[float]:
    """The training loss of each step at a constant rate, until the network diverges."""
    model, found = network(kind, blocks), []
    optimizer = optim.SGD(model.parameters(), rate)
    with suppress(Diverged):
        for images, labels in datasets.loader.training_batches(split, BATCH, 0, 0, steps):
            found.append(float(training.training_step(model, optimizer, images, labels)[0]))
    return found


def last_losses(found: Sequence[Sequence[float]], steps: int) -> list[float]:
    """For each rate the mean of the last fifth, nan if the network diverged."""
    return [float(numpy.mean(values[-max(1, steps // 5):])) if len(values) == steps else numpy.nan
            for values in found]


def main(steps: int = 100, out: Path = PICTURES) -> dict[int, Losses]:
    """Measure and draw; return what was measured, by the number of convolutions."""
    print(__doc__)
    data, measured = datasets.shapes(train=2000, test=200), {}
    print(f"{'loss after ' + str(steps) + ' steps':38}" + "".join(f"{rate:>10g}" for rate in RATES))
    with memory_kept():
        for convolutions, blocks in DEPTHS.items():
            measured[convolutions] = {}
            for kind in KINDS:
                found = [losses(kind, blocks, rate, steps, data.train) for rate in RATES]
                row = "".join(f"{loss:10.2f}" if loss < numpy.inf else "  diverged"
                              for loss in last_losses(found, steps))
                print(f"{convolutions:2} convolutions, {kind:22}{row}", flush=True)
                measured[convolutions][kind] = found
    draw(picture(out, "normalization.png"), measured, steps, data.test)
    return measured


def draw(path: Path, measured: dict[int, Losses], steps: int, test: datasets.Split) -> None:
    """Four panels, as the page describes them."""
    panels = [plot.Panel([plot.Line(RATES, last_losses(found, steps), kind, color=COLORS[kind])
                          for kind, found in kinds.items()],
                         f"{convolutions} convolutions: loss after {steps} steps",
                         "learning rate (where the network diverges, the line ends)", "training loss",
                         log_x=True, y_range=(0, 3)) for convolutions, kinds in measured.items()]
    deep, blocks = list(DEPTHS.items())[-1]
    images, _ = test.evaluation_batch(numpy.arange(200))
    apart = [plot.Line(range(blocks + 1), varying_fractions(network(kind, blocks), images), kind,
                       color=COLORS[kind]) for kind in KINDS]
    best = {kind: int(numpy.nanargmin([*last_losses(found, steps), numpy.inf])) for kind, found
            in measured[deep].items()}
    steps_of = [plot.Line(range(1, steps + 1), measured[deep][kind][i], f"{kind}: rate {RATES[i]:g}",
                          color=COLORS[kind]) for kind, i in best.items() if i < len(RATES)]
    panels += [plot.Panel(apart, f"{deep} convolutions, before training: what tells images apart",
                          "block (0: the first convolution)", "fraction of the energy", y_range=(0, 1)),
               plot.Panel(steps_of, f"{deep} convolutions: loss at the best rate", "step", "training loss",
                          y_range=(0, 3))]
    plot.save(path, panels, "A deep network learns with identity or normalization; with both, fast and at "
                            "large rates")


if __name__ == "__main__":
    end_with_reader()
    main()
