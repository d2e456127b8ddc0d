"""Error against depth: residual networks and their plain twins, trained alike (the paper's title, measured).

    python -m tinyres.experiments.depth                           7, 13, 25 and 55 convolutions, 8 epochs each
    python -m tinyres.experiments.depth --blocks 1 2 --epochs 2   the same on a small scale

sweep.py says which runs are made for each depth and kind, and what is kept of them. After every run two
pictures are drawn: depth.png, error against depth, and identity.png, ||h(x)|| / ||x|| of the trained residual
blocks against their number, beside the 1/l of Theorem 2.1.
"""
from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy

from .. import models, plot
from ..cli.errors import run_script
from ..cli.options import Parser, option, positive_int
from ..nn import Module
from .sweep import Config, Result, Sweep, SweepOptions

KINDS = "residual", "plain"


@dataclass(frozen=True, kw_only=True)
class Options(SweepOptions):
    """The options of the command line."""
    blocks: tuple[int, ...] = option((1, 2, 4, 9), "residual blocks per stage", positive_int, "N", nargs="+")
    widths: tuple[int, ...] = option((16, 32, 64), "channels of each stage", positive_int, "N", nargs="+")
    out: Path = Path("runs/depth")


def build(config: Config, classes: int) -> Module:
    """The network of a run."""
    return models.cifar_net(classes, config["blocks"], config["widths"], config["kind"] == "residual",
                            config["seed"], config["initial_scale"])


def finished(sweep: Sweep, kind: str) -> list[Result]:
    """The lines of a kind of network at the best learning rates, shallow networks first."""
    return [line for case in sweep.cases if case["kind"] == kind for line in sweep.finished(case)]


def draw_depth(path: Path, sweep: Sweep) -> None:
    """Draw test and training error against the number of convolutions: seeds as points, means as lines."""
    panels = []
    for split, title in ("test", "test error"), ("train", "training error"):
        lines = []
        for color, kind in (4, "residual"), (5, "plain"):
            found = finished(sweep, kind)
            depths = sorted({line["convolutions"] for line in found})
            means = [statistics.mean(100 * line[f"{split}_error"] for line in found
                                     if line["convolutions"] == depth) for depth in depths]
            lines += [plot.Line(depths, means, kind, "solid", color),
                      plot.Line([line["convolutions"] for line in found],
                                [100 * line[f"{split}_error"] for line in found], "", "points", color)]
        panels.append(plot.Panel(lines, title, "convolutions", "%", log_x=True))
    plot.save(path, panels)


def fitted_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent p of the power law y = c x^p that fits best: least squares of the logarithms."""
    return float(numpy.polyfit(numpy.log(x), numpy.log(y), 1)[0])


def draw_identity(path: Path, sweep: Sweep) -> None:
    """Draw the largest and the median ||h(x)|| / ||x|| of trained residual networks against their number of
    blocks, with the slopes of the power laws that fit them, and 1 / blocks."""
    found = [line for line in finished(sweep, "residual") if "residual_ratios" in line]
    if not found:
        return
    blocks, lines = [len(line["residual_ratios"]) for line in found], []
    for color, (name, summary) in enumerate({"largest": max, "median": statistics.median}.items()):
        ratios = [summary(line["residual_ratios"]) for line in found]
        fits = len(set(blocks)) > 1 and min(ratios) > 0
        slope = f": slope {fitted_slope(blocks, ratios):.2f}" if fits else ""
        lines.append(plot.Line(blocks, ratios, name + slope, "points", 4 + color))
    ends = sorted({min(blocks), max(blocks)})
    lines.append(plot.Line(ends, [1 / end for end in ends], "1 / blocks: slope -1", "dotted", 0))
    plot.save(path, plot.Panel(lines, "How far trained blocks are from the identity", "residual blocks",
                               "||h(x)|| / ||x||", log_x=True, log_y=True))


def main() -> None:
    options = Options(**Parser(__doc__, Options, prog="python -m tinyres.experiments.depth").typed())
    cases = [{"kind": kind, "blocks": blocks} for blocks in sorted(options.blocks) for kind in KINDS]
    sweep = Sweep(cases, options.lrs, options.seeds, options.common(options.widths))

    def draw(sweep: Sweep) -> None:
        draw_depth(options.out / "depth.png", sweep)
        draw_identity(options.out / "identity.png", sweep)

    sweep.make_all(options, build, draw)
    print_table(sweep)


def print_table(sweep: Sweep) -> None:
    """The mean errors over the seeds."""
    print(f"\n{'convolutions':>12}  {'kind':10}{'lr':>7}{'seeds':>7}{'train':>9}{'test':>9}")
    for case in sweep.cases:
        if found := sweep.finished(case):
            train, test = (statistics.mean(line[f"{split}_error"] for line in found)
                           for split in ("train", "test"))
            print(f"{found[0]['convolutions']:12}  {case['kind']:10}{found[0]['lr']:>7g}{len(found):>7}"
                  f"{train:>9.1%}{test:>9.1%}")


if __name__ == "__main__":
    run_script(main)
