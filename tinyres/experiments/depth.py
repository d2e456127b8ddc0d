"""Error against depth: residual networks and their plain twins, trained alike (the paper's title, measured).

    python -m tinyres.experiments.depth                           7, 13, 25 and 55 convolutions, 8 epochs each
    python -m tinyres.experiments.depth --blocks 1 2 --epochs 2   the same in small

For each depth and kind one run is made at every learning rate of --lrs, with the first of --seeds, and at the
best of them one with each other seed. Best is the lowest error on the last 5,000 training images, on which no
run is trained; the test images are looked at once, when a run has ended. Each finished run adds a line to
--results; a run that is interrupted goes on from its checkpoint below --out. After every run two pictures are
drawn: depth.png, error against depth, and identity.png, ||h(x)|| / ||x|| of the trained residual blocks
against their number, beside the 1/l of Theorem 2.1.
"""
from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from .. import backend, datasets, models, optim, plot
from ..cli.errors import run_script
from ..cli.options import Help, Parser, fraction, non_negative_int, positive_float, positive_int
from ..datasets import Dataset, Split
from ..distributed.forked import forked, process_count
from ..support.diverged import Diverged
from ..training import Run, evaluate, load_checkpoint, read_metrics, train

HELD_OUT = 5000  # training images on which learning rates are compared
KINDS = "residual", "plain"
DATASETS = {"cifar10": datasets.cifar10, "shapes": lambda root: datasets.shapes()}

Results = list[dict[str, Any]]  # the lines of a results file


class Setting(NamedTuple):
    """What tells two runs of an experiment apart."""
    kind: str
    blocks: int
    lr: float
    seed: int


class Experiment(NamedTuple):
    """What all runs of an experiment have in common, and which there are."""
    blocks: Sequence[int]
    lrs: Sequence[float]
    seeds: Sequence[int]
    common: dict[str, Any]  # dataset, widths, epochs, batch_size, weight_decay, initial_scale

    def result(self, results: Results, setting: Setting) -> dict[str, Any] | None:
        """The line of a finished run, or None."""
        asked = {**self.common, **setting._asdict()}
        return next((line for line in results if asked.items() <= line.items()), None)

    def best_lr(self, results: Results, kind: str, blocks: int) -> float | None:
        """The learning rate with the lowest error on held-out images; None before all have been tried."""
        lines = [self.result(results, Setting(kind, blocks, lr, self.seeds[0])) for lr in self.lrs]
        if None in lines:
            return None
        return min(lines, key=lambda line: line["held_out_error"])["lr"]

    def runs_left(self, results: Results) -> list[Setting]:
        """The runs that are still to be made, as far as they are known; the shallow ones come first.

        Where the best rate is not yet known, the first one stands for it.
        """
        left = []
        for blocks in self.blocks:
            for kind in KINDS:
                best = self.best_lr(results, kind, blocks)
                planned = [Setting(kind, blocks, lr, self.seeds[0]) for lr in self.lrs]
                planned += [Setting(kind, blocks, best or self.lrs[0], seed) for seed in self.seeds[1:]]
                left += [setting for setting in planned if not self.result(results, setting)]
        return left

    def finished(self, results: Results, kind: str, blocks: int) -> Results:
        """The lines at the best learning rate, one for each seed that has been run."""
        best = self.best_lr(results, kind, blocks)
        lines = [self.result(results, Setting(kind, blocks, best, seed)) for seed in self.seeds]
        return [line for line in lines if best and line]

    def convolutions(self, blocks: int) -> int:
        return 2 * blocks * len(self.common["widths"]) + 1


def make_run(experiment: Experiment, setting: Setting, dataset: Dataset, out: Path) -> dict[str, Any] | None:
    """Train one network, or go on with it, and return its line of results; None if a signal ended it early.

    A run that diverges has errors of 1: it is as wrong as can be, and not made again.
    """
    common, learned = experiment.common, dataset.held_out(min(HELD_OUT, len(dataset.train.labels) // 10))
    folder = out / f"{setting.kind}-{setting.blocks}-lr{setting.lr:g}-seed{setting.seed}"
    config = {**common, **setting._asdict()}
    steps = common["epochs"] * (len(learned.train.labels) // common["batch_size"])
    network = models.cifar_net(len(dataset.classes), setting.blocks, common["widths"],
                               setting.kind == "residual", setting.seed, common["initial_scale"])
    optimizer = optim.SGD(network.parameters(), setting.lr, 0.9, common["weight_decay"])
    step = 0
    if (folder / "checkpoint.npz").exists():
        checkpoint = load_checkpoint(folder / "checkpoint.npz")
        if checkpoint.config != config:
            raise ValueError(f"{folder} holds a run with other settings: choose another --out")
        network.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(checkpoint.optimizer)
        step = checkpoint.step
    line = {**config, "convolutions": experiment.convolutions(setting.blocks), "steps": steps}
    metrics = read_metrics(folder / "metrics.jsonl")
    try:
        if step < steps:
            with forked(process_count(common["batch_size"], network.num_parameters())) as group:
                run = Run(folder, config, seed=setting.seed, step=step, evaluate_every=steps, group=group)
                metrics = train(network, optimizer, optim.one_cycle(setting.lr, steps), learned, run,
                                steps=steps, batch_size=common["batch_size"])
        if metrics[-1]["step"] < steps:
            return None
        seen = Split(learned.train.images[:HELD_OUT], learned.train.labels[:HELD_OUT])
        splits = {"train": seen, "held_out": learned.test, "test": dataset.test}
        line |= {f"{name}_error": evaluate(network, split)["error"] for name, split in splits.items()}
    except Diverged as error:
        print(error)
        return line | dict(train_error=1.0, held_out_error=1.0, test_error=1.0, diverged=True)
    if setting.kind == "residual":
        line["residual_ratios"] = [round(ratio, 5) for ratio in metrics[-1]["residual_ratios"]]
    return line


def draw_depth(path: Path, experiment: Experiment, results: Results) -> None:
    """Draw test and training error against the number of convolutions: seeds as points, means as lines."""
    panels = []
    for split, title in ("test", "test error"), ("train", "training error"):
        lines = []
        for color, kind in (4, "residual"), (5, "plain"):
            found = [line for blocks in experiment.blocks
                     for line in experiment.finished(results, kind, blocks)]
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


def draw_identity(path: Path, experiment: Experiment, results: Results) -> None:
    """Draw the largest and the median ||h(x)|| / ||x|| of trained residual networks against their number of
    blocks, with the slopes of the power laws that fit them, and 1 / blocks."""
    found = [line for blocks in experiment.blocks for line in experiment.finished(results, "residual", blocks)
             if not line.get("diverged")]
    if not found:
        return
    blocks, lines = [len(line["residual_ratios"]) for line in found], []
    for color, (name, summary) in enumerate({"largest": max, "median": statistics.median}.items()):
        ratios = [summary(line["residual_ratios"]) for line in found]
        slope = f": slope {fitted_slope(blocks, ratios):.2f}" if len(set(blocks)) > 1 else ""
        lines.append(plot.Line(blocks, ratios, name + slope, "points", 4 + color))
    ends = sorted({min(blocks), max(blocks)})
    lines.append(plot.Line(ends, [1 / end for end in ends], "1 / blocks: slope -1", "dotted", 0))
    plot.save(path, plot.Panel(lines, "How far trained blocks are from the identity", "residual blocks",
                               "||h(x)|| / ||x||", log_x=True, log_y=True))


def read_results(path: Path) -> Results:
    """The lines of a results file, none if it is absent. Raises ValueError, naming the line, if damaged."""
    results = []
    for number, text in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            results.append(json.loads(text))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is no result: delete it ({error})") from None
    return results


def main() -> None:
    args = parse_arguments()
    backend.use(args.backend)
    common = {name: getattr(args, name) for name in
              ("dataset", "widths", "epochs", "batch_size", "weight_decay", "initial_scale")}
    experiment = Experiment(sorted(args.blocks), args.lrs, args.seeds, common)
    dataset = DATASETS[args.dataset](args.data).moved_to(backend.current())
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.results or args.out / "results.jsonl"
    results, start, done = read_results(path), time.perf_counter(), 0
    while True:
        draw_depth(args.out / "depth.png", experiment, results)
        draw_identity(args.out / "identity.png", experiment, results)
        if not (left := experiment.runs_left(results)):
            break
        work = sum(experiment.convolutions(setting.blocks) for setting in left)
        hours = (time.perf_counter() - start) / done * work / 3600 if done else math.nan
        print(f"\n{len(left)} runs left{f', about {hours:.1f} hours' if done else ''}. {left[0]}", flush=True)
        if (line := make_run(experiment, left[0], dataset, args.out)) is None:
            sys.exit("Stopped and saved. The same command goes on.")
        done += line["convolutions"]
        results.append(line)
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
    print_table(experiment, results)
    print(f"Pictures are in {args.out}, the results in {path}")


def print_table(experiment: Experiment, results: Results) -> None:
    """The mean errors over the seeds."""
    print(f"\n{'convolutions':>12}  {'kind':10}{'lr':>7}{'seeds':>7}{'train':>9}{'test':>9}")
    for blocks in experiment.blocks:
        for kind in KINDS:
            if found := experiment.finished(results, kind, blocks):
                train, test = (statistics.mean(line[f"{split}_error"] for line in found)
                               for split in ("train", "test"))
                print(f"{experiment.convolutions(blocks):12}  {kind:10}{found[0]['lr']:>7g}{len(found):>7}"
                      f"{train:>9.1%}{test:>9.1%}")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(prog="python -m tinyres.experiments.depth", description=__doc__, formatter_class=Help)
    parser.add_argument("--blocks", type=positive_int, nargs="+", default=[1, 2, 4, 9], metavar="N",
                        help="residual blocks per stage")
    parser.add_argument("--widths", type=positive_int, nargs="+", default=[16, 32, 64], metavar="N",
                        help="channels of each stage")
    parser.add_argument("--epochs", type=positive_int, default=8, metavar="N", help="of each run")
    parser.add_argument("--batch-size", type=positive_int, default=128, metavar="N", help="images per step")
    parser.add_argument("--lrs", type=positive_float, nargs="+", default=[0.05, 0.02], metavar="LR",
                        help="learning rates to choose from")
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[0, 1], metavar="N",
                        help="of weights and batches")
    parser.add_argument("--weight-decay", type=fraction, default=1e-4, help="times the weights, added to the "
                        "gradient")
    parser.add_argument("--initial-scale", type=positive_float, default=0.3, metavar="X",
                        help="of residual blocks, see nn.ResidualBlock")
    parser.add_argument("--dataset", choices=DATASETS, default="cifar10", help="what to learn")
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR",
                        help="the folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("runs/depth"), metavar="DIR",
                        help="for checkpoints and pictures")
    parser.add_argument("--results", type=Path, metavar="FILE", help="default: results.jsonl in --out")
    parser.add_argument("--backend", choices=["auto", "numpy", "cupy"], default="auto",
                        help="the array library; auto: CuPy if a GPU works")
    return parser.parse_args()


if __name__ == "__main__":
    run_script(main)
