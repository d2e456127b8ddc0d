"""Many runs that are trained alike: which an experiment makes, at which learning rates, and their results.

For each case that is compared, one run is made at every learning rate of --lrs with the first of --seeds, and
then, at the best rate, one with each of the other seeds. The best rate has the lowest error on the last 5,000
training images, on which no run is trained; the test images are looked at once, when a run has ended. Each
finished run adds a line to --results; an interrupted one continues from its checkpoint below --out.
"""
from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from .. import backend, datasets, optim
from ..cli.launch import count_layers, end_if_stopped
from ..cli.options import fraction, non_negative_int, option, positive_float, positive_int
from ..datasets import Dataset, Split
from ..distributed.forked import forked, process_count
from ..fast import captured
from ..nn import Conv2d, Module
from ..support.diverged import Diverged
from ..training import (
    Run,
    evaluate,
    load_checkpoint,
    loss_and_error,
    read_metrics,
    residual_ratios,
    train,
)
from ..training.folder_lock import FolderLock
from ..training.json_lines import append_lines, are_numbers, read_lines

HELD_OUT = 5000  # training images on which learning rates are compared
SPLITS = "train", "held_out", "test"
DATASETS = {"cifar10": datasets.cifar10, "shapes": lambda root: datasets.shapes()}

Config = dict[str, Any]  # all that decides the course of a run
Result = dict[str, Any]  # a line of a results file: a config, and what came out


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """The options of the command line that every experiment has."""
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
    out: Path = option(MISSING, "for checkpoints and pictures", Path, "DIR")
    results: Path | None = option(None, "default: results.jsonl in --out", Path, "FILE")
    backend: str = option("auto", "the array library; auto: CuPy if a GPU works",
                          choices=["auto", "numpy", "cupy"])

    def results_file(self) -> Path:
        """Where the results are kept."""
        return self.results or self.out / "results.jsonl"

    def common(self, widths: Sequence[int]) -> Config:
        """The settings of all runs."""
        return {"dataset": self.dataset, "widths": list(widths), "epochs": self.epochs,
                "batch_size": self.batch_size, "weight_decay": self.weight_decay,
                "initial_scale": self.initial_scale}

    @functools.cached_property  # an experiment may consist of several sweeps
    def images(self) -> Dataset:
        """The data set, in the memory of the device that computes."""
        return DATASETS[self.dataset](self.data).moved_to(backend.current())


@dataclass
class Sweep:
    """The runs of an experiment. Each case is what it compares, such as {"kind": "plain", "blocks": 2}.

    common: the settings of all runs, among them epochs, batch_size and weight_decay.
    """
    cases: Sequence[Config]
    lrs: Sequence[float]
    seeds: Sequence[int]
    common: Config
    results: list[Result] = field(default_factory=list)

    def config(self, case: Config, lr: float, seed: int) -> Config:
        """The settings of a run."""
        return {**self.common, **case, "lr": lr, "seed": seed}

    def result(self, config: Config) -> Result | None:
        """The line of a finished run, or None."""
        return next((line for line in self.results if config.items() <= line.items()), None)

    def best_lr(self, case: Config) -> float | None:
        """The learning rate with the lowest error on held-out images; None before all have been tried."""
        lines = [self.result(self.config(case, lr, self.seeds[0])) for lr in self.lrs]
        if None in lines:
            return None
        return min(lines, key=lambda line: line["held_out_error"])["lr"]

    def runs_left(self) -> list[Config]:
        """The runs still to be made, case by case.

        Where the best rate is not yet known, the first one stands in for it.
        """
        left = []
        for case in self.cases:
            best = self.best_lr(case) or self.lrs[0]
            planned = [self.config(case, lr, self.seeds[0]) for lr in self.lrs]
            planned += [self.config(case, best, seed) for seed in self.seeds[1:]]
            left += [config for config in planned if not self.result(config)]
        return left

    def finished(self, case: Config) -> list[Result]:
        """The lines at the best learning rate, one for each seed that has been run."""
        if (best := self.best_lr(case)) is None:
            return []
        lines = [self.result(self.config(case, best, seed)) for seed in self.seeds]
        return [line for line in lines if line]

    def name(self, config: Config) -> str:
        """The name of a run and of its folder, such as plain-2-lr0.05-seed0."""
        case = [str(config[name]) for name in self.cases[0]]
        return "-".join([*case, f"lr{config['lr']:g}", f"seed{config['seed']}"])

    def make_all(self, options: SweepOptions, build: Callable[[Config, int], Module],
                 draw: Callable[[Sweep], None], evaluations: int = 1) -> None:
        """Make the runs that are left, draw before, between and after them, and keep their results.

        build: (config, number of classes) -> network. evaluations: on held-out images, during a run.
        Ends the program as `end_if_stopped` does if a signal asks to stop. Raises RuntimeError if another
        experiment writes to the folder.
        """
        backend.use(options.backend)
        dataset, path = options.images, options.results_file()
        start, done = time.perf_counter(), 0
        with closing(FolderLock(options.out, ["*.png"])):
            self.results = read_results(path)
            draw(self)
            while left := self.runs_left():
                hours = (time.perf_counter() - start) / (done or 1) * sum(map(_work, left)) / 3600
                name, network = self.name(left[0]), build(left[0], len(dataset.classes))
                estimate = f", about {hours:.1f} hours" if done else ""
                print(f"\n{len(left)} runs left{estimate}. The next: {name}", flush=True)
                line = make_run(options.out / name, left[0], network, dataset, evaluations)
                self.results.append(line)
                append_lines(path, [line])
                done += _work(line)
                draw(self)
        print(f"Pictures are in {options.out}, the results in {path}")


def _work(config: Config) -> float:
    """What a run costs beside others, for the estimate of the time left: deep networks take longer."""
    return config.get("blocks", 1)


def train_in(run: Run, network: Module, schedule: Callable[[int], float], dataset: Dataset,
             steps: int) -> None:
    """Train a network as the config of a run says, with momentum 0.9, from the run's checkpoint if there is
    one. Raises ValueError if that has other settings; ends the program as `end_if_stopped` does."""
    config = run.config
    optimizer = optim.SGD(network.parameters(), config["lr"], 0.9, config["weight_decay"])
    if run.checkpoint.exists() and not run.overwrite:
        if load_checkpoint(run.checkpoint).config != config:
            raise ValueError(f"{run.folder} holds a run with other settings: choose another --out")
        run.resume(network, optimizer)
    if run.step < steps:
        with forked(process_count(config["batch_size"], network.num_parameters())) as run.group:
            train(network, optimizer, schedule, dataset, run, steps=steps, batch_size=config["batch_size"],
                  compute=captured(loss_and_error))
        end_if_stopped(run, "The same command continues.")


def make_run(folder: Path, config: Config, network: Module, dataset: Dataset, evaluations: int = 1) -> Result:
    """Train one network to the end, from its checkpoint if there is one: SGD with momentum 0.9, a one-cycle
    schedule. Returns its line of results: the config, numbers of convolutions and steps, the errors on
    SPLITS, the step and the error on held-out images of each evaluation if there are several and, of a
    residual network, ||h(x)|| / ||x|| of each block.

    A run that diverges is a result too, with errors of 1, and is not repeated.
    Ends the program as `end_if_stopped` does if a signal asks to stop. Raises ValueError if the folder holds
    a run with other settings, or the batches are larger than the data set.
    """
    learned = dataset.held_out(min(HELD_OUT, len(dataset.train.labels) // 10))
    images, batch_size = len(learned.train.labels), config["batch_size"]
    if not (steps := config["epochs"] * (images // batch_size)):
        raise ValueError(f"batch_size {batch_size} is more than the {images} images to train on")
    run = Run(folder, config, seed=config["seed"], evaluate_every=math.ceil(steps / evaluations))
    line = {**config, "convolutions": count_layers(network, Conv2d), "steps": steps}
    try:
        train_in(run, network, optim.one_cycle(config["lr"], steps), learned, steps)
        seen = Split(learned.train.images[:HELD_OUT], learned.train.labels[:HELD_OUT])
        for name, split in zip(SPLITS, (seen, learned.test, dataset.test), strict=True):
            line[f"{name}_error"] = evaluate(network, split)["error"]
    except Diverged as error:
        print(error)
        return line | {f"{name}_error": 1.0 for name in SPLITS} | {"diverged": True}
    if evaluations > 1:
        line["held_out_errors"] = [[metrics["step"], metrics["test_error"]] for metrics in
                                   read_metrics(run.metrics_file) if "test_error" in metrics]
    if ratios := residual_ratios(network, learned.test):
        line["residual_ratios"] = [round(ratio, 5) for ratio in ratios]
    return line


def read_results(path: Path) -> list[Result]:
    """The lines of a results file, none if it is absent, and without a last one that was cut off. Raises
    ValueError that names a damaged line."""
    results = []
    for number, line in read_lines(path):
        curve = line.get("held_out_errors", [])
        if not (type(line.get("convolutions")) is int and are_numbers(line.get("residual_ratios", [1]), 0)
                and are_numbers([line.get(f"{name}_error") for name in SPLITS], 0, 1)
                and isinstance(curve, list) and all(map(_is_point, curve))):
            raise ValueError(f"{path}, line {number} is not the result of a run: delete it")
        results.append(line)
    return results


def _is_point(point: Any) -> bool:
    """Whether this is a step and an error at it."""
    return are_numbers(point) and len(point) == 2 and isinstance(point[0], int) and 0 <= point[1] <= 1
