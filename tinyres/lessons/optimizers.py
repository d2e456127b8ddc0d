"""Optimizers: three ways down the same valley.

f(x, y) = (x^2 + 40 y^2) / 2 is a long valley, 40 times as steep across (y) as along it (x). Near a minimum a
loss looks like this, in many more dimensions.

    SGD        w -= lr g. Across, a step multiplies y by 1 - 40 lr: with lr above 2 / 40 it grows without end.
               Along, a step multiplies x by only 1 - lr. The steepest direction limits lr, and the flattest
               one has to wait.
    momentum   v = 0.9 v + g, then w -= lr v. Gradients that keep their direction add up to ten times a single
               one; gradients that change sign cancel. Progress along the valley is fast now, but the path
               swings past the goal and back.
    Adam       divides an averaged gradient by the root of the averaged square, coordinate by coordinate, so
               steep and flat directions both move by about lr: the first step is as long in x as in y. Here
               lr is a length.
"""
from __future__ import annotations

from pathlib import Path

import numpy

from .. import ops, optim, plot
from ..support.pipes import end_with_reader
from ..tensor import Tensor
from . import PICTURES, picture

STEEPNESS, START, STEPS = numpy.array([1.0, 40.0]), (-10.0, 1.5), 60


def descend(optimizer_class: type[optim.Optimizer], **options: float) -> tuple[numpy.ndarray, numpy.ndarray]:
    """The path (STEPS + 1, 2) from START, and f at each of its points."""
    w = Tensor(numpy.array(START), requires_grad=True)
    optimizer = optimizer_class([w], **options)
    path, values = [], []
    for _ in range(STEPS + 1):
        loss = ops.sum(w * w * STEEPNESS) * 0.5
        loss.backward()
        path.append(w.data.copy())
        values.append(loss.item())
        optimizer.step()
    return numpy.array(path), numpy.array(values)


def main(out: Path = PICTURES) -> dict[str, tuple[numpy.ndarray, numpy.ndarray]]:
    """Descend, print and draw; return paths and values by name."""
    print(__doc__)
    runs = {"SGD, lr 0.045": descend(optim.SGD, lr=0.045, momentum=0.0),
            "momentum 0.9, lr 0.01": descend(optim.SGD, lr=0.01, momentum=0.9),
            "Adam, lr 0.5": descend(optim.Adam, lr=0.5)}
    for name, (_, values) in runs.items():
        print(f"{name:22} f = {values[0]:.0f} at the start, {values[10]:8.3f} after 10 steps, "
              f"{values[30]:7.3f} after 30, {values[60]:7.3f} after 60")
    angle = numpy.linspace(0, 2 * numpy.pi, 200)
    levels = [plot.Line(numpy.sqrt(2 * level) * numpy.cos(angle), numpy.sqrt(level / 20) * numpy.sin(angle),
                        "levels of f" if level == 2 else "", "dotted", 0) for level in (2, 10, 25, 50)]
    panels, descents = [], []
    for (name, (path, values)), color in zip(runs.items(), (5, 4, 3), strict=True):
        lines = [plot.Line(*path.T, name, color=color), plot.Line(*path.T, "", "points", color)]
        panels.append(plot.Panel([*levels, *lines], f"{name}: {STEPS} steps", "x", "y", y_range=(-2.4, 2.4)))
        descents.append(plot.Line(range(STEPS + 1), values, name, color=color))
    panels.append(plot.Panel(descents, "How far down", "step", "f", log_y=True))
    plot.save(picture(out, "optimizers.png"), panels)
    return runs


if __name__ == "__main__":
    end_with_reader()
    main()
