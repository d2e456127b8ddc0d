"""Train the paper's residual network on CIFAR-10 or CIFAR-100 (Hardt and Ma, ICLR 2017, section 4.1).

    python run_cifar.py                         the paper's run: CIFAR-10, 9 blocks per stage, 50,000 steps
    python run_cifar.py --dataset cifar100
    python run_cifar.py --blocks 1 --widths 16 32 64 --epochs 10 --lr-drops 2340 3510      for a laptop
    python run_cifar.py --demo                  identity against no identity, on drawn shapes, without a
    download
"""
from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import tinyres as tr
from tinyres import cli
from tinyres.distributed import SINGLE_PROCESS, Group
from tinyres.training import Checkpoint, draw_curves, evaluate, train
from tinyres.training.curves import Metrics

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
             lr=0.05, lr_drops=[30_000, 50_000], momentum=0.9, weight_decay=1e-4)
PAPER_TEST_ERROR = {"cifar10": 0.0638, "cifar100": 0.2464}

# Deep enough that the identity decides, narrow enough for a minute on a laptop. Weights that start as small
# as the paper's learn little at first, so the rate starts high, and drops before they have grown.
DEMO = dict(dataset="shapes", blocks=3, widths=[8, 16, 32, 48, 64], steps=500, batch_size=32, lr=0.1,
            lr_drops=[68, 430], evaluate_every=125, out=Path("runs/demo"))


def main() -> None:
    args, checkpoint = parse_arguments()
    group = cli.use_backend(args)
    if args.demo:
        demo(args)
    elif args.evaluate:
        dataset = load_dataset(args)
        network = cli.in_precision(args, build_network(args, dataset, checkpoint))
        figures = evaluate(network, dataset.test, group)
        print(f"{args.evaluate}: step {checkpoint.step}, test loss {figures['loss']:.4f}, "
              f"test error {figures['error']:.2%}")
    else:
        metrics = run(args, checkpoint, group)
        if not cli.stopped_early(args, metrics):
            print_result(args, metrics)


def load_dataset(args: argparse.Namespace) -> tr.datasets.Dataset:
    """The data set's uint8 images and labels, in the memory of the device that computes."""
    xp = tr.backend.current()
    if args.dataset != "shapes":
        args.data = cli.data_folder(args.data, HELD[args.dataset])
    dataset = DATASETS[args.dataset](args.data)
    return dataset._replace(train=tr.datasets.Split(*map(xp.asarray, dataset.train)),
                            test=tr.datasets.Split(*map(xp.asarray, dataset.test)))


def build_network(args: argparse.Namespace, dataset: tr.datasets.Dataset,
                  checkpoint: Checkpoint | None = None) -> tr.models.ResidualNetwork:
    network = tr.models.cifar_net(len(dataset.classes), args.blocks, args.widths, not args.plain, args.seed)
    if checkpoint:
        network.load_state_dict(checkpoint.model)
    return network


def run(args: argparse.Namespace, checkpoint: Checkpoint | None = None,
        group: Group = SINGLE_PROCESS) -> Metrics:
    """One training run: data, network, optimizer, loop."""
    dataset = load_dataset(args)
    cli.set_steps(args, len(dataset.train.labels), checkpoint)
    network = build_network(args, dataset, checkpoint)
    model = cli.in_precision(args, network)
    optimizer = cli.build_optimizer(args, model, checkpoint)
    schedule = tr.optim.step_decay(args.lr, args.lr_drops)
    print(f"{args.dataset}: {len(dataset.train.labels):,} training and {len(dataset.test.labels):,} test "
          f"images; "
          f"{'plain' if args.plain else 'residual'} network of {2 * len(network.blocks) + 1} convolutions, "
          f"{network.num_parameters():,} trainable weights; output in {args.out}")
    return train(model, optimizer, schedule, dataset,
                 **cli.how_to_train(args, model, dataset, checkpoint, group))


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
    parser.add_argument("--lr-drops", type=cli.positive_int, nargs="*", metavar="STEP",
                        help="divide lr by 10 at these")

    def name(args: argparse.Namespace) -> str:
        kind, widths = "plain" if args.plain else "residual", "-".join(map(str, args.widths))
        return f"{args.dataset}-{kind}-{args.blocks}x{widths}-{cli.length_and_rate(args)}-seed{args.seed}"

    return cli.parse(parser, PAPER, DEMO, name)


if __name__ == "__main__":
    cli.run_script(main)
