"""The settings of a run, in layers, each overriding the one before: the paper's values, a preset, what an
optimizer or network brings along, the settings in a checkpoint, the command line."""
from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..fast.gpu.precision import PRECISIONS
from ..models import BLOCKS
from ..support.saved_weights import todays_settings
from ..training import Checkpoint, load_checkpoint
from .options import Parser, flag, fraction, non_negative_int, option, positive_float, positive_int

MAX_STAGES = 6  # all but the first halve an image of 32 x 32 pixels, which allows five halvings
ADAM_LR = 0.001  # the paper's rates are for SGD
OWN_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {  # of a choice, for other settings
    ("optimizer", "adam"): {"lr": ADAM_LR}, ("network", "all-convolutional"): {"widths": (96, 192)}}
CHANGEABLE = {"data", "steps", "epochs", "evaluate_every", "precision"}  # between the parts of one run
# What the paper does not say, or what does not change a result
NOT_COMPARED = {"data", "dataset", "precision", "epochs", "evaluate_every", "seed", "held_out", "min_area"}
CONFLICTS = [
    ("classify", "demo"), ("classify", "resume"), ("classify", "export"), ("classify", "pictures"),
    ("pictures", "demo"), ("pictures", "resume"), ("pictures", "export"),  # both of which set --evaluate
    ("demo", "laptop"), ("demo", "resume"), ("demo", "evaluate"), ("demo", "distributed"),
    ("dry_run", "evaluate"), ("dry_run", "classify"), ("resume", "evaluate"),
    ("processes", "distributed", ", where mpirun says how many"),
    *((length, mode, ", which trains nothing") for length in ("steps", "epochs")
      for mode in ("classify", "pictures", "evaluate"))]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the course of a run: config.json and checkpoints hold it.

    Each script has a subclass, whose defaults are the paper's values.
    """
    data: Path
    blocks: int | tuple[int, ...]
    widths: tuple[int, ...] = option(MISSING, "channels of each stage", positive_int, "N", nargs="+")
    network: str = option("residual", "plain: without identity, h(x) instead of x + h(x); "
                          "batch-norm: normalized after each convolution", choices=BLOCKS, alias="plain")
    initial_scale: float | None = option(
        None, "residual blocks start as in He et al., their second convolution times X; default: the paper's",
        positive_float, "X")
    steps: int = option(MISSING, "length of the run, in batches", positive_int, "N", exclusive="length")
    epochs: int | None = option(None, "length of the run in epochs, instead of --steps",
                               positive_int, "N", exclusive="length")
    batch_size: int = option(MISSING, "images per step", positive_int, "N")
    optimizer: str = option("sgd", f"what moves the weights; adam takes --momentum for its first beta, and "
                            f"--lr {ADAM_LR} unless another one is given", choices=["sgd", "adam"])
    lr: float = option(MISSING, "learning rate", positive_float)
    schedule: str = option("drops", "how the learning rate changes: drops, as in the paper; one-cycle, "
                           "linearly up, then down, over all steps; cosine, down to 0 along half a cosine",
                           choices=["drops", "one-cycle", "cosine"])
    momentum: float = option(0.9, "fraction of the previous update kept in the next", fraction)
    weight_decay: float = option(1e-4, "times the weights, added to the gradient", fraction)
    evaluate_every: int | None = option(None, "evaluate every N steps; default: one epoch", positive_int, "N")
    held_out: int | None = option(
        None, "leave N training images out, and test on them instead", positive_int, "N")
    seed: int = option(0, "the seed of the initial weights and the batches", non_negative_int)
    precision: str | None = option(
        None, "precision of matrix products; default: float16 on a GPU, tf32 where steps are not launched "
        "whole, float32 with NumPy", choices=PRECISIONS)

    def title(self) -> str:
        """The network and what it learns, as used in folder names."""
        raise NotImplementedError

    def name(self) -> str:
        """The name of a run's folder, such as "cifar10-residual-9x64-128-256-50000steps-lr0.05-seed0"."""
        length = f"{self.epochs}epochs" if self.epochs else f"{self.steps}steps"
        kind = "adam-" if self.optimizer == "adam" else ""
        return f"{self.title()}-{length}-{kind}lr{self.lr:g}-seed{self.seed}"

    def tested_on(self) -> str:
        """Which images stand in the place of test images."""
        return "held-out" if self.held_out else "test"

    def config(self) -> dict[str, Any]:
        """The settings for JSON, with the folder of the data as an absolute path."""
        settings = {name: _plain(value) for name, value in vars(self).items()}
        return {**settings, "data": str(self.data.absolute())}

    def differences(self) -> str:
        """Every setting that is not the paper's."""
        return "; ".join(f"{field.name.replace('_', ' ')} {_plain(getattr(self, field.name))} "
                         f"(paper: {'its own' if field.default is None else _plain(field.default)})"
                         for field in dataclasses.fields(self) if field.name not in NOT_COMPARED
                         and getattr(self, field.name) != field.default) or "nothing"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Where and how to run, which may change from one part of a run to the next."""
    out: Path = option(MISSING, "default: runs/NAME, where NAME is made from the settings", Path, "DIR")
    backend: str = option("auto", "the array library; auto: CuPy if a GPU works",
                          choices=["auto", "numpy", "cupy"])
    capture: bool = flag("on a GPU, launch steps whole, not kernel by kernel; default: where it works", True,
                         argparse.BooleanOptionalAction)
    distributed: bool = flag("share the work among the processes that mpirun -n N started")
    processes: int | None = option(None, "share the work among N processes on the cores of this CPU; "
                                   "default: the number that is fastest", positive_int, "N")
    resume: bool = flag("continue from the checkpoint in --out")
    evaluate: Path | None = option(None, "print the test error of a saved network", Path, "CHECKPOINT")
    classify: tuple[Path, ...] | None = option(
        None, "name the likeliest classes of pictures, by the network of --evaluate", Path, "FILE", nargs="+")
    dry_run: bool = flag("take a few steps, and say what the whole run would cost in memory and hours")
    demo: bool


SettingsType = TypeVar("SettingsType", bound=Settings)
LaunchType = TypeVar("LaunchType", bound=Launch)


def layered(parser: Parser, typed: Mapping[str, Any], settings_class: type[SettingsType],
            launch_class: type[LaunchType], presets: Mapping[str, Mapping[str, Any]],
            ) -> tuple[SettingsType, LaunchType, Checkpoint | None]:
    """What to run, where and how, and the checkpoint that --resume or --evaluate names.

    typed: the options given. presets: by name, the options that stand for several others, and their values.
    Options, or settings in a checkpoint, that do not fit end the program with a message of two lines.
    """
    for one, other, *why in CONFLICTS:
        if one in typed and other in typed:
            parser.error(f"--{one} cannot be combined with --{other}{''.join(why)}")
    paper = {field.name: field.default for field in dataclasses.fields(settings_class)}
    preset = next((presets[name] for name in presets if name in typed), {})
    checkpoint, saved = _checkpoint(parser, typed, paper)
    own: dict[str, Any] = {}
    for (name, value), defaults in OWN_DEFAULTS.items():
        own |= defaults if typed.get(name) == value else {}
    values = {**paper, **preset, **own, **saved, **typed}
    settings = settings_class(**{name: values.pop(name) for name in paper})
    launch = launch_class(**{"out": Path("runs") / settings.name(), **values})
    for name in {"lr_drops", "lr_decay"} & typed.keys():
        if settings.schedule != "drops":
            parser.error(f"--{name.replace('_', '-')} is for --schedule drops, and the schedule is "
                         f"{settings.schedule}: leave it out")
    for name in {"blocks", "initial_scale"} & typed.keys():
        if settings.network == "all-convolutional":
            parser.error(f"--{name.replace('_', '-')} is for residual blocks, and an all-convolutional "
                         "network has none: leave it out")
    widths, blocks = settings.widths, settings.blocks
    if list(widths) != sorted(widths) or len(widths) > MAX_STAGES:
        parser.error(f"argument --widths: expected up to {MAX_STAGES} non-decreasing integers, got "
                     f"{' '.join(map(str, widths))}")
    if isinstance(blocks, tuple) and len(blocks) != len(widths):
        parser.error(f"argument --blocks: expected a number for each of the {len(widths)} widths, got "
                     f"{len(blocks)}")
    if launch.out.is_file():
        parser.error(f"argument --out: {launch.out} is a file, expected a folder")
    return settings, launch, checkpoint


def completed(settings: SettingsType, precision: str, data: Path, images: int) -> SettingsType:
    """The settings with what is known only once a backend is in use and the data are there.

    precision: the one in use. data: the folder where the data were found. images: how many are trained on,
    for the number of steps in --epochs.
    """
    steps = settings.epochs * (images // settings.batch_size) if settings.epochs else settings.steps
    return dataclasses.replace(settings, precision=precision, data=data, steps=steps, epochs=None)


def _checkpoint(parser: Parser, typed: Mapping[str, Any],
                paper: Mapping[str, Any]) -> tuple[Checkpoint | None, dict[str, Any]]:
    """The checkpoint that --resume or --evaluate names and its settings, which few options may change."""
    if not typed.keys() & {"resume", "evaluate"}:
        return None, {}
    if "evaluate" not in typed and "out" not in typed:
        parser.error("--resume needs --out, the folder of the run to continue")
    try:
        checkpoint = load_checkpoint(typed.get("evaluate") or typed["out"] / "checkpoint.npz")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    saved = _saved_settings(parser, checkpoint, paper)
    for name in (saved.keys() & typed.keys()) - CHANGEABLE:
        if typed[name] != saved[name]:
            what = f"{typed['evaluate']} was made" if "evaluate" in typed else "the run was started"
            parser.error(f"{what} with {name} {_plain(saved[name])}, not {_plain(typed[name])}: leave the "
                         "option out" + ", or start another run" * ("resume" in typed))
    return checkpoint, saved


def _saved_settings(parser: Parser, checkpoint: Checkpoint, paper: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a checkpoint, which may come from anywhere: they must be what the options admit."""
    words, config, path = [], todays_settings(checkpoint.config), checkpoint.path
    for name, value in config.items():
        option = "--" + name.replace("_", "-")
        if name not in paper:
            parser.error(f"the settings in {path} hold {name!r:.60}, which {parser.prog} does not know")
        if isinstance(value, list):
            if not all(isinstance(item, int | float) for item in value):  # text could be another option
                parser.error(f"the settings in {path} hold {name} {value!r:.60}, expected a list of numbers")
            words += [option, *map(str, value)]
        elif value is True:
            words.append(option)
        elif value is not None and value is not False:
            words.append(f"{option}={value}")
    try:
        given = parser.typed(words)
    except SystemExit:
        print(f"That is among the settings in {path}: it was not written by {parser.prog}.", file=sys.stderr)
        raise
    return {name: given.get(name, paper[name]) for name in config}


def _plain(value: Any) -> Any:
    """A value as written in JSON and messages."""
    return list(value) if isinstance(value, tuple) else value
