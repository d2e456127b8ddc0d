"""Train the paper's residual network on ImageNet (Hardt and Ma, ICLR 2017, section 4.2).

    python run_imagenet.py --data DIR           the paper's run: 34 layers, DIR/train and DIR/val
    mpirun -n 8 python run_imagenet.py --data DIR --distributed        the same, shared by eight GPUs
    python run_imagenet.py --demo               a narrow network, on drawn shapes, without a download

data/README.md says how to get ImageNet, Imagenette or Tiny ImageNet, and how DIR should look.
"""
from __future__ import annotations

import argparse
import time
from pathlib import Path

import tinyres as tr
from tinyres.cli import settings as cli
from tinyres.cli.errors import run_script
from tinyres.distributed import Group
from tinyres.training import Checkpoint, evaluate
from tinyres.training.curves import Metrics

# Section 4.2 of the paper, and section 4.1 for weight decay. The paper's steps were taken by 6 machines at a
# time, none waiting for the others, with the batch below each.
PAPER = dict(blocks=[3, 4, 6, 3], widths=[80, 168, 328, 672], steps=700_000, batch_size=256, lr=0.1,
             lr_decay=0.94, momentum=0.9, weight_decay=1e-4)
PAPER_TEST_ERROR = {1: 0.3529, 5: 0.1417}  # by k of top-k
ERRORS = {1: "error", 5: "top5_error"}  # their names in the figures of an evaluation
EPOCHS_PER_DECAY = 2

# As in run_cifar.py, the rate starts high and drops before the weights have grown: two epochs are 100 steps.
DEMO = dict(data=Path("data/shapes224"), blocks=[2, 3, 3, 3], widths=[8, 16, 32, 64], steps=250,
            batch_size=32, lr=0.1, lr_decay=0.1, min_area=0.5, evaluate_every=50,
            out=Path("runs/imagenet-demo"))
DEMO_IMAGES = dict(train=1600, test=300, size=224)


def main() -> None:
    start = time.perf_counter()
    args, checkpoint = parse_arguments()
    group = cli.use_backend(args)
    if args.demo and not args.data.exists():
        print(f"Drawing pictures into {args.data}")
        tr.datasets.save_as_folder(tr.datasets.shapes(**DEMO_IMAGES), args.data)
    if args.data.exists():
        args.data = cli.data_folder(args.data, ["train"])
    dataset = tr.datasets.image_folder(args.data, args.workers, args.min_area)
    if args.evaluate:
        network = cli.in_precision(args.precision, build_network(args, dataset, checkpoint))
        with cli.shared(args, network, group) as group:
            figures = evaluate(network, dataset.test, group)
        errors = [f"top-{k} error {figures[name]:.2%}" for k, name in ERRORS.items() if name in figures]
        print(f"{args.evaluate}: step {checkpoint.step}, test loss {figures['loss']:.4f}, "
              f"{', '.join(errors)}")
        return
    metrics = run(args, dataset, checkpoint, group)
    if args.dry_run or cli.stopped_early(args, metrics):
        return
    if args.demo:
        print(f"\nTest error {metrics[-1]['test_error']:.1%} (guessing: 90.0%) after "
              f"{time.perf_counter() - start:.0f} seconds. Curves are in {args.out / 'curve.png'}")
    else:
        print_result(args, metrics)
    for split in dataset.train, dataset.test:
        if split.broken:
            print(f"{len(split.broken)} of the {len(split.names):,} pictures in {split.folder} could not be "
                  "read")


def build_network(args: argparse.Namespace, dataset: tr.datasets.Dataset,
                  checkpoint: Checkpoint | None = None) -> tr.models.ResidualNetwork:
    network = tr.models.imagenet_net(len(dataset.classes), args.blocks, args.widths, args.seed)
    if checkpoint:
        network.load_state_dict(checkpoint.model)
    return network


def run(args: argparse.Namespace, dataset: tr.datasets.Dataset, checkpoint: Checkpoint | None,
        group: Group) -> Metrics:
    """One training run: network, optimizer, loop."""
    images = len(dataset.train.labels)
    cli.set_steps(args, images, checkpoint)
    network = build_network(args, dataset, checkpoint)
    model = cli.in_precision(args.precision, network)
    optimizer = cli.build_optimizer(args, model, checkpoint)
    schedule = tr.optim.exponential_decay(args.lr, args.lr_decay,
                                          max(1, EPOCHS_PER_DECAY * images // args.batch_size))
    headline = (f"{args.data}: {images:,} training and {len(dataset.test.labels):,} test images in "
                f"{len(dataset.classes)} classes; network of {2 * len(network.blocks) + 2} layers, "
                f"{network.num_parameters():,} trainable weights; output in {args.out}")
    return cli.run(args, model, optimizer, schedule, dataset, checkpoint, group, headline)


def print_result(args: argparse.Namespace, metrics: Metrics) -> None:
    """The test errors beside the paper's, and every setting that is not the paper's."""
    print(f"\n{'':14}{'this run':>10}{'the paper':>12}")
    for k, name in ERRORS.items():
        if (error := metrics[-1].get(f"test_{name}")) is not None:
            print(f"top-{k} error   {error:>10.2%}{PAPER_TEST_ERROR[k]:>12.2%}")
    print(f"\nDifferent from the paper's run: {cli.differences(args, PAPER)}\n"
          f"Curves, metrics and checkpoint are in {args.out}")


def parse_arguments() -> tuple[argparse.Namespace, Checkpoint | None]:
    parser = cli.parser(__doc__, demo="a narrow network on drawn shapes, in two minutes on two cores")
    parser.add_argument("--data", type=Path, default=Path("data/imagenet"), metavar="DIR",
                        help="the folder with train/ and val/; default: data/imagenet")
    parser.add_argument("--workers", type=cli.positive_int, metavar="N",
                        help="threads that decode pictures; default: as many as cores")
    parser.add_argument("--blocks", type=cli.positive_int, nargs="+", metavar="N",
                        help="residual blocks of each stage")
    parser.add_argument("--lr-decay", type=cli.positive_float, help="times lr every two epochs")
    parser.add_argument("--min-area", type=cli.positive_float, default=0.08,
                        help="smallest fraction of a picture in a training window; default: 0.08")
    return cli.parse(parser, PAPER, DEMO, lambda args: "-".join(
        ["imagenet", "x".join(map(str, args.blocks)), "x".join(map(str, args.widths)),
         cli.length_and_rate(args), f"seed{args.seed}"]))


if __name__ == "__main__":
    run_script(main)
