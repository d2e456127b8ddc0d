"""Train the paper's residual network on CIFAR-10 or CIFAR-100 (Hardt and Ma, ICLR 2017, section 4.1).

    python run_cifar.py                         the paper's run: CIFAR-10, 9 blocks a stage, 50,000 steps
    python run_cifar.py --dataset cifar100
    python run_cifar.py --blocks 1 --widths 16 32 64 --epochs 10 --lr-drops 2340 3510      for a laptop
    python run_cifar.py --demo                  identity against no identity, on drawn shapes, without a
    download
"""
from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import tinyres as tr
from tinyres.train import Checkpoint, Metrics, draw_curves, evaluate, load_checkpoint, train

DATASETS = {
    "cifar10": tr.datasets.cifar10,
    "cifar100": tr.datasets.cifar100,
    "shapes": lambda root: tr.datasets.shapes(),
}

# Section 4.1 of the paper, and its Table 1 for blocks and widths.
PAPER = dict(dataset="cifar10", blocks=9, widths=[64, 128, 256], plain=False, steps=50_000, batch_size=128,
             lr=0.05, lr_drops=[30_000, 50_000], momentum=0.9, weight_decay=1e-4)
MOST_STAGES = 6  # of images of 32 x 32 pixels, which every stage but the first halves
PAPER_TEST_ERROR = {"cifar10": 0.0638, "cifar100": 0.2464}

# Deep enough that the identity decides, narrow enough for a minute on a laptop. Weights that start as small
# as the paper's learn little at first, so the rate starts high, and drops before they have grown.
DEMO = dict(dataset="shapes", blocks=3, widths=[8, 16, 32, 48, 64], steps=500, batch_size=32, lr=0.1,
            lr_drops=[68, 430], evaluate_every=125, out=Path("runs/demo"))


def main() -> None:
    args, checkpoint = parse_arguments()
    xp = tr.backend.use(args.backend)
    if args.backend == "auto" and xp.__name__ == "numpy":
        print(f"On the CPU, with NumPy: {tr.backend.why_no_gpu()}.")
    if args.demo:
        demo(args)
    elif args.evaluate:
        dataset = load_dataset(args)
        loss, error = evaluate(build_network(args, dataset, checkpoint), dataset.test)
        print(f"{args.evaluate}: step {checkpoint.step}, test loss {loss:.4f}, test error {error:.2%}")
    else:
        metrics = run(args, checkpoint)
        if metrics[-1]["step"] < args.steps:
            print(f"Stopped and saved after step {metrics[-1]['step']}. To go on:  "
                  f"python run_cifar.py --resume --out {args.out}")
        else:
            print_result(args, metrics)


def load_dataset(args: argparse.Namespace) -> tr.datasets.Dataset:
    """The data set's uint8 images and labels, in the memory of the device that computes."""
    xp = tr.backend.current()
    dataset = DATASETS[args.dataset](args.data)
    return dataset._replace(train=tr.datasets.Split(*map(xp.asarray, dataset.train)),
                            test=tr.datasets.Split(*map(xp.asarray, dataset.test)))


def build_network(args: argparse.Namespace, dataset: tr.datasets.Dataset,
                  checkpoint: Checkpoint | None = None) -> tr.models.ResidualNetwork:
    network = tr.models.cifar_net(len(dataset.classes), args.blocks, args.widths, not args.plain, args.seed)
    if checkpoint:
        network.load_state_dict(checkpoint.model)
    return network


def run(args: argparse.Namespace, checkpoint: Checkpoint | None = None) -> Metrics:
    """One training run: data, network, optimizer, loop."""
    dataset = load_dataset(args)
    if args.epochs:
        args.steps, args.epochs = args.epochs * (len(dataset.train.labels) // args.batch_size), None
    if checkpoint and checkpoint.step >= args.steps:
        raise ValueError(f"{args.out} is at step {checkpoint.step} already: give --steps more than that to "
                         "go on")
    network = build_network(args, dataset, checkpoint)
    optimizer = tr.optim.SGD(network.parameters(), args.lr, args.momentum, args.weight_decay)
    schedule = tr.optim.step_decay(args.lr, args.lr_drops)
    if checkpoint:
        optimizer.load_state_dict(checkpoint.optimizer)
    print(f"{args.dataset}: {len(dataset.train.labels):,} training and {len(dataset.test.labels):,} test "
          f"images; "
          f"{'plain' if args.plain else 'residual'} network of {2 * len(network.blocks) + 1} convolutions, "
          f"{network.num_parameters():,} trainable weights; output in {args.out}")
    return train(network, optimizer, schedule, dataset, steps=args.steps, batch_size=args.batch_size,
                 seed=args.seed, out=args.out, config=settings(args),
                 first_step=checkpoint.step if checkpoint else 0, evaluate_every=args.evaluate_every)


def demo(args: argparse.Namespace) -> None:
    """The paper's title as an experiment: the same network with identity and without, on the same data."""
    start, runs = time.perf_counter(), {}
    for name in ("residual", "plain"):
        twin = argparse.Namespace(**{**vars(args), "plain": name == "plain", "out": args.out / name})
        runs[name] = run(twin)
        if runs[name][-1]["step"] < twin.steps:
            sys.exit("Stopped. The demo starts over when run again.")
    draw_curves(args.out / "curve.png", runs)
    print(f"\n{'':12}{'layer':14}{'test error':>12}\n"
          f"{'residual':12}{'x + h(x)':14}{runs['residual'][-1]['test_error']:>12.1%}\n"
          f"{'plain':12}{'h(x)':14}{runs['plain'][-1]['test_error']:>12.1%}   (guessing: 90.0%)\n"
          f"\n{time.perf_counter() - start:.0f} seconds. Both curves are in {args.out / 'curve.png'}")


def print_result(args: argparse.Namespace, metrics: Metrics) -> None:
    """The test error beside the paper's, and every setting that is not the paper's."""
    paper = PAPER_TEST_ERROR.get(args.dataset)
    different = [f"{name.replace('_', ' ')} {getattr(args, name)} (paper: {value})"
                 for name, value in PAPER.items() if name != "dataset" and getattr(args, name) != value]
    print(f"\n{'':14}{'this run':>10}{'the paper':>12}\n"
          f"{'test error':14}{metrics[-1]['test_error']:>10.2%}{f'{paper:.2%}' if paper else '-':>12}\n"
          f"\nDifferent from the paper's run: {'; '.join(different) or 'nothing'}\n"
          f"Curves, metrics and checkpoint are in {args.out}")


def parse_arguments() -> tuple[argparse.Namespace, Checkpoint | None]:
    """The settings and, with --resume or --evaluate, the checkpoint whose settings they are."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=DATASETS, help="default: cifar10")
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR")
    parser.add_argument("--backend", choices=["auto", "numpy", "cupy"], default="auto",
                        help="auto: CuPy if a GPU works")
    parser.add_argument("--blocks", type=whole, metavar="N", help="residual blocks a stage")
    parser.add_argument("--widths", type=whole, nargs="+", metavar="N", help="channels of each stage")
    parser.add_argument("--plain", action="store_true", help="without identity: h(x) instead of x + h(x)")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=whole, metavar="N")
    length.add_argument("--epochs", type=whole, metavar="N", help="instead of --steps")
    parser.add_argument("--batch-size", type=whole, metavar="N")
    parser.add_argument("--lr", type=positive, help="learning rate")
    parser.add_argument("--lr-drops", type=whole, nargs="*", metavar="STEP", help="divide lr by 10 at these")
    parser.add_argument("--momentum", type=share)
    parser.add_argument("--weight-decay", type=share)
    parser.add_argument("--evaluate-every", type=whole, metavar="N", help="steps; default: one epoch")
    parser.add_argument("--seed", type=whole_or_zero, default=0)
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/NAME after the settings")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--evaluate", type=Path, metavar="CHECKPOINT", help="test error of a saved network")
    parser.add_argument("--demo", action="store_true", help="residual against plain, on shapes")
    parser.set_defaults(**PAPER)

    args = parser.parse_args()
    checkpoint = None
    if args.demo:
        if args.resume or args.evaluate:
            parser.error("--demo goes without --resume and --evaluate")
        parser.set_defaults(**DEMO)
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
        saved = saved_settings(parser, checkpoint, settings(args).keys())
        parser.set_defaults(**saved)
        args = parser.parse_args()
        for name in saved.keys() - {"steps", "epochs", "evaluate_every"}:
            if getattr(args, name) != saved[name]:
                parser.error(f"the run was started with {name} {saved[name]}, not "
                             f"{getattr(args, name)}: leave the option out, or start another run")
        if not fits(checkpoint, args):
            parser.error(f"the weights in {args.evaluate or args.out / 'checkpoint.npz'} are not those of "
                         "the network that its settings describe")
    if args.widths != sorted(args.widths) or len(args.widths) > MOST_STAGES:
        parser.error(f"argument --widths: expected up to {MOST_STAGES} numbers that do not fall, got "
                     f"{' '.join(map(str, args.widths))}")
    if not args.out:
        kind = "plain" if args.plain else "residual"
        widths = "-".join(map(str, args.widths))
        args.out = Path("runs") / f"{args.dataset}-{kind}-{args.blocks}x{widths}-seed{args.seed}"
    if not (args.demo or args.resume or args.evaluate) and (args.out / "checkpoint.npz").exists():
        parser.error(f"{args.out} already holds a run: give --resume to go on with it, or another --out")
    return args, checkpoint


def saved_settings(parser: argparse.ArgumentParser, checkpoint: Checkpoint,
                   names: Iterable[str]) -> dict[str, object]:
    """The settings in a checkpoint, which may come from anywhere: they must be what the options admit."""
    options = []
    for name, value in checkpoint.config.items():
        option = "--" + name.replace("_", "-")
        if name not in names:
            parser.error(f"the checkpoint's settings hold {name!r:.60}, which run_cifar.py does not know")
        if value is True or isinstance(value, list):
            options += [option, *map(str, value or [])] if isinstance(value, list) else [option]
        elif value is not None and value is not False:
            options.append(f"{option}={value}")
    try:
        saved = parser.parse_args(options)
    except SystemExit:
        print("That is among the settings in the checkpoint: it was not written by run_cifar.py.",
              file=sys.stderr)
        raise
    return {name: getattr(saved, name) for name in checkpoint.config}


def fits(checkpoint: Checkpoint, args: argparse.Namespace) -> bool:
    """Whether a checkpoint holds the weights of the network that the settings describe, judged before that
    network, of whatever size, is made."""
    if len(checkpoint.model) != 2 * args.blocks * len(args.widths) + 2:
        return False
    widths = [width for width in args.widths for _ in range(args.blocks)]
    kernels = [checkpoint.model.get(f"blocks.{i}.conv2.weight") for i in range(len(widths))]
    return all(kernel is not None and kernel.shape == (3, 3, width, width)
               for width, kernel in zip(widths, kernels, strict=True))


def settings(args: argparse.Namespace) -> dict[str, object]:
    """What decides the course of a run, for config.json and the checkpoint: not where its files are."""
    elsewhere = ("data", "backend", "out", "resume", "evaluate", "demo")
    return {name: value for name, value in vars(args).items() if name not in elsewhere}


def whole(text: str, least: int = 1) -> int:
    """An option's whole number >= 1; argparse turns the ValueError into a message that names the option."""
    if not least <= int(text) < 2**31:
        raise ValueError
    return int(text)


def whole_or_zero(text: str) -> int:
    """An option's whole number >= 0."""
    return whole(text, least=0)


def positive(text: str) -> float:
    """An option's finite number > 0."""
    if not 0 < float(text) < float("inf"):
        raise ValueError
    return float(text)


def share(text: str) -> float:
    """An option's number from 0 to less than 1."""
    if not 0 <= float(text) < 1:
        raise ValueError
    return float(text)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        sys.exit(f"run_cifar.py: {error}")
    except MemoryError as error:
        sys.exit(f"run_cifar.py: not enough memory ({error}): choose fewer --blocks, smaller --widths or a "
                 "smaller --batch-size")
