"""Train the paper's residual network on ImageNet (Hardt and Ma, ICLR 2017, section 4.2).

    python run_imagenet.py --data DIR           the paper's run: 34 layers, DIR/train and DIR/val
    mpirun -n 8 python run_imagenet.py --data DIR --distributed        the same, shared by eight GPUs
    python run_imagenet.py --demo               a narrow network, on drawn shapes, without a download

data/README.md says how to get ImageNet, Imagenette or Tiny ImageNet, and how DIR should look.
"""
from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

try:
    import tinyres as tr
except ImportError as error:  # NumPy or Pillow is absent or too old
    sys.exit(f"{Path(sys.argv[0]).name}: {error}")
from tinyres.cli.errors import run_script
from tinyres.cli.launch import data_folder, run, stopped_early, test, use_backend
from tinyres.cli.options import Parser, flag, option, positive_float, positive_int
from tinyres.cli.settings import Launch, Settings, completed, layered
from tinyres.datasets import Dataset
from tinyres.distributed import Group
from tinyres.training import Checkpoint
from tinyres.training.curves import Metrics

PAPER_TEST_ERROR = {1: 0.3529, 5: 0.1417}  # by k of top-k
ERRORS = {1: "error", 5: "top5_error"}  # their names in the figures of an evaluation
EPOCHS_PER_DECAY = 2


@dataclass(frozen=True, kw_only=True)
class ImagenetSettings(Settings):
    """The defaults are the paper's run: its section 4.2, and section 4.1 for weight decay.

    The paper's steps were taken by 6 machines at a time, none waiting for the others, each with this batch.
    """
    data: Path = option(Path("data/imagenet"), "the folder with train/ and val/", Path, "DIR")
    min_area: float = option(0.08, "smallest fraction of a picture in a training window", positive_float)
    blocks: tuple[int, ...] = option((3, 4, 6, 3), "residual blocks of each stage", positive_int, "N",
                                     nargs="+")
    widths: tuple[int, ...] = (80, 168, 328, 672)
    steps: int = 700_000
    batch_size: int = 256
    lr: float = 0.1
    lr_decay: float = option(0.94, "multiply lr by this every two epochs", positive_float)

    def network(self) -> str:
        return "-".join(["imagenet", "x".join(map(str, self.blocks)), "x".join(map(str, self.widths))])


# As in run_cifar.py, the rate starts high and drops before the weights have grown: two epochs are 100 steps.
DEMO = dict(data=Path("data/shapes224"), blocks=(2, 3, 3, 3), widths=(8, 16, 32, 64), steps=250,
            batch_size=32, lr=0.1, lr_decay=0.1, min_area=0.5, evaluate_every=50,
            out=Path("runs/imagenet-demo"))
DEMO_IMAGES = dict(train=1600, test=300, size=224)


@dataclass(frozen=True, kw_only=True)
class ImagenetLaunch(Launch):
    demo: bool = flag("a narrow network on drawn shapes, in two minutes on two cores")
    workers: int | None = option(None, "threads that decode pictures; default: one per core",
                                 positive_int, "N")


def main() -> None:
    start = time.perf_counter()
    settings, launch, checkpoint = read_settings()
    group, precision = use_backend(settings, launch)
    if launch.demo and not settings.data.exists():
        print(f"Drawing pictures into {settings.data}")
        tr.datasets.save_as_folder(tr.datasets.shapes(**DEMO_IMAGES), settings.data)
    folder = data_folder(settings.data, ["train"]) if settings.data.exists() else settings.data
    dataset = tr.datasets.image_folder(folder, launch.workers, settings.min_area)
    settings = completed(settings, precision, folder, len(dataset.train.labels))
    if launch.evaluate:
        figures = test(settings, launch, build_network(settings, dataset, checkpoint), dataset.test, group)
        errors = [f"top-{k} error {figures[name]:.2%}" for k, name in ERRORS.items() if name in figures]
        print(f"{launch.evaluate}: step {checkpoint.step}, test loss {figures['loss']:.4f}, "
              f"{', '.join(errors)}")
        return
    metrics = train(settings, launch, dataset, checkpoint, group)
    if launch.dry_run or stopped_early(settings, launch, metrics):
        return
    if launch.demo:
        print(f"\nTest error {metrics[-1]['test_error']:.1%} (guessing: 90.0%) after "
              f"{time.perf_counter() - start:.0f} seconds. Curves are in {launch.out / 'curve.png'}")
    else:
        print_result(settings, launch, metrics)
    for split in dataset.train, dataset.test:
        if split.broken:
            print(f"{len(split.broken)} of the {len(split.names):,} pictures in {split.folder} could not be "
                  "read")


def read_settings() -> tuple[ImagenetSettings, ImagenetLaunch, Checkpoint | None]:
    """From the paper, a preset, a checkpoint and the command line, in this order."""
    parser = Parser(__doc__, ImagenetSettings, ImagenetLaunch)
    return layered(parser, parser.typed(), ImagenetSettings, ImagenetLaunch, {"demo": DEMO})


def build_network(settings: ImagenetSettings, dataset: Dataset,
                  checkpoint: Checkpoint | None) -> tr.models.ResidualNetwork:
    network = tr.models.imagenet_net(len(dataset.classes), settings.blocks, settings.widths, settings.seed)
    if checkpoint:
        network.load_state_dict(checkpoint.model)
    return network


def train(settings: ImagenetSettings, launch: ImagenetLaunch, dataset: Dataset,
          checkpoint: Checkpoint | None, group: Group) -> Metrics:
    """One training run: network, schedule, loop."""
    images = len(dataset.train.labels)
    network = build_network(settings, dataset, checkpoint)
    schedule = tr.optim.exponential_decay(settings.lr, settings.lr_decay,
                                          max(1, EPOCHS_PER_DECAY * images // settings.batch_size))
    headline = (f"{settings.data}: {images:,} training and {len(dataset.test.labels):,} test images in "
                f"{len(dataset.classes)} classes; network of {2 * len(network.blocks) + 2} layers, "
                f"{network.num_parameters():,} trainable weights; output in {launch.out}")
    return run(settings, launch, network, schedule, dataset, headline, checkpoint, group)


def print_result(settings: ImagenetSettings, launch: ImagenetLaunch, metrics: Metrics) -> None:
    """The test errors beside the paper's, and every setting that is not the paper's."""
    print(f"\n{'':14}{'this run':>10}{'the paper':>12}")
    for k, name in ERRORS.items():
        if (error := metrics[-1].get(f"test_{name}")) is not None:
            print(f"top-{k} error   {error:>10.2%}{PAPER_TEST_ERROR[k]:>12.2%}")
    print(f"\nDifferent from the paper's run: {settings.differences()}\n"
          f"Curves, metrics and checkpoint are in {launch.out}")


if __name__ == "__main__":
    run_script(main)
