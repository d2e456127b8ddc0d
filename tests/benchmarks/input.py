"""The reader of picture folders against PyTorch's DataLoader: images per second on each core, and memory.

    python tests/benchmarks/input.py FOLDER         needs PyTorch: pip install torch

FOLDER holds photographs as FOLDER/CLASS/NAME.JPEG, of two classes or more; the more they resemble ImageNet's,
the more the figures say. All contenders make the same training batches: a random window scaled to 224 x 224,
mirrored half of the time, standardized, as float32. Each is a process of its own, with as many threads or
worker processes as there are cores, and takes its turn in every round; figures are medians over the rounds
after a warm-up. "DataLoader, plain" decodes as torchvision does, without Pillow's scaled decoding;
"DataLoader, decode" calls `decode` of tinyres.
"""
from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import measuring
import numpy
from PIL import Image

import tinyres as tr
from tinyres.datasets.decoding import MIN_AREA, SIZE, _window, decode
from tinyres.datasets.loader import training_batches
from tinyres.fast.cpu.threads import core_count

CONTENDERS = "tinyres", "DataLoader, plain", "DataLoader, decode"
CORES = core_count()
BATCH, ROUND = 48, 10  # images, batches


def plain(path: Path, windows: numpy.ndarray, flip: bool) -> numpy.ndarray:
    """The same as `decode`, with the steps of torchvision's RandomResizedCrop and RandomHorizontalFlip."""
    with Image.open(path) as picture:
        image = picture.convert("RGB")
    image = image.crop(_window(*image.size, windows.tolist(), MIN_AREA)).resize((SIZE, SIZE),
                                                                      Image.Resampling.BILINEAR)
    return numpy.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image)


def rounds_of(contender: str, root: Path) -> Callable[[], int]:
    """A function that reads one round of batches and returns how many images they held."""
    split = tr.datasets.image_folder(root).train
    batch_size = min(BATCH, len(split.names))
    if contender == "tinyres":
        seeds = iter(range(10**6))
        return lambda: sum(len(labels) for _, labels in
                           training_batches(split, batch_size, next(seeds), 0, ROUND))

    import torch
    read = plain if contender.endswith("plain") else decode

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return ROUND * batch_size

        def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
            rng = numpy.random.default_rng(int(torch.randint(2**31, ())))
            number %= len(split.names)
            pixels = read(split.folder / split.names[number], rng.random((10, 4)), rng.random() < 0.5)
            image = torch.from_numpy(numpy.array(pixels)).permute(2, 0, 1).float()
            image -= image.mean()
            return image / image.std(correction=0).clamp(min=image.numel()**-0.5), int(split.labels[number])

    loader = torch.utils.data.DataLoader(Pictures(), batch_size, num_workers=CORES, persistent_workers=True,
                                         multiprocessing_context="fork")
    return lambda: sum(len(labels) for _, labels in loader)


def serve(connection: Connection, contender: str, root: Path) -> None:
    """Answer each message with (images, seconds, MiB in use) of one round."""
    read = rounds_of(contender, root)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        start = time.perf_counter()
        images = read()
        seconds = time.perf_counter() - start
        pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
        connection.send((images, seconds, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=11, help="of 480 images each; default: 11")
    args = parser.parse_args()
    measuring.begin()
    if importlib.util.find_spec("torch") is None:
        sys.exit("input.py compares with PyTorch, which is not installed: pip install torch")
    with tempfile.TemporaryDirectory() as root:
        for part in "train", "val":
            (Path(root) / part).symlink_to(args.folder.resolve(), target_is_directory=True)
        context = multiprocessing.get_context("spawn")
        processes = {}
        for contender in CONTENDERS:
            ours, theirs = context.Pipe()
            context.Process(target=serve, args=(theirs, contender, Path(root))).start()
            processes[contender] = ours, []
            theirs.close()  # so that a process that fails causes an EOFError here
        try:
            for _ in range(args.rounds + 1):
                for connection, answers in processes.values():
                    connection.send(True)
                    answers.append(connection.recv())
        finally:
            for connection, _ in processes.values():
                connection.close()
    speed = {contender: statistics.median(images / seconds for images, seconds, _ in answers[1:])
             for contender, (_, answers) in processes.items()}
    print(f"{CORES} cores\n{'':20}{'images/s per core':>18}{'tinyres / it':>14}")
    for contender, rate in speed.items():
        print(f"{contender:20}{rate / CORES:>18.0f}{speed['tinyres'] / rate:>14.2f}")
    answers = processes["tinyres"][1]
    total = [sum(images for images, _, _ in answers[:i + 1]) for i in range(len(answers))]
    print("memory of tinyres: " + ", ".join(f"{answers[i][2]:.0f} MiB after {total[i]:,} images"
                                            for i in sorted({0, len(answers) // 2, len(answers) - 1})))


if __name__ == "__main__":
    main()
