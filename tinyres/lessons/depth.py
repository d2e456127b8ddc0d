"""Depth without identity: what is lost on the way through thirty layers?

Take the two networks of `python run_cifar.py --demo`: 31 convolutions, 15 blocks, and the same drawn shapes.

    residual    x + conv(relu(conv(x)))              starts as the paper says, close to the identity
    plain       relu(conv(relu(conv(x))))            starts as He et al. (2015) say, so that nothing vanishes

The residual network learns: after 250 steps it gets from 10 to 40 % of the test images wrong, since rounding
differs from machine to machine. The plain one keeps guessing: 90 %. The usual suspect is the gradient, which
is said to vanish on its way back through a deep network. Not here. He et al.'s weights preserve its size: in
the plain network the gradient of the first block is as large as that of the last, and as large as in the
residual one.

What vanishes, on the way forward, is the *difference between images*. At each layer, split the energy of the
activations, the mean of a^2, into what all images have in common and what tells them apart:

    mean a^2  =  mean over pixels and channels of (mean over images of a)^2        the same for every image
               + mean over pixels and channels of (variance over images of a)      what tells them apart

A ReLU's outputs are never negative, so they have a mean that all images share. The next layer mixes these
means into all of its channels, its ReLU adds to them, and so on: images look more alike from block to block.
After the last block most of what is left is the same for all images, and so is the answer: one tenth for each
class. The gradient is there, but almost all it can do is make a class more likely for all images at once.
Where x is added to h(x), what tells images apart is carried on, whatever h does.
"""
from __future__ import annotations

from pathlib import Path

import numpy

from .. import datasets, models, optim, plot, training
from ..backend import Array
from ..models import ResidualNetwork
from ..ops import softmax_cross_entropy
from ..support.pipes import end_with_reader
from ..tensor import Tensor, no_grad
from . import PICTURES, picture

LR, DROPS, BATCH = 0.1, (68, 350), 32  # the demo's


def varying_fraction(activations: Array) -> float:
    """The fraction of the energy of activations (N, ...) that differs between the N images, 0 to 1."""
    a = activations.astype(numpy.float64)
    return float(a.var(axis=0).mean() / (a**2).mean())


def varying_fractions(network: ResidualNetwork, images: Array) -> list[float]:
    """The varying fraction after the first convolution, and after each block."""
    with no_grad():
        return [varying_fraction(out.data) for *_, out in network.steps(Tensor(images))]


def gradient_norms(network: ResidualNetwork, images: Array, labels: Array) -> list[float]:
    """The norm of the gradient of the loss with respect to the weights of each block."""
    for parameter in network.parameters():
        parameter.grad = None
    softmax_cross_entropy(network(Tensor(images)), labels).backward()
    return [float(numpy.sqrt((block.conv1.weight.grad**2).sum() + (block.conv2.weight.grad**2).sum()))
            for block in network.blocks]


def main(steps: int = 250, out: Path = PICTURES) -> dict[str, list[list[float]]]:
    """Measure, train for `steps` steps, measure again and draw; return what was drawn, by network.

    For each network: fractions before, gradients before, fractions after, gradients after training.
    """
    print(__doc__)
    data = datasets.shapes(train=5000, test=200)
    images, labels = data.test.evaluation_batch(numpy.arange(200))
    rate, measured = optim.step_decay(LR, DROPS), {}
    print("                           | fraction that differs between images | gradients of the 15 blocks\n"
          "                           | first convolution  block 8  block 15 |  smallest   largest")
    for name in "residual", "plain":
        network = models.cifar_net(10, blocks=3, widths=(8, 16, 32, 48, 64), residual=name == "residual")
        optimizer = optim.SGD(network.parameters(), LR, weight_decay=1e-4)
        measured[name] = []
        for done in 0, steps:
            batches = datasets.loader.training_batches(data.train, BATCH, 0, 0, done)
            for step, (x, y) in enumerate(batches):
                optimizer.lr = rate(step)
                training.training_step(network, optimizer, x, y)
            fractions = varying_fractions(network, images)
            gradients = gradient_norms(network, images, labels)
            measured[name] += [fractions, gradients]
            error = training.evaluate(network, data.test)["error"]
            print(f"{name:9} step {done:3}, error {error:3.0%} | {fractions[0]:17.2f} {fractions[8]:8.2f} "
                  f"{fractions[15]:9.2f} | {min(gradients):9.4f} {max(gradients):9.4f}", flush=True)
    draw(measured, steps, picture(out, "depth.png"))
    return measured


def draw(measured: dict[str, list[list[float]]], steps: int, path: Path) -> None:
    """Four panels: fractions and gradients by block, before and after training."""
    panels = []
    for column in range(4):
        after, gradients = divmod(column, 2)
        lines = [plot.Line(range(gradients, 16), values[column], name, color=color)
                 for (name, values), color in zip(measured.items(), (4, 5), strict=True)]
        when = f"after {steps} steps" if after else "before training"
        panels.append(plot.Panel(
            lines, f"{'Gradient of each block' if gradients else 'What tells images apart'}, {when}",
            "block" if gradients else "block (0: the first convolution)",
            "norm of the gradient" if gradients else "fraction of the energy",
            log_y=bool(gradients), y_range=(1e-4, 10) if gradients else (0, 1)))
    plot.save(path, panels, "Thirty layers without identity keep the gradient and lose the images")


if __name__ == "__main__":
    end_with_reader()
    main()
