"""Train the paper's residual network on ImageNet (Hardt and Ma, ICLR 2017, section 4.2).

    python run_imagenet.py --data DIR           the paper's run: 34 layers, DIR/train and DIR/val
    mpirun -n 8 python run_imagenet.py --data DIR --distributed        the same, shared by eight GPUs
    python run_imagenet.py --data DIR --size 64 --epochs 10            smaller images, any pictures in folders
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
import numpy

from tinyres.cli.errors import run_script
from tinyres.cli.launch import (
    build_schedule,
    count_layers,
    data_folder,
    in_precision,
    print_classes,
    print_result,
    run,
    test,
    use_backend,
)
from tinyres.cli.options import Parser, flag, option, positive_float, positive_int
from tinyres.cli.settings import Launch, Settings, completed, layered
from tinyres.datasets import Dataset
from tinyres.datasets.decoding import SHORTER_SIDE, SIZE
from tinyres.distributed import Group
from tinyres.support.saved_weights import build
from tinyres.training import Checkpoint
from tinyres.training.curves import Metrics

PAPER_TEST_ERROR = {"top-1 error": 0.3529, "top-5 error": 0.1417}  # on ImageNet
PAPER_CLASSES = 1000
ERRORS = {"top-1 error": "error", "top-5 error": "top5_error"}  # in the figures of an evaluation
EPOCHS_PER_DECAY = 2


@dataclass(frozen=True, kw_only=True)
class ImagenetSettings(Settings):
    """The defaults are the paper's run: its section 4.2, and section 4.1 for weight decay.

    The paper's steps were taken by 6 machines at a time, none waiting for the others, each with this batch.
    """
    data: Path = option(Path("data/imagenet"), "the folder with train/ and val/", Path, "DIR")
    min_area: float = option(0.08, "smallest fraction of a picture in a training window", positive_float)
    size: int = option(SIZE, "pixels: width and height of the network's images", positive_int, "N")
    blocks: tuple[int, ...] = option((3, 4, 6, 3), "residual blocks of each stage", positive_int, "N",
                                     nargs="+")
    widths: tuple[int, ...] = (80, 168, 328, 672)
    steps: int = 700_000
    batch_size: int = 256
    lr: float = 0.1
    lr_decay: float = option(0.94, "multiply lr by this every two epochs", positive_float)

    def title(self) -> str:
        sizes = ["x".join(map(str, numbers)) for numbers in (self.blocks, self.widths)]
        return "-".join(["imagenet", *[self.network] * (self.network != "residual"), *sizes])


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
    dataset = tr.datasets.image_folder(folder, launch.workers, settings.min_area, settings.size)
    if settings.held_out:
        dataset = dataset.held_out(settings.held_out)
    settings = completed(settings, precision, folder, len(dataset.train.labels))
    if launch.classify:
        classify(settings, launch, dataset, checkpoint)
        return
    if launch.evaluate:
        figures = test(settings, launch, build_network(settings, dataset, checkpoint), dataset.test, group)
        errors = [f"{name} {figures[key]:.2%}" for name, key in ERRORS.items() if key in figures]
        print(f"{launch.evaluate}: step {checkpoint.step}, {settings.tested_on()} loss "
              f"{figures['loss']:.4f}, {', '.join(errors)}")
        return
    metrics = train(settings, launch, dataset, checkpoint, group)
    if launch.dry_run:
        return
    if launch.demo:
        print(f"\nTest error {metrics[-1]['test_error']:.1%} (guessing: 90.0%) after "
              f"{time.perf_counter() - start:.0f} seconds. Curves are in {launch.out / 'curve.png'}")
    else:
        print_errors(settings, launch, metrics, len(dataset.classes))
    for split in dataset.train, dataset.test:
        if split.broken:
            print(f"{len(split.broken)} of the {len(split.names):,} pictures in {split.folder} could not be "
                  "read")


def read_settings() -> tuple[ImagenetSettings, ImagenetLaunch, Checkpoint | None]:
    """From the paper, a preset, a checkpoint and the command line, in this order."""
    parser = Parser(__doc__, ImagenetSettings, ImagenetLaunch)
    typed = parser.typed()
    if "classify" in typed and "evaluate" not in typed:
        parser.error("--classify needs --evaluate, the checkpoint of the network to ask")
    settings, launch, checkpoint = layered(parser, typed, ImagenetSettings, ImagenetLaunch, {"demo": DEMO})
    halvings = len(settings.widths) + 1
    if settings.size % 2**halvings:
        parser.error(f"argument --size: expected a multiple of {2**halvings}, since the network halves "
                     f"images {halvings} times, got {settings.size}")
    return settings, launch, checkpoint


def build_network(settings: ImagenetSettings, dataset: Dataset,
                  checkpoint: Checkpoint | None) -> tr.nn.Module:
    return build(lambda seed: tr.models.imagenet_net(len(dataset.classes), settings.blocks, settings.widths,
                                                     seed, initial_scale=settings.initial_scale,
                                                     **tr.models.BLOCKS[settings.network]),
                 settings.seed, checkpoint and checkpoint.model, checkpoint and checkpoint.path)


def train(settings: ImagenetSettings, launch: ImagenetLaunch, dataset: Dataset,
          checkpoint: Checkpoint | None, group: Group) -> Metrics:
    """One training run: network, schedule, loop."""
    images = len(dataset.train.labels)
    network = build_network(settings, dataset, checkpoint)
    schedule = build_schedule(settings, tr.optim.exponential_decay(
        settings.lr, settings.lr_decay, max(1, EPOCHS_PER_DECAY * images // settings.batch_size)))
    layers = count_layers(network, tr.nn.Conv2d, tr.nn.Linear, tr.nn.RandomProjection)
    headline = (f"{settings.data}: {images:,} training and {len(dataset.test.labels):,} "
                f"{settings.tested_on()} images in {len(dataset.classes)} classes; "
                f"{settings.network} network of {layers} layers, "
                f"{network.num_parameters():,} trainable weights; output in {launch.out}")
    return run(settings, launch, network, schedule, dataset, headline, checkpoint, group)


def classify(settings: ImagenetSettings, launch: ImagenetLaunch, dataset: Dataset,
             checkpoint: Checkpoint) -> None:
    """The five likeliest classes of each picture, of which the network sees as much as in an evaluation."""
    images = numpy.stack([tr.datasets.read_square(file, settings.size, SIZE / SHORTER_SIDE)
                          for file in launch.classify])
    model = in_precision(settings.precision, build_network(settings, dataset, checkpoint))
    print_classes(launch.classify, images, dataset.classes, model)


def print_errors(settings: ImagenetSettings, launch: ImagenetLaunch, metrics: Metrics, classes: int) -> None:
    """The test errors beside the paper's, which are known for ImageNet's classes only."""
    last = metrics[-1]
    errors = {name: last[f"test_{key}"] for name, key in ERRORS.items() if f"test_{key}" in last}
    print_result(settings, launch, errors, PAPER_TEST_ERROR if classes == PAPER_CLASSES else {})


if __name__ == "__main__":
    run_script(main)
