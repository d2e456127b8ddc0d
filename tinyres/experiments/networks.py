"""Four networks at equal cost: residual, plain, with batch normalization, and all-convolutional.

    python -m tinyres.experiments.networks                 60 runs; goes on where it was stopped
    python -m tinyres.experiments.networks --results FILE  pictures and table of the runs in a file

The abstract's third claim, and what normalization buys. Three of them are the network of `run_cifar.py
--laptop`; All-CNN-C of Springenberg et al. (2015) is narrower than published, so that an image costs as many
multiply-adds. Data, batches, steps and schedule are the same.

First each network takes a few steps at constant learning rates, each twice the one before; the largest at
which its loss falls below TRAINS is the largest at which it trains. Then it is trained at each of its three
rates with the first of --seeds and, at the best of them, with the others. The best has the lowest error on
the last 5,000 training images, on which no network is trained; the test images are looked at once, when a run
has ended. Each finished run adds a line to --results. Two pictures are drawn after every run: networks.png,
errors by step and losses by rate, and bars.png, the test errors.
"""
from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import backend, models, optim, plot
from ..cli.errors import run_script
from ..cli.options import Parser, non_negative_int, option, positive_int
from ..datasets import Dataset
from ..distributed.forked import forked, process_count
from ..module import evaluating
from ..nn import Conv2d, Module
from ..support.diverged import Diverged
from ..tensor import Tensor, no_grad
from ..training import Run, evaluate, load_checkpoint, read_metrics, train
from .depth import DATASETS, HELD_OUT, Results, read_results

WIDTHS = {"residual": (32, 64, 128, 256), "batch-norm": (32, 64, 128, 256), "plain": (32, 64, 128, 256),
          "all-convolutional": (44, 88)}
LRS = {"residual": (0.01, 0.02, 0.04), "batch-norm": (0.05, 0.1, 0.2), "plain": (0.01, 0.02, 0.04),
       "all-convolutional": (0.01, 0.02, 0.04)}
COLORS = {"residual": 4, "batch-norm": 3, "plain": 5, "all-convolutional": 1}
SHORT_STEPS, SHORT_LRS = 200, [0.0125 * 2**i for i in range(11)]  # to 12.8
TRAINS = math.log(10) - 0.1  # guessing one of ten classes gives log 10, in the mean of 50 batches too


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the command line."""
    epochs: int = option(8, "of each run", positive_int, "N")
    batch_size: int = option(64, "images per step", positive_int, "N")
    seeds: tuple[int, ...] = option((0, 1), "the seeds of the initial weights and the batches",
                                    non_negative_int, "N", nargs="+")
    dataset: str = option("cifar10", "what to learn", choices=DATASETS)
    data: Path = option(Path("data"), "the folder of the data sets", Path, "DIR")
    out: Path = option(Path("runs/networks"), "for checkpoints and pictures", Path, "DIR")
    results: Path | None = option(None, "default: results.jsonl in --out", Path, "FILE")
    backend: str = option("auto", "the array library; auto: CuPy if a GPU works",
                          choices=["auto", "numpy", "cupy"])


class Comparison:
    """The runs of all networks and the lines of those that have ended.

    common: dataset, epochs, batch_size, weight_decay, initial_scale.
    """

    def __init__(self, seeds: Sequence[int], common: dict[str, Any], results: Results) -> None:
        self.seeds, self.common, self.results = seeds, common, results

    def config(self, network: str, lr: float, seed: int, **more: Any) -> dict[str, Any]:
        """All that decides the course of a run. more: short_steps, of a short one."""
        return {**self.common, "network": network, "widths": list(WIDTHS[network]), "lr": lr, "seed": seed,
                **more}

    def result(self, config: dict[str, Any]) -> dict[str, Any] | None:
        """The line of a finished run, or None."""
        return next((line for line in self.results if config.items() <= line.items()
                     and ("short_steps" in line) == ("short_steps" in config)), None)

    def short(self, network: str) -> Results:
        """The lines of the short runs that have ended, by learning rate."""
        configs = [self.config(network, lr, self.seeds[0], short_steps=SHORT_STEPS) for lr in SHORT_LRS]
        return [line for config in configs if (line := self.result(config))]

    def largest_lr(self, network: str) -> float:
        """The largest learning rate at which a network trains, 0 if there is none."""
        return max([line["lr"] for line in self.short(network)
                    if line["loss"] is not None and line["loss"] < TRAINS], default=0.0)

    def best_lr(self, network: str) -> float | None:
        """The learning rate with the lowest error on held-out images; None before all have been tried."""
        lines = [self.result(self.config(network, lr, self.seeds[0])) for lr in LRS[network]]
        return None if None in lines else min(lines, key=lambda line: line["held_out_error"])["lr"]

    def finished(self, network: str) -> Results:
        """The lines at the best learning rate, one for each seed that has been run."""
        best = self.best_lr(network)
        lines = [self.result(self.config(network, best, seed)) for seed in self.seeds] if best else []
        return [line for line in lines if line]

    def runs_left(self) -> list[dict[str, Any]]:
        """The runs still to be made: short ones, all rates, other seeds; each of one network after another.

        Where the best rate is not yet known, the first one stands in for it.
        """
        planned = [self.config(network, lr, self.seeds[0], short_steps=SHORT_STEPS)
                   for network in WIDTHS for lr in SHORT_LRS]
        planned += [self.config(network, lr, self.seeds[0]) for network in WIDTHS for lr in LRS[network]]
        planned += [self.config(network, self.best_lr(network) or LRS[network][0], seed)
                    for network in WIDTHS for seed in self.seeds[1:]]
        return [config for config in planned if not self.result(config)]


def multiply_adds(network: Module, side: int = 32) -> int:
    """Those of all convolutions for one image of side x side pixels."""
    xp = backend.current()
    with no_grad(), evaluating(network):
        network(Tensor(xp.zeros((1, side, side, 3), "float32")))
    return sum(module.weight.data.size * math.prod(module.out_shape[1:3])
               for _, module in network.named_modules() if isinstance(module, Conv2d) and module.out_shape)


def make_run(config: dict[str, Any], dataset: Dataset, out: Path) -> dict[str, Any] | None:
    """Train one network, from its checkpoint if there is one, and return its line of results, or None if a
    signal ended the run early.

    A run that diverges is a result too, with errors of 1, and is not repeated.
    """
    learned = dataset.held_out(min(HELD_OUT, len(dataset.train.labels) // 10))
    batch_size, short = config["batch_size"], "short_steps" in config
    epoch = len(learned.train.labels) // batch_size
    steps = config["short_steps"] if short else config["epochs"] * epoch
    network = models.named_net(config["network"], len(dataset.classes), 1, config["widths"], config["seed"],
                               config["initial_scale"])
    optimizer = optim.SGD(network.parameters(), config["lr"], 0.9, config["weight_decay"])
    folder = out / f"{config['network']}{'-short' * short}-lr{config['lr']:g}-seed{config['seed']}"
    line = {**config, "steps": steps, "weights": network.num_parameters(),
            "multiply_adds": multiply_adds(network)}
    run = Run(folder, config, seed=config["seed"], evaluate_every=epoch, overwrite=short,
              metrics_every=SHORT_STEPS // 4 if short else None)
    if run.checkpoint.exists() and not short:
        if load_checkpoint(run.checkpoint).config != config:
            raise ValueError(f"{folder} holds a run with other settings: choose another --out")
        run.resume(network, optimizer)
    schedule: Callable[[int], float] = optim.one_cycle(config["lr"], steps)
    if short:
        schedule = lambda step: config["lr"]  # noqa: E731
    metrics = read_metrics(run.metrics_file)
    try:
        if run.step < steps:
            with forked(process_count(batch_size, network.num_parameters())) as run.group:
                metrics = train(network, optimizer, schedule, learned, run, steps=steps,
                                batch_size=batch_size)
        if metrics[-1]["step"] < steps:
            return None
        if short:
            return line | {"loss": metrics[-1]["train_loss"]}
        for name, split in ("held_out", learned.test), ("test", dataset.test):
            line[f"{name}_error"] = evaluate(network, split)["error"]
    except Diverged as error:
        print(error)
        return line | ({"loss": None} if short else dict(held_out_error=1.0, test_error=1.0, diverged=True))
    line["held_out_errors"] = [(done["step"], done["test_error"]) for done in metrics if "test_error" in done]
    return line


def draw_chart(path: Path, comparison: Comparison) -> None:
    """Draw the error on held-out images against the step, and the loss of short runs against the rate."""
    errors, losses = [], []
    for network, color in COLORS.items():
        for i, line in enumerate(comparison.finished(network)):
            steps, values = zip(*line.get("held_out_errors", [(0, 1.0)]), strict=True)
            errors.append(plot.Line(steps, [100 * value for value in values], "" if i else network,
                                    "dashed" if i else "solid", color))
        if short := [line for line in comparison.short(network) if line["loss"] is not None]:
            losses.append(plot.Line([line["lr"] for line in short], [line["loss"] for line in short],
                                    f"{network}: up to {comparison.largest_lr(network):g}", "solid", color))
    if losses:
        losses.append(plot.Line([SHORT_LRS[0], SHORT_LRS[-1]], [TRAINS] * 2, "trains below", "dotted", 0))
    plot.save(path, [
        plot.Panel(errors, "Error on 5,000 held-out images, each network at its best rate", "step", "%"),
        plot.Panel(losses, f"Loss after {SHORT_STEPS} steps at a constant learning rate", "learning rate",
                   "training loss", log_x=True, y_range=(1.0, 3.0))])


def draw_bars(path: Path, comparison: Comparison) -> None:
    """Draw a bar for each network, its mean test error, with a mark for each seed."""
    page, scale = plot.Drawing(2560, 980), 1300 / max(
        [line["test_error"] for network in WIDTHS for line in comparison.finished(network)], default=1.0)
    page.text(1280, 70, "Test error of four networks of equal cost, each at the best of three learning rates")
    for row, (network, color) in enumerate(COLORS.items()):
        y, lines = 220 + 200 * row, comparison.finished(network)
        page.text(520, y, network, align=1)
        if lines:
            errors = [line["test_error"] for line in lines]
            mean = statistics.mean(errors)
            page.box(560 + scale * mean / 2, y, scale * mean, 110, color=color)
            for error in errors:
                page.frame(560 + scale * error, y - 70, 0, 140, 0)
            seeds = ", ".join(f"{error:.1%}" for error in errors)
            page.text(600 + scale * max(errors), y, f"{mean:.1%}  ({seeds})", align=0)
    page.save(path)


def table(comparison: Comparison) -> Iterator[str]:
    """A line for each network with finished runs."""
    yield (f"{'network':18}{'widths':>16}{'weights':>11}{'multiply-adds':>15}{'rate':>7}{'held out':>10}"
           f"{'test, by seed':>18}{'trains up to':>14}")
    for network in WIDTHS:
        if lines := comparison.finished(network):
            first = lines[0]
            yield (f"{network:18}{'-'.join(map(str, first['widths'])):>16}{first['weights']:>11,}"
                   f"{first['multiply_adds']:>15,}{first['lr']:>7g}{first['held_out_error']:>10.1%}"
                   f"{', '.join(format(line['test_error'], '.1%') for line in lines):>18}"
                   f"{comparison.largest_lr(network):>14g}")


def main() -> None:
    options = Options(**Parser(__doc__, Options, prog="python -m tinyres.experiments.networks").typed())
    backend.use(options.backend)
    common = dict(dataset=options.dataset, epochs=options.epochs, batch_size=options.batch_size,
                  weight_decay=5e-4, initial_scale=0.3)  # as in run_cifar.py --laptop
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.results or options.out / "results.jsonl"
    comparison, dataset = Comparison(options.seeds, common, read_results(path)), None
    while True:
        draw_chart(options.out / "networks.png", comparison)
        draw_bars(options.out / "bars.png", comparison)
        if not (left := comparison.runs_left()):
            break
        print(f"\n{len(left)} runs left. {left[0]}", flush=True)
        dataset = dataset or DATASETS[options.dataset](options.data).moved_to(backend.current())
        if (line := make_run(left[0], dataset, options.out)) is None:
            sys.exit("Stopped and saved. The same command continues.")
        comparison.results.append(line)
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
    print("", *table(comparison), f"Pictures are in {options.out}, the results in {path}", sep="\n")


if __name__ == "__main__":
    run_script(main)
