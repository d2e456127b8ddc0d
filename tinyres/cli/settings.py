"""What the two training scripts share: their options, and how these meet the settings of a saved run."""
from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy

from .. import backend, distributed
from ..datasets import Dataset
from ..distributed import forked as processes
from ..fast.gpu import block as gpu_block
from ..fast.gpu import capture, precision
from ..models import ResidualNetwork
from ..nn import Module
from ..optim import SGD, Optimizer
from ..training import Checkpoint, Run, load_checkpoint, loss_and_error, train, trial
from ..training.curves import Metrics
from ..training.dry_run import dry_run
from .options import Help, Parser, fraction, non_negative_int, positive_float, positive_int

# Where and how to run, which may change from one part of a run to the next; all others are its settings.
RUNTIME_OPTIONS = ("backend", "capture", "out", "resume", "evaluate", "demo", "laptop",
                   "dry_run", "classify", "pictures", "export", "distributed", "processes", "workers")
OLD_NAMES = {"least_area": "min_area"}  # of settings, in checkpoints of version 0.1.0
MAX_STAGES = 6  # each halves the image but the first on CIFAR's 32 x 32 pixels; 112 x 112 last as long


def parser(description: str, demo: str) -> argparse.ArgumentParser:
    """A parser with the options of both scripts. demo: what --demo does."""
    parser = Parser(description=description, formatter_class=Help)
    parser.add_argument("--backend", choices=["auto", "numpy", "cupy"], default="auto",
                        help="the array library; auto: CuPy if a GPU works")
    parser.add_argument("--precision", choices=precision.PRECISIONS,
                        help="of matrix products on a GPU; default: tf32 there, float32 with NumPy")
    parser.add_argument("--capture", action="store_true",
                        help="on a GPU, launch steps whole instead of kernel by kernel")
    parser.add_argument("--distributed", action="store_true",
                        help="share the work among the processes that mpirun -n N started")
    parser.add_argument("--processes", type=positive_int, metavar="N",
                        help="share the work among N processes on the cores of this CPU; default: as many as "
                             "are fastest")
    parser.add_argument("--widths", type=positive_int, nargs="+", metavar="N", help="channels of each stage")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=positive_int, metavar="N", help="length of the run, in batches")
    length.add_argument("--epochs", type=positive_int, metavar="N", help="instead of --steps")
    parser.add_argument("--batch-size", type=positive_int, metavar="N", help="images per step")
    parser.add_argument("--lr", type=positive_float, help="learning rate")
    parser.add_argument("--momentum", type=fraction, help="how much of the last step is kept in the next")
    parser.add_argument("--weight-decay", type=fraction, help="times the weights, added to the gradient")
    parser.add_argument("--evaluate-every", type=positive_int, metavar="N", help="steps; default: one epoch")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="of weights and batches")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/NAME after the settings")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--evaluate", type=Path, metavar="CHECKPOINT", help="test error of a saved network")
    parser.add_argument("--dry-run", action="store_true",
                        help="take a few steps, and say what the whole run would cost in memory and hours")
    parser.add_argument("--demo", action="store_true", help=demo)
    return parser


def parse(parser: argparse.ArgumentParser, paper: Mapping[str, Any], demo: Mapping[str, Any],
          name: Callable[[argparse.Namespace], str],
          laptop: Mapping[str, Any] | None = None) -> tuple[argparse.Namespace, Checkpoint | None]:
    """The settings and, with --resume or --evaluate, the checkpoint whose settings they are.

    paper, demo, laptop: settings of the paper's run, the defaults, and those of --demo and --laptop. name: of
    a run's folder.
    """
    parser.set_defaults(**paper)
    args = parser.parse_args()
    if laptop and args.laptop:
        if args.demo:
            parser.error("--demo goes without --laptop")
        parser.set_defaults(**laptop)
        args = parser.parse_args()
    checkpoint = None
    if args.demo:
        if args.resume or args.evaluate or args.distributed:
            parser.error("--demo goes without --resume, --evaluate and --distributed")
        parser.set_defaults(**demo)
        args = parser.parse_args()
    elif args.resume or args.evaluate:
        if args.resume and args.evaluate:
            parser.error("--resume or --evaluate, not both")
        if args.resume and not args.out:
            parser.error("--resume needs --out, the folder of the run to go on with")
        try:
            checkpoint = load_checkpoint(args.evaluate or args.out / "checkpoint.npz")
        except (OSError, ValueError) as error:
            parser.error(str(error))
        saved = _saved_settings(parser, checkpoint, settings(args).keys())
        parser.set_defaults(**saved)
        args = parser.parse_args()
        for key in saved.keys() - {"data", "steps", "epochs", "evaluate_every", "precision"}:
            if getattr(args, key) != saved[key]:
                what = f"{args.evaluate} was made" if args.evaluate else "the run was started"
                parser.error(f"{what} with {key} {saved[key]}, not {getattr(args, key)}: leave the option out"
                             + ", or start another run" * args.resume)
        if not _fits(checkpoint, args):
            parser.error(f"the weights in {args.evaluate or args.out / 'checkpoint.npz'} are not those of "
                         "the network that its settings describe")
    if args.processes and args.distributed:
        parser.error("--processes goes without --distributed, where mpirun says how many")
    if args.widths != sorted(args.widths) or len(args.widths) > MAX_STAGES:
        parser.error(f"argument --widths: expected up to {MAX_STAGES} non-decreasing integers, got "
                     f"{' '.join(map(str, args.widths))}")
    if isinstance(args.blocks, list) and len(args.blocks) != len(args.widths):
        parser.error(f"argument --blocks: expected a number for each of the {len(args.widths)} widths, got "
                     f"{len(args.blocks)}")
    args.out = args.out or Path("runs") / name(args)
    if args.out.is_file():
        parser.error(f"argument --out: {args.out} is a file, expected a folder")
    return args, checkpoint


def _saved_settings(parser: argparse.ArgumentParser, checkpoint: Checkpoint,
                    names: Iterable[str]) -> dict[str, object]:
    """The settings in a checkpoint, which may come from anywhere: they must be what the options admit."""
    words, config = [], {OLD_NAMES.get(name, name): value for name, value in checkpoint.config.items()}
    for name, value in config.items():
        option = "--" + name.replace("_", "-")
        if name not in names:
            parser.error(f"the checkpoint's settings hold {name!r:.60}, which {parser.prog} does not know")
        if value is True or isinstance(value, list):
            words += [option, *map(str, value or [])] if isinstance(value, list) else [option]
        elif value is not None and value is not False:
            words.append(f"{option}={value}")
    try:
        saved = parser.parse_args(words)
    except SystemExit:
        print(f"That is among the settings in the checkpoint: it was not written by {parser.prog}.",
              file=sys.stderr)
        raise
    return {name: getattr(saved, name) for name in config}


def _fits(checkpoint: Checkpoint, args: argparse.Namespace) -> bool:
    """Whether a checkpoint holds the weights of the network that the settings describe, judged before that
    network, of whatever size, is made."""
    blocks = args.blocks if isinstance(args.blocks, list) else [args.blocks] * len(args.widths)
    if len(blocks) != len(args.widths) or len(checkpoint.model) != 2 * sum(blocks) + 2:
        return False
    widths = [width for width, count in zip(args.widths, blocks, strict=True) for _ in range(count)]
    kernels = [checkpoint.model.get(f"blocks.{i}.conv2.weight") for i in range(len(widths))]
    return all(kernel is not None and kernel.shape == (3, 3, width, width)
               for width, kernel in zip(widths, kernels, strict=True))


def use_backend(args: argparse.Namespace) -> distributed.Group:
    """Choose the array library and the precision, say so where it was left to us, and join other processes.

    Raises ValueError if the precision needs a GPU and NumPy computes, RuntimeError if a GPU is asked for and
    none works.
    """
    group = distributed.start(args.backend) if args.distributed else distributed.SINGLE_PROCESS
    name = backend.use(args.backend).__name__
    args.precision = args.precision or ("float32" if name == "numpy" else "tf32")
    if name == "numpy" and args.precision != "float32" and (args.resume or args.evaluate):
        print(f"The run was started with precision {args.precision}, which needs a GPU: float32 here.")
        args.precision = "float32"
    precision.use(args.precision)
    if args.backend == "auto" and name == "numpy":
        print("On the CPU, with NumPy (--backend cupy says what a GPU needs).")
    return group


@contextmanager
def shared(args: argparse.Namespace, model: Module, group: distributed.Group) -> Iterator[distributed.Group]:
    """The processes that share the work within this context: those of the group, or, on a CPU, forked ones.

    Raises ValueError if a GPU is to be shared, which takes --distributed.
    """
    if args.distributed or backend.current() is not numpy:
        if args.processes:
            raise ValueError(f"--processes {args.processes} shares a CPU, and a GPU computes here: give "
                             "--backend numpy, or mpirun and --distributed")
        yield group
        return
    count = args.processes or processes.process_count(args.batch_size, model.num_parameters())
    if count > 1:
        print(f"{count} processes share the work (--processes).")
    with processes.forked(count) as group:
        yield group


def settings(args: argparse.Namespace) -> dict[str, object]:
    """What decides the course of a run, for config.json and the checkpoint, and where its data are."""
    kept = {name: value for name, value in vars(args).items() if name not in RUNTIME_OPTIONS}
    return {**kept, "data": str(args.data.absolute())}


def length_and_rate(args: argparse.Namespace) -> str:
    """What tells runs of one network apart, for the names of their folders, such as "50000steps-lr0.05"."""
    return f"{args.epochs}epochs-lr{args.lr:g}" if args.epochs else f"{args.steps}steps-lr{args.lr:g}"


def data_folder(path: Path, names: Iterable[str]) -> Path:
    """The folder that holds one of the names: the one given, or, if it is not there, one above or below it.

    Raises ValueError for a file, or a folder that is absent, other than the default one.
    """
    if path.is_file():
        raise ValueError(f"--data {path} is a file: expected the folder that holds {' or '.join(names)}")
    if not path.exists() and path.parts[:1] != ("data",):
        raise ValueError(f"--data {path}: there is no such folder; make it first if the data should go there")
    below = sorted(path.glob("*/")) if path.is_dir() else []
    for folder in (path, *([path.parent] if path.name in names else []), *below):
        if any((folder / name).exists() for name in names):
            return folder
    return path


def set_steps(args: argparse.Namespace, images: int, checkpoint: Checkpoint | None) -> None:
    """Turn --epochs into steps. Raises ValueError if a checkpoint has them behind it already."""
    if args.epochs:
        args.steps, args.epochs = args.epochs * (images // args.batch_size), None
    if checkpoint and checkpoint.step >= args.steps:
        raise ValueError(f"{args.out} is at step {checkpoint.step} already: give --steps more than that to "
                         "go on")


def in_precision(products: str, network: ResidualNetwork) -> Module:
    """The network as it computes in a precision; arranged for a GPU on one."""
    if backend.current() is not numpy:
        gpu_block.arrange(network)
    return precision.Float16(network) if products == "float16" else network


def build_optimizer(args: argparse.Namespace, model: Module, checkpoint: Checkpoint | None) -> Optimizer:
    """The optimizer that the settings describe for a model from `in_precision`, with a checkpoint's state."""
    optimizer = SGD(model.parameters(), args.lr, args.momentum, args.weight_decay)
    if isinstance(model, precision.Float16):
        optimizer = precision.ScaledOptimizer(optimizer, model)
    if checkpoint:  # which may come from another precision
        optimizer.load_state_dict({name: value for name, value in checkpoint.optimizer.items()
                                   if name in optimizer.state or name not in precision.SCALE_STATE})
    return optimizer


def run(args: argparse.Namespace, model: Module, optimizer: Optimizer, schedule: Callable[[int], float],
        dataset: Dataset, checkpoint: Checkpoint | None, group: distributed.Group, headline: str) -> Metrics:
    """What the settings say: a run, for which the headline is printed, or the first steps of one."""
    if not args.dry_run:
        print(headline)
    distributed.check_batch(args.batch_size, args.processes or group.size)  # before there are so many
    with shared(args, model, group) as group:
        if args.dry_run:
            return dry_run(model, optimizer, dataset, args.steps, args.batch_size, group)
        return train(model, optimizer, schedule, dataset,
                     **_how_to_train(args, model, dataset, checkpoint, group))


def _how_to_train(args: argparse.Namespace, model: Module, dataset: Dataset, checkpoint: Checkpoint | None,
                  group: distributed.Group) -> dict[str, Any]:
    """What the settings say of a run to `train`: run, steps, batch_size, compute. On a GPU, tries some steps
    and says what the run will need; raises RuntimeError if that is more memory than there is."""
    if not (args.resume or args.demo) and (args.out / "checkpoint.npz").exists():
        raise ValueError(f"{args.out} already holds a run: give --resume to go on with it, or another --out")
    run = Run(args.out, settings(args), seed=args.seed, step=checkpoint.step if checkpoint else 0,
              evaluate_every=args.evaluate_every, group=group)
    compute = capture.captured(loss_and_error) if args.capture else loss_and_error
    if backend.current() is not numpy:
        images, _ = dataset.test.evaluation_batch(numpy.arange(1))
        text = trial.describe(model, compute, images.shape[1:], args.batch_size // group.size,
                              args.steps - run.step, args.precision + ", captured" * args.capture)
        if group.rank == 0:
            print(text)
    return dict(run=run, steps=args.steps, batch_size=args.batch_size, compute=compute)


def differences(args: argparse.Namespace, paper: Mapping[str, Any]) -> str:
    """Every setting that is not the paper's."""
    return "; ".join(f"{name.replace('_', ' ')} {getattr(args, name)} "
                     f"(paper: {'its own' if value is None else value})"
                     for name, value in paper.items() if getattr(args, name) != value) or "nothing"


def stopped_early(args: argparse.Namespace, metrics: Metrics) -> bool:
    """Whether a signal ended a run before its last step; says how to go on."""
    if metrics[-1]["step"] == args.steps:
        return False
    print(f"Stopped and saved after step {metrics[-1]['step']}. To go on:  python {Path(sys.argv[0]).name} "
          f"--resume --data {shlex.quote(str(args.data))} --out {shlex.quote(str(args.out))}"
          f"{' --distributed' if args.distributed else ''}")
    return True
