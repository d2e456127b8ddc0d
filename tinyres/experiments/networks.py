"""Four networks at equal cost: residual, with batch normalization, plain, and all-convolutional.

    python -m tinyres.experiments.networks                        16 runs of 8 epochs, and 44 of 400 steps

Does a radically simple residual network keep up with others, as the paper's abstract claims, and what does
normalization buy? Three of them have nine convolutions; All-CNN-C of Springenberg et al. (2015) is narrower
than published, so that an image costs as many multiply-adds. Data, batches, steps and schedule are the same;
each network has learning rates of its own.

sweep.py says which runs are made, and what is kept of them. Then each network takes some steps at constant
learning rates, each twice the one before; it trains at a rate if its loss ends below TRAINS. Results of these
short runs are in a file beside --results, whose name ends in -rates. Two pictures are drawn: networks.png,
errors by step and losses by rate, and bars.png, test errors.
"""
from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from .. import backend, models, plot
from ..cli.errors import run_script
from ..cli.options import Parser, option, positive_float
from ..datasets import Dataset
from ..module import evaluating
from ..nn import Conv2d, Module
from ..support.diverged import Diverged
from ..tensor import Tensor, no_grad
from ..training import Run
from ..training.folder_lock import FolderLock
from ..training.json_lines import append_lines, read_lines
from .sweep import HELD_OUT, Config, Result, Sweep, SweepOptions, train_in


class Contender(NamedTuple):
    """One of the networks: its widths, the learning rates to choose from, its color."""
    widths: tuple[int, ...]
    lrs: tuple[float, ...]
    color: int


CONTENDERS = {
    "residual": Contender((32, 64, 128, 256), (0.02, 0.04, 0.08), 4),
    "batch-norm": Contender((32, 64, 128, 256), (0.05, 0.1, 0.2), 3),
    "plain": Contender((32, 64, 128, 256), (0.02, 0.04, 0.08), 5),
    "all-convolutional": Contender((44, 88), (0.02, 0.04, 0.08), 1)}
Lines = dict[str, list[Result]]  # results by network

RATES = [0.0125 * 2**i for i in range(11)]  # 0.0125 to 12.8
SHORT_STEPS, LAST_STEPS = 400, 50  # of a short run; those over which its loss is averaged
TRAINS = math.log(10) - 0.1  # who guesses one of ten classes has a mean loss of log 10


@dataclass(frozen=True, kw_only=True)
class Options(SweepOptions):
    """The options of the command line."""
    batch_size: int = 64
    lrs: tuple[float, ...] = option((), "learning rates to choose from; default: three for each network",
                                    positive_float, "LR", nargs="+")
    weight_decay: float = 5e-4
    out: Path = Path("runs/networks")


def sweep_of(options: Options, network: str) -> Sweep:
    """The long runs of a network."""
    contender = CONTENDERS[network]
    return Sweep([{"network": network}], options.lrs or contender.lrs, options.seeds,
                 options.common(contender.widths))


def build(config: Config, classes: int) -> Module:
    """The network of a run."""
    return models.named_net(config["network"], classes, 1, config["widths"], config["seed"],
                            config["initial_scale"])


def multiply_adds(network: Module) -> int:
    """Those of all convolutions for one image of 32 x 32 pixels."""
    with no_grad(), evaluating(network):
        network(Tensor(backend.current().zeros((1, 32, 32, 3), "float32")))
    return sum(module.weight.data.size * math.prod(module.out_shape[1:3])
               for _, module in network.named_modules() if isinstance(module, Conv2d) and module.out_shape)


def loss_of_short_run(folder: Path, config: Config, dataset: Dataset) -> float | None:
    """The mean training loss of the last steps of a short run at a constant rate; None if it diverges.

    Ends the program as `end_if_stopped` does if a signal asks to stop.
    """
    run = Run(folder, config, seed=config["seed"], metrics_every=LAST_STEPS, overwrite=True)
    try:
        train_in(run, build(config, len(dataset.classes)), lambda step: config["lr"], dataset, SHORT_STEPS)
    except Diverged as error:
        print(error)
        return None
    return run.metrics[-1]["train_loss"]


def short_runs(options: Options, path: Path) -> Iterator[tuple[Config, Result | None]]:
    """The config of each short run, and its line in the file if it has been made."""
    known = [line for _, line in read_lines(path) if isinstance(line.get("loss", ""), (float, type(None)))]
    for network in CONTENDERS:
        sweep = sweep_of(options, network)
        for lr in RATES:
            config = {**sweep.config(sweep.cases[0], lr, options.seeds[0]), "steps": SHORT_STEPS}
            del config["epochs"]
            yield config, next((line for line in known if config.items() <= line.items()), None)


def try_rates(options: Options, path: Path) -> None:
    """Make the short runs that the file lacks."""
    data = options.images.held_out(min(HELD_OUT, len(options.images.train.labels) // 10))
    with closing(FolderLock(options.out, [])):
        for config, line in short_runs(options, path):
            if line is None:
                name = f"short-{config['network']}-lr{config['lr']:g}"
                print(f"\nThe next: {name}", flush=True)
                append_lines(path, [{**config, "loss": loss_of_short_run(options.out / name, config, data)}])


def largest_rate(lines: list[Result]) -> float:
    """The largest learning rate at which a network trains, 0 if there is none."""
    return max([line["lr"] for line in lines if (line["loss"] or math.inf) < TRAINS], default=0)


def draw_chart(path: Path, finished: Lines, rates: Lines) -> None:
    """Draw the error on held-out images against the step, and the loss of short runs against the rate."""
    errors, losses = [], []
    for network, (_, _, color) in CONTENDERS.items():
        for i, line in enumerate(finished[network]):
            curve = line.get("held_out_errors", [])
            errors.append(plot.Line([step for step, _ in curve], [100 * error for _, error in curve],
                                    "" if i else network, "dashed" if i else "solid", color))
        short, rate = rates[network], largest_rate(rates[network])
        trains = f"trains up to {rate:g}" if rate else "trains at none"
        losses.append(plot.Line([line["lr"] for line in short], [line["loss"] or math.nan for line in short],
                                f"{network}: {trains}", "solid", color))
    losses.append(plot.Line([RATES[0], RATES[-1]], [TRAINS] * 2, "trains below", "dotted", 0))
    plot.save(path, [
        plot.Panel(errors, "Error on held-out images, each network at its best rate", "step", "%"),
        plot.Panel(losses, f"Loss after {SHORT_STEPS} steps at a constant learning rate",
                   "learning rate (where the network diverges, the line ends)", "training loss", log_x=True,
                   y_range=(0.5, 3))])


def draw_bars(path: Path, finished: Lines) -> None:
    """Draw a bar for each network, its mean test error, with a mark for each seed."""
    page = plot.Drawing(2560, 980)
    page.text(1280, 70, "Test error of four networks of equal cost, each at the best of its learning rates")
    errors = {network: [line["test_error"] for line in finished[network]] for network in CONTENDERS}
    scale = 1300 / max([0.1, *(error for seeds in errors.values() for error in seeds)])
    for row, (network, seeds) in enumerate(errors.items()):
        y = 220 + 200 * row
        page.text(520, y, network, align=1)
        if seeds:
            mean = statistics.mean(seeds)
            page.box(560 + scale * mean / 2, y, scale * mean, 110, color=CONTENDERS[network].color)
            for error in seeds:
                page.frame(560 + scale * error, y - 70, 0, 140, 0)
            page.text(600 + scale * max(seeds), y, f"{mean:.1%}  ({', '.join(map('{:.1%}'.format, seeds))})",
                      align=0)
    page.save(path)


def print_table(finished: Lines, rates: Lines) -> None:
    """A line for each network."""
    print(f"\n{'network':18}{'weights':>10}{'multiply-adds':>15}{'lr':>7}{'held out':>10}"
          f"{'test, by seed':>18}{'trains up to':>14}")
    for network, lines in finished.items():
        made = build(lines[0], 10)
        print(f"{network:18}{made.num_parameters():>10,}{multiply_adds(made):>15,}{lines[0]['lr']:>7g}"
              f"{lines[0]['held_out_error']:>10.1%}"
              f"{', '.join(format(line['test_error'], '.1%') for line in lines):>18}"
              f"{largest_rate(rates[network]):>14g}")


def main() -> None:
    options = Options(**Parser(__doc__, Options, prog="python -m tinyres.experiments.networks").typed())
    results = options.results_file()
    path = results.with_name(f"{results.stem}-rates{results.suffix}")

    def draw(last: Sweep) -> tuple[Lines, Lines]:
        finished, rates = {}, {network: [] for network in CONTENDERS}
        for network in CONTENDERS:
            sweep = replace(sweep_of(options, network), results=last.results)
            finished[network] = sweep.finished(sweep.cases[0])
        for config, line in short_runs(options, path):
            rates[config["network"]] += [line] if line else []
        draw_chart(options.out / "networks.png", finished, rates)
        draw_bars(options.out / "bars.png", finished)
        return finished, rates

    for network in CONTENDERS:
        (sweep := sweep_of(options, network)).make_all(options, build, draw, options.epochs)
    try_rates(options, path)
    print_table(*draw(sweep))


if __name__ == "__main__":
    run_script(main)
