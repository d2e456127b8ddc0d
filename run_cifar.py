"""Train the paper's residual network on CIFAR-10 or CIFAR-100 (Hardt and Ma, ICLR 2017, section 4.1).

    python run_cifar.py                         the paper's run: CIFAR-10, 9 blocks per stage, 50,000 steps
    python run_cifar.py --dataset cifar100
    python run_cifar.py --laptop                the same kind of network, 65 minutes on two cores
    python run_cifar.py --demo                  identity against no identity, on drawn shapes, without a
    download
"""
from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy

import tinyres as tr
from tinyres.cli import settings as cli
from tinyres.cli.errors import run_script
from tinyres.distributed import SINGLE_PROCESS, Group
from tinyres.pretrained import NETWORK, save_network
from tinyres.training import Checkpoint, draw_curves, evaluate, load_checkpoint
from tinyres.training.curves import Metrics
from tinyres.training.pictures import draw_all, probabilities

DATASETS = {
    "cifar10": tr.datasets.cifar10,
    "cifar100": tr.datasets.cifar100,
    "shapes": lambda root: tr.datasets.shapes(),
}

HELD = {  # what is in the folder of a data set, or was packed
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz"),
}

# Section 4.1 of the paper, and its Table 1 for blocks and widths.
PAPER = dict(dataset="cifar10", blocks=9, widths=[64, 128, 256], plain=False, steps=50_000, batch_size=128,
             lr=0.05, lr_drops=[30_000, 50_000], momentum=0.9, weight_decay=1e-4, schedule="drops",
             initial_scale=None)
PAPER_TEST_ERROR = {"cifar10": 0.0638, "cifar100": 0.2464}

# Deep enough that the identity decides, narrow enough for a minute on a laptop. Weights that start as small
# as the paper's learn little at first, so the rate starts high, and drops before they have grown.
DEMO = dict(dataset="shapes", blocks=3, widths=[8, 16, 32, 48, 64], steps=500, batch_size=32, lr=0.1,
            lr_drops=[68, 430], evaluate_every=125, out=Path("runs/demo"))

# What two cores train in about 65 minutes. The initial scale, rate and schedule were chosen on held-out
# training images: see data/results/README.md.
LAPTOP = dict(blocks=1, widths=[32, 64, 128, 256], steps=40_000, batch_size=64, lr=0.04,
              schedule="one-cycle", weight_decay=5e-4, initial_scale=0.3, evaluate_every=2000)


def main() -> None:
    args, checkpoint = parse_arguments()
    group = cli.use_backend(args)
    if args.demo:
        demo(args)
    elif args.evaluate:
        use_network(args, checkpoint, group)
    else:
        metrics = run(args, checkpoint, group)
        if not args.dry_run and not cli.stopped_early(args, metrics):
            print_result(args, metrics)


def load_dataset(args: argparse.Namespace) -> tr.datasets.Dataset:
    """The data set's uint8 images and labels, in the memory of the device that computes."""
    if args.dataset != "shapes":
        args.data = cli.data_folder(args.data, HELD[args.dataset])
    dataset = DATASETS[args.dataset](args.data)
    if args.held_out:
        dataset = dataset.held_out(args.held_out)
    return dataset.moved_to(tr.backend.current())


def build_network(args: argparse.Namespace, classes: int,
                  checkpoint: Checkpoint | None = None) -> tr.models.ResidualNetwork:
    network = tr.models.cifar_net(classes, args.blocks, args.widths, not args.plain, args.seed,
                                  args.initial_scale)
    if checkpoint:
        network.load_state_dict(checkpoint.model)
    return network


def run(args: argparse.Namespace, checkpoint: Checkpoint | None = None, group: Group = SINGLE_PROCESS,
        dataset: tr.datasets.Dataset | None = None) -> Metrics:
    """One training run: data, if they are not given, network, optimizer, loop."""
    dataset = dataset or load_dataset(args)
    cli.set_steps(args, len(dataset.train.labels), checkpoint)
    network = build_network(args, len(dataset.classes), checkpoint)
    model = cli.in_precision(args.precision, network)
    optimizer = cli.build_optimizer(args, model, checkpoint)
    schedule = (tr.optim.one_cycle(args.lr, args.steps) if args.schedule == "one-cycle" else
                tr.optim.step_decay(args.lr, args.lr_drops))
    headline = (f"{args.dataset}: {len(dataset.train.labels):,} training and {len(dataset.test.labels):,} "
                f"{'held-out' if args.held_out else 'test'} images; "
                f"{'plain' if args.plain else 'residual'} network of {2 * len(network.blocks) + 1} "
                f"convolutions, {network.num_parameters():,} trainable weights; output in {args.out}")
    return cli.run(args, model, optimizer, schedule, dataset, checkpoint, group, headline)


def use_network(args: argparse.Namespace, checkpoint: Checkpoint, group: Group) -> None:
    """What is asked of a saved network: classes of pictures, pictures of it, its weights, its test error."""
    if args.export:
        save_network(args.export, checkpoint)
        print(f"Weights in float16: {args.export}, {args.export.stat().st_size / 1e6:.1f} MB")
    elif args.classify:
        classify(args, checkpoint)
    else:
        dataset = load_dataset(args)
        network = build_network(args, len(dataset.classes), checkpoint)
        model = cli.in_precision(args.precision, network)
        if args.pictures:
            drawn = draw_all(args.pictures, network, dataset.test, dataset.classes, model)
            print("\n".join(map(str, drawn)))
        else:
            with cli.shared(args, model, group) as group:
                figures = evaluate(model, dataset.test, group)
            images = "held-out" if args.held_out else "test"
            print(f"{args.evaluate}: step {checkpoint.step}, {images} loss {figures['loss']:.4f}, "
                  f"{images} error {figures['error']:.2%}")


def classify(args: argparse.Namespace, checkpoint: Checkpoint) -> None:
    """The five likeliest classes of each picture, whatever its size: its middle square at 32 x 32 pixels."""
    images = numpy.stack([tr.datasets.read_square(file, 32) for file in args.classify])
    classes = tr.datasets.CIFAR10_CLASSES if args.dataset == "cifar10" else load_dataset(args).classes
    model = cli.in_precision(args.precision, build_network(args, len(classes), checkpoint))
    split = tr.datasets.Split(tr.backend.current().asarray(images), numpy.zeros(len(images), numpy.int64))
    for file, likelihood in zip(args.classify, probabilities(model, split), strict=True):
        best = numpy.argsort(-likelihood)[:5]
        print(f"{file}: {', '.join(f'{classes[i]} {likelihood[i]:.1%}' for i in best)}")


def demo(args: argparse.Namespace) -> None:
    """The paper's title as an experiment: the same network with identity and without, on the same data."""
    start, runs, dataset = time.perf_counter(), {}, load_dataset(args)
    for name in ("residual", "plain"):
        twin = argparse.Namespace(**{**vars(args), "plain": name == "plain", "out": args.out / name})
        runs[name] = run(twin, dataset=dataset)
        if not args.dry_run and runs[name][-1]["step"] < twin.steps:
            sys.exit("Stopped. The demo starts over when run again.")
    if args.dry_run:
        return
    draw_curves(args.out / "curve.png", runs)
    checkpoint = load_checkpoint(args.out / "residual" / "checkpoint.npz")
    network = build_network(args, len(dataset.classes), checkpoint)
    draw_all(args.out / "pictures", network, dataset.test, dataset.classes)
    print(f"\n{'':12}{'layer':14}{'test error':>12}\n"
          f"{'residual':12}{'x + h(x)':14}{runs['residual'][-1]['test_error']:>12.1%}\n"
          f"{'plain':12}{'h(x)':14}{runs['plain'][-1]['test_error']:>12.1%}   (guessing: 90.0%)\n"
          f"\n{time.perf_counter() - start:.0f} seconds. Both curves are in {args.out / 'curve.png'}; the "
          f"residual network's\nanswers, its mistakes and more in {args.out / 'pictures'}")


def print_result(args: argparse.Namespace, metrics: Metrics) -> None:
    """The test error beside the paper's, and every setting that is not the paper's."""
    paper = PAPER_TEST_ERROR.get(args.dataset)
    different = cli.differences(args, {**PAPER, "dataset": args.dataset})
    print(f"\n{'':14}{'this run':>10}{'the paper':>12}\n"
          f"{'test error':14}{metrics[-1]['test_error']:>10.2%}{f'{paper:.2%}' if paper else '-':>12}\n"
          f"\nDifferent from the paper's run: {different}\n"
          f"Curves, metrics and checkpoint are in {args.out}")


def parse_arguments() -> tuple[argparse.Namespace, Checkpoint | None]:
    parser = cli.parser(__doc__, demo="residual against plain, on shapes")
    parser.add_argument("--dataset", choices=DATASETS, help="what to learn")
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="DIR",
                        help="the folder of the data sets")
    parser.add_argument("--blocks", type=cli.positive_int, metavar="N", help="residual blocks per stage")
    parser.add_argument("--plain", action="store_true", help="without identity: h(x) instead of x + h(x)")
    parser.add_argument("--laptop", action="store_true", help="settings for 65 minutes on two cores")
    parser.add_argument("--classify", nargs="+", type=Path, metavar="FILE",
                        help="the likeliest classes of pictures, by the network that comes along or that of "
                             "--evaluate")
    parser.add_argument("--pictures", type=Path, metavar="DIR",
                        help="draw what that network has learned: kernels, answers, mistakes, confusion,"
                             " a path")
    parser.add_argument("--export", type=Path, metavar="FILE",
                        help="write the weights of --evaluate alone, in float16")
    parser.add_argument("--initial-scale", type=cli.positive_float, metavar="X",
                        help="residual blocks start as in He et al., their second convolution times X; "
                             "default: the paper's")
    parser.add_argument("--held-out", type=cli.positive_int, metavar="N",
                        help="leave the last N training images out, and test on them instead")
    parser.add_argument("--schedule", choices=["drops", "one-cycle"],
                        help="of the learning rate: by --lr-drops, or up and down in a line over all steps")
    parser.add_argument("--lr-drops", type=cli.positive_int, nargs="*", metavar="STEP",
                        help="divide lr by 10 at these")

    def name(args: argparse.Namespace) -> str:
        kind, widths = "plain" if args.plain else "residual", "-".join(map(str, args.widths))
        return f"{args.dataset}-{kind}-{args.blocks}x{widths}-{cli.length_and_rate(args)}-seed{args.seed}"

    parser.set_defaults(**PAPER)  # for --help
    known = parser.parse_known_args()[0]
    if (known.classify or known.pictures) and not known.evaluate:
        parser.set_defaults(evaluate=NETWORK)
    elif known.export and not known.evaluate:
        parser.error("--export needs --evaluate, the checkpoint whose weights it writes")
    return cli.parse(parser, PAPER, DEMO, name, LAPTOP)


if __name__ == "__main__":
    run_script(main)
