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
from tinyres import options
from tinyres.distributed import Group
from tinyres.train import Checkpoint, Metrics, error_name, evaluate, train

# Section 4.2 of the paper, and section 4.1 for weight decay. The paper's steps were taken by 6 machines at a
# time, none waiting for the others, with the batch below each.
PAPER = dict(blocks=[3, 4, 6, 3], widths=[80, 168, 328, 672], steps=700_000, batch_size=256, lr=0.1,
             lr_decay=0.94, momentum=0.9, weight_decay=1e-4)
PAPER_TEST_ERROR = {1: 0.3529, 5: 0.1417}  # by k of top-k
EPOCHS_A_DECAY = 2
EVALUATION_BATCH = 64  # few enough for the memory of a laptop

# As in run_cifar.py, the rate starts high and drops before the weights have grown: two epochs are 100 steps.
DEMO = dict(data=Path("data/shapes224"), blocks=[2, 3, 3, 3], widths=[8, 16, 32, 64], steps=250,
            batch_size=32, lr=0.1, lr_decay=0.1, least_area=0.5, evaluate_every=50,
            out=Path("runs/imagenet-demo"))
DEMO_IMAGES = dict(train=1600, test=300, size=224)


def main() -> None:
    start = time.perf_counter()
    args, checkpoint = parse_arguments()
    group = options.use_backend(args)
    if args.demo and not args.data.exists():
        print(f"Drawing pictures into {args.data}")
        tr.datasets.save_as_folder(tr.datasets.shapes(**DEMO_IMAGES), args.data)
    dataset = tr.datasets.image_folder(args.data, args.workers, args.least_area)
    if args.evaluate:
        figures = evaluate(build_network(args, dataset, checkpoint), dataset.test,
                           EVALUATION_BATCH, top_of(dataset), group)
        print(f"{args.evaluate}: step {checkpoint.step}, test loss {figures[0]:.4f}, " + ", ".join(
            f"top-{k} error {error:.2%}" for k, error in zip(top_of(dataset), figures[1:], strict=True)))
        return
    metrics = run(args, dataset, checkpoint, group)
    if options.stopped_early(args, metrics):
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


def top_of(dataset: tr.datasets.Dataset) -> tuple[int, ...]:
    """Top-5 error only where there are more than 5 classes."""
    return (1, 5) if len(dataset.classes) > 5 else (1,)


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
    options.set_steps(args, images, checkpoint)
    network = build_network(args, dataset, checkpoint)
    optimizer = options.build_optimizer(args, network, checkpoint)
    schedule = tr.optim.exponential_decay(args.lr, args.lr_decay,
                                          max(1, EPOCHS_A_DECAY * images // args.batch_size))
    print(f"{args.data}: {images:,} training and {len(dataset.test.labels):,} test images in "
          f"{len(dataset.classes)} classes; network of {2 * len(network.blocks) + 2} layers, "
          f"{network.num_parameters():,} trainable weights; output in {args.out}")
    return train(network, optimizer, schedule, dataset, steps=args.steps, batch_size=args.batch_size,
                 seed=args.seed, out=args.out, config=options.settings(args),
                 first_step=checkpoint.step if checkpoint else 0, evaluate_every=args.evaluate_every,
                 evaluation_batch_size=EVALUATION_BATCH, top=top_of(dataset), group=group,
                 capture=args.capture)


def print_result(args: argparse.Namespace, metrics: Metrics) -> None:
    """The test errors beside the paper's, and every setting that is not the paper's."""
    print(f"\n{'':14}{'this run':>10}{'the paper':>12}")
    for k, paper in PAPER_TEST_ERROR.items():
        if (name := error_name(k)) in metrics[-1]:
            print(f"top-{k} error   {metrics[-1][name]:>10.2%}{paper:>12.2%}")
    print(f"\nDifferent from the paper's run: {options.differences(args, PAPER)}\n"
          f"Curves, metrics and checkpoint are in {args.out}")


def parse_arguments() -> tuple[argparse.Namespace, Checkpoint | None]:
    parser = options.parser(__doc__, demo="a narrow network on drawn shapes, in two minutes on two cores")
    parser.add_argument("--data", type=Path, default=Path("data/imagenet"), metavar="DIR",
                        help="the folder with train/ and val/; default: data/imagenet")
    parser.add_argument("--workers", type=options.whole, metavar="N",
                        help="threads that decode pictures; default: as many as cores")
    parser.add_argument("--blocks", type=options.whole, nargs="+", metavar="N",
                        help="residual blocks of each stage")
    parser.add_argument("--lr-decay", type=options.positive, help="times lr every two epochs")
    parser.add_argument("--least-area", type=options.positive, default=0.08,
                        help="share of a picture in a training window")
    return options.parse(parser, PAPER, DEMO, lambda args: "-".join(
        ["imagenet", "x".join(map(str, args.blocks)), "x".join(map(str, args.widths)), f"seed{args.seed}"]))


if __name__ == "__main__":
    options.run_script(main)
