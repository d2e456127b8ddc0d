"""Pictures of what a network has learned: its first kernels, its answers, its mistakes, and one image on its
way through it."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy

from .. import backend, plot
from ..backend import to_numpy
from ..datasets.augment import standardize
from ..datasets.dataset import Split
from ..datasets.loader import evaluation_batches
from ..extras.functions import softmax
from ..models import ResidualNetwork, is_residual
from ..module import Module, evaluating
from ..nn import Conv2d
from ..support.files import user_path
from ..tensor import Tensor, no_grad

TEXT = 36  # pixels of height
RIGHT, WRONG = "#0072B2", "#D55E00"
STRONGEST = 0.6  # tint of a cell, on which dark digits can be read


def probabilities(model: Module, split: Split) -> numpy.ndarray:
    """The likelihood of each class for each image of a split: (N, classes), each row summing to 1."""
    with no_grad(), evaluating(model):
        return numpy.concatenate([softmax(model(Tensor(images))).numpy() for images, _ in
                                  evaluation_batches(split, split.evaluation_batch_size)])


def confusion_matrix(labels: numpy.ndarray, predictions: numpy.ndarray, classes: int) -> numpy.ndarray:
    """(classes, classes) counts: how many images of class i were taken for class j."""
    counts = numpy.zeros((classes, classes), numpy.int64)
    numpy.add.at(counts, (labels, predictions), 1)
    return counts


def worst_mistakes(labels: numpy.ndarray, likelihood: numpy.ndarray) -> numpy.ndarray:
    """Indices of the images that are taken for another class, the most confident mistakes first.

    likelihood: (N, classes), as `probabilities` gives it.
    """
    predictions = likelihood.argmax(axis=1)
    order = numpy.argsort(-likelihood.max(axis=1), kind="stable")
    return order[predictions[order] != labels[order]]


def draw_kernels(path: str | Path, network: ResidualNetwork, columns: int = 8, side: int = 150) -> None:
    """Draw the kernels of the first convolution as little color images, in which gray is 0.

    Kernels must have three channels, red, green and blue. Each is scaled by its own largest weight.
    """
    first = next(module for _, module in network.named_modules() if isinstance(module, Conv2d))
    kernels = first.weight.numpy().transpose(3, 0, 1, 2)  # (O, KH, KW, 3)
    rows, columns = -(-len(kernels) // columns), min(columns, len(kernels))
    page = plot.Drawing(40 + columns * (side + 40), 130 + rows * (side + 40))
    page.text(40, 50, f"First convolution: {len(kernels)} kernels of {kernels.shape[1]} x {kernels.shape[2]}",
              TEXT, 0)
    for i, kernel in enumerate(kernels):
        pixels = 127.5 + 127.5 * kernel / max(abs(kernel).max(), 1e-30)
        page.pixels(40 + i % columns * (side + 40), 100 + i // columns * (side + 40), side,
                    pixels.round().astype(numpy.uint8))
    page.save(path)


def draw_confusion(path: str | Path, counts: numpy.ndarray, classes: Sequence[str], side: int = 110) -> None:
    """Draw a confusion matrix: a row for each true class, percent of the row in each cell."""
    percent = 100 * counts / numpy.maximum(counts.sum(axis=1, keepdims=True), 1)
    left, top, width = 330, 150, len(classes) * side
    page = plot.Drawing(left + width + 40, top + width + 200)
    page.text(40, 50, "Of each row's class, percent taken for each column's", TEXT, 0)
    page.cells(left, top, side, [[round(value) or "" for value in row] for row in percent],
               [[plot.tint(RIGHT, STRONGEST * value / 100) if i == j else
                 plot.tint(WRONG, STRONGEST * min(1, value / 25)) for j, value in enumerate(row)]
                for i, row in enumerate(percent)])
    for i, name in enumerate(classes):
        page.text(left - 20, top + (i + 0.5) * side, name, TEXT, 1)
        page.text(left + (i + 0.5) * side, top + width + 40 + i % 2 * 50, name, 0.8 * TEXT)
    page.save(path)


def draw_answers(path: str | Path, title: str, images: numpy.ndarray, labels: numpy.ndarray,
                 likelihood: numpy.ndarray, classes: Sequence[str], columns: int = 6, rows: int = 3,
                 side: int = 300) -> None:
    """Draw the first images, each with the class it was taken for, how likely that was, and the class it is;
    wrong answers are in another color."""
    shown = min(len(images), columns * rows)
    page = plot.Drawing(40 + columns * (side + 40), 110 + max(1, -(-shown // columns)) * (side + 140))
    page.text(40, 50, title if shown else f"{title}: there are none", TEXT, 0)
    for i in range(shown):
        x, y = 40 + i % columns * (side + 40), 110 + i // columns * (side + 140)
        page.pixels(x, y, side, images[i])
        guess = likelihood[i].argmax()
        page.text(x, y + side + 50, f"{classes[guess]}, {likelihood[i, guess]:.1%}\nis: {classes[labels[i]]}",
                  0.85 * TEXT, 0, RIGHT if guess == labels[i] else WRONG)
    page.save(path)


def draw_path(path: str | Path, network: ResidualNetwork, image: numpy.ndarray, classes: Sequence[str],
              side: int = 260, columns: int = 8) -> None:
    """Draw one image on its way through a network of residual blocks.

    image: (H, W, 3) uint8. columns: at most this many steps, the first convolution and blocks at equal
    distances, are shown. Each shows the size of x at every pixel, bright being large; that of h(x), which the
    block adds; and the three classes that the network would name if all later blocks were the identity. Only
    a residual network can say: its shortcuts have no weights and lead from every block to the logits.
    Raises ValueError for a network without identity.
    """
    if not all(map(is_residual, network.blocks)):
        raise ValueError("draw_path: expected a residual network: in a plain one no shortcut leads from a "
                         "block to the logits")
    steps = []
    with no_grad(), evaluating(network):
        images = Tensor(standardize(backend.current().asarray(image[None])))
        for number, (_, block, x, out) in enumerate(network.steps(images)):
            name = f"block {number}" if block else "the first convolution"
            steps.append((name, out, block and block.h(x), _if_identity(network, out, number)))
    shown = sorted({round(i) for i in numpy.linspace(0, len(steps) - 1, min(columns, len(steps)))})
    page = plot.Drawing(40 + (len(shown) + 1) * (side + 40), 2 * side + 480)
    page.text(40, 50, "One image on its way: x and h(x), and the classes if the later blocks did nothing",
              TEXT, 0)
    page.text(40, 120, "the image", 0.8 * TEXT, 0)
    page.pixels(40, 150, side, image)
    for column, step in enumerate(shown, 1):
        left, (name, x, h, likelihood) = 40 + column * (side + 40), steps[step]
        page.text(left, 120, f"x after {name}" if step else name, 0.8 * TEXT, 0)
        page.pixels(left, 150, side, _sizes(x))
        if h is not None:
            page.text(left, 190 + side, f"h(x) of {name}", 0.8 * TEXT, 0)
            page.pixels(left, 220 + side, side, _sizes(h))
        best = numpy.argsort(-likelihood)[:3]
        page.text(left, 300 + 2 * side, "\n".join(f"{classes[i]} {likelihood[i]:.0%}" for i in best),
                  0.8 * TEXT, 0)
    page.save(path)


def _if_identity(network: ResidualNetwork, x: Tensor, blocks: int) -> numpy.ndarray:
    """The probabilities (classes,) if every block after the first `blocks` added nothing to x."""
    for block in network.blocks[blocks:]:
        x = block.shortcut(x)
    return softmax(network.classify(x)).numpy()[0]


def _sizes(x: Tensor) -> numpy.ndarray:
    """The norm over the channels at each pixel of (1, H, W, C), as gray levels (H, W, 3)."""
    norms = numpy.sqrt((x.numpy()[0] ** 2).sum(axis=2))
    levels = (255 * norms / max(norms.max(), 1e-30)).round().astype(numpy.uint8)
    return numpy.repeat(levels[:, :, None], 3, axis=2)


def draw_all(folder: str | Path, network: ResidualNetwork, split: Split, classes: Sequence[str],
             model: Module | None = None) -> list[Path]:
    """Draw all of the above into a folder, made if absent, and return the files.

    split: images and labels that the network was not trained on. model: the network as it computes, if not in
    float32. The path drawn is that of the most confident mistake or, without mistakes, of the first image.
    """
    folder = user_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = to_numpy(split.images), to_numpy(split.labels)
    likelihood = probabilities(model or network, split)
    counts = confusion_matrix(labels, likelihood.argmax(axis=1), len(classes))
    files = [folder / f"{name}.png" for name in ("kernels", "confusion", "answers", "mistakes", "path")]
    draw_kernels(files[0], network)
    draw_confusion(files[1], counts, classes)
    worst = worst_mistakes(labels, likelihood)
    draw_answers(files[2], "The first images", images, labels, likelihood, classes)
    draw_answers(files[3], "The most confident mistakes", images[worst], labels[worst], likelihood[worst],
                 classes)
    if not (isinstance(network, ResidualNetwork) and all(map(is_residual, network.blocks))):
        return files[:4]
    draw_path(files[4], network, images[[*worst, 0][0]], classes)
    return files
