"""Train the paper's residual network on CIFAR-10 or CIFAR-100 (Hardt and Ma, ICLR 2017, section 4.1).

    python run_cifar.py                         the paper's run: CIFAR-10, 9 blocks per stage, 50,000 steps
    python run_cifar.py --dataset cifar100
    python run_cifar.py --network batch-norm    another network: also plain, all-convolutional
    python run_cifar.py --laptop                the same kind of network, 100 minutes on two cores
    python run_cifar.py --demo                  identity against no identity, on drawn shapes
"""
from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
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
    holding,
    in_precision,
    print_classes,
    print_result,
    run,
    test,
    use_backend,
)
from tinyres.cli.options import Parser, flag, non_negative_int, option, positive_int
from tinyres.cli.settings import Launch, Settings, completed, layered
from tinyres.datasets import Dataset
from tinyres.distributed import SINGLE_PROCESS, Group
from tinyres.pretrained import NETWORK, save_network
from tinyres.support.saved_weights import build
from tinyres.training import Checkpoint, draw_curves, load_checkpoint
from tinyres.training.curves import Metrics
from tinyres.training.pictures import draw_all

DATASETS = {
    "cifar10": tr.datasets.cifar10,
    "cifar100": tr.datasets.cifar100,
    "shapes": lambda root: tr.datasets.shapes(),
}
HELD = {  # what the folder of a data set holds, unpacked or packed
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz"),
}
PAPER_TEST_ERROR = {"cifar10": {"test error": 0.0638}, "cifar100": {"test error": 0.2464}}


@dataclass(frozen=True, kw_only=True)
class CifarSettings(Settings):
    """The defaults are the paper's run: its section 4.1, and Table 1 for blocks and widths."""
    dataset: str = option("cifar10", "what to learn", choices=DATASETS)
    data: Path = option(Path("data"), "the folder of the data sets", Path, "DIR")
    network: str = option("residual", "plain: without identity, h(x) instead of x + h(x); "
                          "batch-norm: normalized after each convolution; all-convolutional: All-CNN-C of "
                          "Springenberg et al., with two --widths", choices=tr.models.NETWORKS, alias="plain")
    blocks: int = option(9, "residual blocks per stage", positive_int, "N")
    widths: tuple[int, ...] = (64, 128, 256)
    steps: int = 50_000
    batch_size: int = 128
    crop_padding: int = option(2, "pixels by which a crop may lie beside its image", non_negative_int, "N")
    lr: float = 0.05
    lr_drops: tuple[int, ...] = option((30_000, 50_000), "divide lr by 10 at these steps", positive_int,
                                       "STEP", nargs="*")

    def title(self) -> str:
        blocks = "" if self.network == "all-convolutional" else f"{self.blocks}x"
        return f"{self.dataset}-{self.network}-{blocks}{'-'.join(map(str, self.widths))}"


# Deep enough that the identity decides, narrow enough for a minute on a laptop. Weights that start as small
# as the paper's learn little at first, so the rate starts high, and drops before they have grown.
DEMO = dict(dataset="shapes", blocks=3, widths=(8, 16, 32, 48, 64), steps=420, batch_size=32, lr=0.1,
            lr_drops=(68, 350), evaluate_every=70, out=Path("runs/demo"))

# What two cores train in about 100 minutes. Depth, initial scale, rate and schedule were chosen on held-out
# training images: see data/results/README.md.
LAPTOP = dict(widths=(16, 32, 64), steps=24_000, crop_padding=4, schedule="one-cycle", weight_decay=5e-4,
              initial_scale=0.3, evaluate_every=2000)


@dataclass(frozen=True, kw_only=True)
class CifarLaunch(Launch):
    demo: bool = flag("residual against plain, on shapes")
    laptop: bool = flag("settings for 100 minutes on two cores")
    classify: tuple[Path, ...] | None = option(
        None, "name the likeliest classes of pictures, by the pretrained network or the one of --evaluate",
        Path, "FILE", nargs="+")
    pictures: Path | None = option(
        None, "draw what the pretrained network, or the one of --evaluate, has learned",
        Path, "DIR")
    export: Path | None = option(None, "write only the weights of the --evaluate checkpoint, in float16",
                                 Path, "FILE")


def main() -> None:
    start = time.perf_counter()
    settings, launch, checkpoint = read_settings()
    group, precision = use_backend(settings, launch)
    if launch.export:
        save_network(launch.export, checkpoint)
        print(f"Weights in float16: {launch.export}, {launch.export.stat().st_size / 1e6:.1f} MB")
    elif launch.classify:
        classify(settings, launch, checkpoint, precision)
    else:
        dataset, folder = load_dataset(settings)
        settings = completed(settings, precision, folder, len(dataset.train.labels))
        if launch.demo:
            demo(settings, launch, dataset, start)
        elif launch.evaluate:
            examine(settings, launch, dataset, checkpoint, group)
        else:
            metrics = train(settings, launch, dataset, checkpoint, group)
            if not launch.dry_run:
                paper = PAPER_TEST_ERROR.get(settings.dataset, {})
                print_result(settings, launch, {"test error": metrics[-1]["test_error"]}, paper)


def read_settings() -> tuple[CifarSettings, CifarLaunch, Checkpoint | None]:
    """From the paper, a preset, a checkpoint and the command line, in this order."""
    parser = Parser(__doc__, CifarSettings, CifarLaunch)
    typed = parser.typed()
    if typed.keys() & {"classify", "pictures"}:
        typed.setdefault("evaluate", NETWORK)
    elif "export" in typed and "evaluate" not in typed:
        parser.error("--export needs --evaluate, the checkpoint whose weights it writes")
    if typed.keys() >= {"demo", "network"}:
        parser.error("--demo trains the residual network and its plain twin: leave --network out")
    settings, launch, checkpoint = layered(parser, typed, CifarSettings, CifarLaunch,
                                           {"demo": DEMO, "laptop": LAPTOP})
    held = HELD.get(settings.dataset)
    if checkpoint and held and "data" not in typed and not holding(settings.data, held):
        # nothing is downloaded to where a checkpoint says, which may come from anywhere
        settings = replace(settings, data=CifarSettings.data)
    return settings, launch, checkpoint


def load_dataset(settings: CifarSettings) -> tuple[Dataset, Path]:
    """The data set's uint8 images and labels, in the memory of the device that computes, and their folder."""
    held = HELD.get(settings.dataset)
    folder = data_folder(settings.data, held) if held else settings.data
    dataset = DATASETS[settings.dataset](folder)
    if settings.held_out:
        dataset = dataset.held_out(settings.held_out)
    return dataset.moved_to(tr.backend.current()), folder


def build_network(settings: CifarSettings, classes: int,
                  checkpoint: Checkpoint | None = None) -> tr.nn.Module:
    return build(lambda seed: tr.models.named_net(settings.network, classes, settings.blocks,
                                                  settings.widths, seed, settings.initial_scale),
                 settings.seed, checkpoint and checkpoint.model, checkpoint and checkpoint.path)


def train(settings: CifarSettings, launch: CifarLaunch, dataset: Dataset,
          checkpoint: Checkpoint | None = None, group: Group = SINGLE_PROCESS) -> Metrics:
    """One training run: network, schedule, loop."""
    network = build_network(settings, len(dataset.classes), checkpoint)
    schedule = build_schedule(settings, tr.optim.step_decay(settings.lr, settings.lr_drops))
    headline = (f"{settings.dataset}: {len(dataset.train.labels):,} training and "
                f"{len(dataset.test.labels):,} {settings.tested_on()} images; "
                f"{settings.network} network of "
                f"{count_layers(network, tr.nn.Conv2d)} convolutions, {network.num_parameters():,} trainable "
                f"weights; output in {launch.out}")
    return run(settings, launch, network, schedule, dataset, headline, checkpoint, group,
               settings.crop_padding)


def demo(settings: CifarSettings, launch: CifarLaunch, dataset: Dataset, start: float) -> None:
    """The paper's title as an experiment: the same network with identity and without, on the same data."""
    runs = {}
    for name in "residual", "plain":
        twin = replace(settings, network=name)
        runs[name] = train(twin, replace(launch, out=launch.out / name), dataset)
    if launch.dry_run:
        return
    draw_curves(launch.out / "curve.png", runs)
    checkpoint = load_checkpoint(launch.out / "residual" / "checkpoint.npz")
    network = build_network(settings, len(dataset.classes), checkpoint)
    draw_all(launch.out / "pictures", network, dataset.test, dataset.classes)
    print(f"\n{'':12}{'layer':14}{'test error':>12}\n"
          f"{'residual':12}{'x + h(x)':14}{runs['residual'][-1]['test_error']:>12.1%}\n"
          f"{'plain':12}{'h(x)':14}{runs['plain'][-1]['test_error']:>12.1%}   (guessing: 90.0%)\n"
          f"\n{time.perf_counter() - start:.0f} seconds. Both curves are in {launch.out / 'curve.png'}; the "
          f"residual network's\nanswers, its mistakes and more in {launch.out / 'pictures'}")


def examine(settings: CifarSettings, launch: CifarLaunch, dataset: Dataset, checkpoint: Checkpoint,
            group: Group) -> None:
    """The test error of a saved network, or pictures of what it has learned."""
    network = build_network(settings, len(dataset.classes), checkpoint)
    if launch.pictures:
        model = in_precision(settings.precision, network)
        drawn = draw_all(launch.pictures, network, dataset.test, dataset.classes, model)
        print("\n".join(map(str, drawn)))
    else:
        figures = test(settings, launch, network, dataset.test, group)
        images = settings.tested_on()
        print(f"{launch.evaluate}: step {checkpoint.step}, {images} loss {figures['loss']:.4f}, "
              f"{images} error {figures['error']:.2%}")


def classify(settings: CifarSettings, launch: CifarLaunch, checkpoint: Checkpoint, precision: str) -> None:
    """The five likeliest classes of each picture, whatever its size: its middle square at 32 x 32 pixels."""
    images = numpy.stack([tr.datasets.read_square(file, 32) for file in launch.classify])
    known = settings.dataset == "cifar10"
    classes = tr.datasets.CIFAR10_CLASSES if known else load_dataset(settings)[0].classes
    model = in_precision(precision, build_network(settings, len(classes), checkpoint))
    print_classes(launch.classify, images, classes, model)


if __name__ == "__main__":
    run_script(main)
