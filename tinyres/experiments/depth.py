"""Error against depth: residual networks and their plain twins, trained alike (the paper's title, measured).

    python -m tinyres.experiments.depth                           7, 13, 25 and 55 convolutions, 8 epochs each
    python -m tinyres.experiments.depth --blocks 1 2 --epochs 2   the same on a small scale

For each depth and kind, one run is made at every learning rate of --lrs with the first of --seeds, and then,
at the best rate, one with each of the other seeds. The best rate has the lowest error on the last 5,000
training images, on which no run is trained; the test images are looked at once, when a run has ended. Each
finished run adds a line to --results; an interrupted run continues from its checkpoint below --out. After
every run two pictures are drawn: depth.png, error against depth, and identity.png, ||h(x)|| / ||x|| of the
trained residual blocks against their number, beside the 1/l of Theorem 2.1.
"""
from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from .. import backend, datasets, models, optim, plot
from ..cli.errors import run_script
from ..cli.launch import count_layers
from ..cli.options import Parser, fraction, non_negative_int, option, positive_float, positive_int
from ..datasets import Dataset, Split
from ..distributed.forked import forked, process_count
from ..nn import Conv2d
from ..support.diverged import Diverged
from ..training import Run, evaluate, load_checkpoint, read_metrics, train

HELD_OUT = 5000  # training images on which learning rates are compared
KINDS = "residual", "plain"
DATASETS = {"cifar10": datasets.cifar10, "shapes": lambda root: datasets.shapes()}

Results = list[dict[str, Any]]  # the lines of a results file


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the command line."""
    blocks: tuple[int, ...] = option((1, 2, 4, 9), "residual blocks per stage", positive_int, "N", nargs="+")
    widths: tuple[int, ...] = option((16, 32, 64), "channels of each stage", positive_int, "N", nargs="+")
    epochs: int = option(8, "of each run", positive_int, "N")
    batch_size: int = option(128, "images per step", positive_int, "N")
    lrs: tuple[float, ...] = option((0.05, 0.02), "learning rates to choose from", positive_float, "LR",
                                    nargs="+")
    seeds: tuple[int, ...] = option((0, 1), "the seeds of the initial weights and the batches",
                                    non_negative_int, "N", nargs="+")
    weight_decay: float = option(1e-4, "this multiple of the weights is added to the gradient", fraction)
    initial_scale: float = option(0.3, "of residual blocks, see nn.ResidualBlock", positive_float, "X")
    dataset: str = option("cifar10", "what to learn", choices=DATASETS)
    data: Path = option(Path("data"), "the folder of the data sets", Path, "DIR")
    out: Path = option(Path("runs/depth"), "for checkpoints and pictures", Path, "DIR")
    results: Path | None = option(None, "default: results.jsonl in --out", Path, "FILE")
    backend: str = option("auto", "the array library; auto: CuPy if a GPU works",
                          choices=["auto", "numpy", "cupy"])


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
        """The runs still to be made, shallow networks first.

        Where the best rate is not yet known, the first one stands in for it.
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


def make_run(experiment: Experiment, setting: Setting, dataset: Dataset, out: Path) -> dict[str, Any] | None:
    """Train one network, from its checkpoint if there is one, and return its line of results, or None if a
    signal ended the run early.

    A run that diverges is a result too, with errors of 1, and is not repeated.
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
    line = {**config, "convolutions": count_layers(network, Conv2d), "steps": steps}
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
    """The lines of a results file, none if it is absent. Raises ValueError that names a damaged line."""
    results = []
    for number, text in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        try:
            results.append(json.loads(text))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number} is not a result: delete it ({error})") from None
    return results


def main() -> None:
    options = Options(**Parser(__doc__, Options, prog="python -m tinyres.experiments.depth").typed())
    backend.use(options.backend)
    common = dict(dataset=options.dataset, widths=list(options.widths), epochs=options.epochs,
                  batch_size=options.batch_size, weight_decay=options.weight_decay,
                  initial_scale=options.initial_scale)
    experiment = Experiment(sorted(options.blocks), options.lrs, options.seeds, common)
    dataset = DATASETS[options.dataset](options.data).moved_to(backend.current())
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.results or options.out / "results.jsonl"
    results, start, done = read_results(path), time.perf_counter(), 0
    while True:
        draw_depth(options.out / "depth.png", experiment, results)
        draw_identity(options.out / "identity.png", experiment, results)
        if not (left := experiment.runs_left(results)):
            break
        work = sum(setting.blocks for setting in left)
        hours = (time.perf_counter() - start) / done * work / 3600 if done else math.nan
        print(f"\n{len(left)} runs left{f', about {hours:.1f} hours' if done else ''}. {left[0]}", flush=True)
        if (line := make_run(experiment, left[0], dataset, options.out)) is None:
            sys.exit("Stopped and saved. The same command continues.")
        done += line["blocks"]
        results.append(line)
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
    print_table(experiment, results)
    print(f"Pictures are in {options.out}, the results in {path}")


def print_table(experiment: Experiment, results: Results) -> None:
    """The mean errors over the seeds."""
    print(f"\n{'convolutions':>12}  {'kind':10}{'lr':>7}{'seeds':>7}{'train':>9}{'test':>9}")
    for blocks in experiment.blocks:
        for kind in KINDS:
            if found := experiment.finished(results, kind, blocks):
                train, test = (statistics.mean(line[f"{split}_error"] for line in found)
                               for split in ("train", "test"))
                print(f"{found[0]['convolutions']:12}  {kind:10}{found[0]['lr']:>7g}{len(found):>7}"
                      f"{train:>9.1%}{test:>9.1%}")


if __name__ == "__main__":
    run_script(main)
