"""What the two training scripts share: their options, and how these meet the settings of a saved run."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import distributed
from .train import Checkpoint, Metrics, load_checkpoint

# Where and how to run, which may change from one part of a run to the next; all others are its settings.
ELSEWHERE = ("data", "backend", "out", "resume", "evaluate", "demo", "distributed", "workers")


def parser(description: str, demo: str) -> argparse.ArgumentParser:
    """A parser with the options of both scripts. demo: what --demo does."""
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["auto", "numpy", "cupy"], default="auto",
                        help="auto: CuPy if a GPU works")
    parser.add_argument("--distributed", action="store_true",
                        help="share the work among the processes that mpirun -n N started")
    parser.add_argument("--widths", type=whole, nargs="+", metavar="N", help="channels of each stage")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=whole, metavar="N")
    length.add_argument("--epochs", type=whole, metavar="N", help="instead of --steps")
    parser.add_argument("--batch-size", type=whole, metavar="N")
    parser.add_argument("--lr", type=positive, help="learning rate")
    parser.add_argument("--momentum", type=float)
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--evaluate-every", type=whole, metavar="N", help="steps; default: one epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/NAME after the settings")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--evaluate", type=Path, metavar="CHECKPOINT", help="test error of a saved network")
    parser.add_argument("--demo", action="store_true", help=demo)
    return parser


def parse(parser: argparse.ArgumentParser, paper: Mapping[str, Any], demo: Mapping[str, Any],
          name: Callable[[argparse.Namespace], str]) -> tuple[argparse.Namespace, Checkpoint | None]:
    """The settings and, with --resume or --evaluate, the checkpoint whose settings they are.

    paper, demo: settings of the paper's run, the defaults, and those of --demo. name: of a run's folder.
    """
    parser.set_defaults(**paper)
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
        parser.set_defaults(**checkpoint.config)
        args = parser.parse_args()
        for key in checkpoint.config.keys() - {"steps", "epochs", "evaluate_every"}:
            if getattr(args, key) != checkpoint.config[key]:
                parser.error(f"the run was started with {key} {checkpoint.config[key]}, not "
                             f"{getattr(args, key)}: leave the option out, or start another run")
    if not args.out:
        args.out = Path("runs") / name(args)
    if not (args.demo or args.resume or args.evaluate) and (args.out / "checkpoint.npz").exists():
        parser.error(f"{args.out} already holds a run: give --resume to go on with it, or another --out")
    return args, checkpoint


def settings(args: argparse.Namespace) -> dict[str, object]:
    """What decides the course of a run, for config.json and the checkpoint: not where its files are."""
    return {name: value for name, value in vars(args).items() if name not in ELSEWHERE}


def set_steps(args: argparse.Namespace, images: int, checkpoint: Checkpoint | None) -> None:
    """Turn --epochs into steps. Raises ValueError if a checkpoint has them behind it already."""
    if args.epochs:
        args.steps, args.epochs = args.epochs * (images // args.batch_size), None
    if checkpoint and checkpoint.step >= args.steps:
        raise ValueError(f"{args.out} is at step {checkpoint.step} already: give --steps more than that to "
                         "go on")


def differences(args: argparse.Namespace, paper: Mapping[str, Any]) -> str:
    """Every setting that is not the paper's."""
    return "; ".join(f"{name.replace('_', ' ')} {getattr(args, name)} (paper: {value})"
                     for name, value in paper.items() if getattr(args, name) != value) or "nothing"


def stopped_early(args: argparse.Namespace, metrics: Metrics) -> bool:
    """Whether a signal ended a run before its last step; says how to go on."""
    if metrics[-1]["step"] == args.steps:
        return False
    print(f"Stopped and saved after step {metrics[-1]['step']}. To go on:  "
          f"python {Path(sys.argv[0]).name} --resume --out {args.out}")
    return True


def run_script(main: Callable[[], None]) -> None:
    """Run a script; an error that its user can do something about becomes one line, not a traceback."""
    try:
        main()
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        message = f"{Path(sys.argv[0]).name}: {error}"
        distributed.abort(message)
        sys.exit(message)


def whole(text: str) -> int:
    """An option's whole number >= 1; argparse turns the ValueError into a message that names the option."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def positive(text: str) -> float:
    """An option's finite number > 0."""
    if not 0 < float(text) < float("inf"):
        raise ValueError
    return float(text)
