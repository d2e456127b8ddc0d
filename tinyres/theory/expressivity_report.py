"""Section 3 of the paper in figures: each claim beside its measurement on images, and three pictures.

    python -m tinyres.theory.expressivity_report
"""
from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy

from .. import datasets, plot
from ..support.files import user_path
from ..support.pipes import end_with_reader
from ..tensor import Tensor, no_grad
from .expressivity import first_rows, fit
from .memorizing_network import MemorizingNetwork


def _load(data: Path, seed: int) -> tuple[str, numpy.ndarray, numpy.ndarray]:
    """A name, images (n, 3072) as float32, centered and of norm 1 (Assumption 3.1), and shuffled labels."""
    if (data / "cifar-10-batches-py").is_dir():
        name, train = f"CIFAR-10 from {data}", datasets.cifar10(data).train
    else:
        name, train = "generated shapes", datasets.shapes(train=5000, test=10, seed=seed).train
    points = train.images.reshape(len(train.images), -1).astype(numpy.float32)
    points -= points.mean(axis=0)
    points /= numpy.linalg.norm(points, axis=1, keepdims=True)
    labels = numpy.random.default_rng(seed).permutation(train.labels)
    return name, points, labels[first_rows(points, points.dtype)]  # equal images get one label


def _largest_error(scores: numpy.ndarray, labels: numpy.ndarray) -> float:
    return float(abs(scores - numpy.eye(scores.shape[1])[labels]).max())


def _walk(network: MemorizingNetwork, points: numpy.ndarray, labels: numpy.ndarray,
          stops: Sequence[int]) -> tuple[numpy.ndarray, numpy.ndarray, float]:
    """At each stop, a number of blocks: how many labels fit, and how many points the next block changes. Also
    the largest error of the scores at the last stop, the end."""
    fitted, changed = [], []
    with no_grad():
        h = Tensor(network.hidden(points, 0))
        for stop, block in enumerate([*network.blocks, lambda h: h]):
            before, h = h, block(h)
            if stop in stops:
                scores = network.output(before).data
                fitted.append((scores.argmax(axis=1) == labels).sum())
                changed.append((h.data != before.data).any(axis=1).sum())
    return numpy.array(fitted), numpy.array(changed), _largest_error(scores, labels)


def _wrong_unit_answer(rho: float, factor: float) -> float:
    """A unit's answer to a wrong point in Lemma B.1: squared norms 1 + rho, squared distance factor * rho."""
    norm = math.sqrt(1 + rho)
    angle = 2 * math.asin(math.sqrt(factor * rho) / (2 * norm))
    a, b = numpy.array([norm, 0.0]), norm * numpy.array([math.cos(angle), math.sin(angle)])
    return max(float(a @ b) - (1 - 2 * rho), 0.0)


def _correlation(r: int, k: int, rng: numpy.random.Generator) -> float:
    """The largest |<q_i, q_j>| among r random unit vectors of k numbers: the median of 100 draws."""
    q = rng.standard_normal((100, r, k))
    q /= numpy.linalg.norm(q, axis=2, keepdims=True)
    return float(numpy.median(abs(q @ q.swapaxes(1, 2) - numpy.eye(r)).max(axis=(1, 2))))


def _smallest_widths(points: numpy.ndarray, labels: numpy.ndarray, sizes: Sequence[int], limit: int,
                     seed: int, dtype: type, method: str) -> list[float]:
    """For each n the smallest width that fits the first n points within 1e-3, nan if it is above limit."""
    def works(n: int, width: int) -> bool:
        try:
            network = fit(points[:n], labels[:n], width, 10, seed, dtype, method)
        except ValueError:
            return False
        return _largest_error(network(points[:n]), labels[:n]) < 1e-3

    widths, width = [], 1
    for n in sizes:  # more points need no less width
        while width <= limit and not works(n, width):
            width = max(width + 1, round(1.1 * width))
        widths.append(width if width <= limit else math.nan)
    return widths


def _width_panel(title: str, points: numpy.ndarray, labels: numpy.ndarray, seed: int) -> plot.Panel:
    n, d = points.shape
    sizes = [size for size in (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if size <= n]
    lines = [plot.Line(sizes, _smallest_widths(points, labels, sizes, limit, seed, dtype, method), label)
             for label, limit, dtype, method in (
                 ("paper's threshold, up to 2 d", 2 * d, numpy.float64, "paper"),
                 ("sorted, float32", 100, numpy.float32, "sorted"),
                 ("sorted, float64", 100, numpy.float64, "sorted"))]
    lines.append(plot.Line([sizes[0], sizes[-1]], [d, d], "input dimension d", "dotted"))
    return plot.Panel(lines, title, "points n", "smallest width k that works", log_x=True, log_y=True)


def _plane(seed: int, n: int = 24, k: int = 2, r: int = 3) -> tuple[float, list[plot.Panel]]:
    """n points of the plane in r classes, followed through a network of width 2: the largest error of their
    scores, and panels that show them before the first block, twice on the way, and at the end."""
    rng = numpy.random.default_rng(seed).spawn(2)[1]
    radius, angle = rng.uniform(1, 2, n), rng.uniform(0, 2 * math.pi, n)
    points = (radius * numpy.array([numpy.cos(angle), numpy.sin(angle)])).T
    labels = numpy.arange(n) % r
    network = fit(points, labels, k, r, seed)
    path = numpy.array([network.hidden(points, block) for block in range(len(network.blocks) + 1)])
    colors, panels = (4, 5, 3), []
    for block in 0, len(path) // 3, 2 * len(path) // 3, len(path) - 1:
        moved = (path[block] != path[0]).any(axis=1)
        lines = [plot.Line(*path[[0, block], i].T, "", "dotted", colors[labels[i]])
                 for i in numpy.flatnonzero(moved)]
        lines += [plot.Line(*path[block, labels == c].T, f"class {c}", "points", colors[c]) for c in range(r)]
        panels.append(plot.Panel(lines, f"after {block} of {len(path) - 1} blocks: {moved.sum()} have moved",
                                 "h_1", "h_2", y_range=(1.4 * path[..., 1].min(), 1.4 * path[..., 1].max())))
    return _largest_error(network(points), labels), panels


def report(name: str, points: numpy.ndarray, labels: numpy.ndarray, out: Path, seed: int) -> None:
    """Print the claims beside measurements on points (n, d) of norm 1 with labels 0 to 9, and draw."""
    (n, d), k, r = points.shape, 16, 10
    print(f"{name}: {n:,} images, centered, of norm 1, d = {d:,}; shuffled labels, r = {r}; width k = {k}")

    def row(claim: str, measured: str) -> None:
        print(f"{claim:<62} | {measured}", flush=True)

    row("claim", "measured")
    row("-" * 62, "-" * 48)
    start = time.perf_counter()
    network = fit(points, labels, k, r, seed)
    built = time.perf_counter()
    scores = network(points)
    ran = time.perf_counter()
    right, error = (scores.argmax(axis=1) == labels).sum(), _largest_error(scores, labels)
    row("Theorem 3.2: all n labels are fitted, float64", f"{right:,}, largest |y^ - y| {error:.1e}")
    network = fit(points, labels, k, r, seed, numpy.float32)
    stops = numpy.unique(numpy.linspace(0, len(network.blocks), 65).astype(int))
    fitted, changed, error = _walk(network, points, labels, stops)
    row("Theorem 3.2: all n labels are fitted, float32", f"{fitted[-1]:,}, largest |y^ - y| {error:.1e}")
    row("    built with about n^2 k operations, float64", f"{n * n * k / 1e9:.1f}e9 in {built - start:.1f} s")
    row("    forward pass of about 4 n^2 k, float64", f"{4 * n * n * k / 1e9:.1f}e9 in {ran - built:.1f} s")
    count, formula = network.num_parameters(), n * math.log(n) + r * r
    row("Theorem 3.2: O(n log n + r^2) parameters", f"{count:,} = {count / formula:.2f} (n ln n + r^2)")
    row(f"Lemma B.2: ceil(n / k) = {-(-n // k):,} moving blocks", f"{len(network.blocks):,}")
    row("Lemma B.1: a block changes its k points, no bit of the others",
        f"{changed[:-1].min()} to {changed[:-1].max()} points change in {len(stops) - 1} blocks, float32")
    row("Lemma B.1 as printed, rho' = 0.1: a wrong unit answers 0", f"{_wrong_unit_answer(0.1, 3):.2f}")
    row("Lemma B.1 with squared distances 6 rho': it answers 0", f"{_wrong_unit_answer(0.1, 6):.2f}")

    random = numpy.random.default_rng(seed).spawn(1)[0]
    norms = numpy.linalg.norm(points[:1000].astype("float64") @ random.standard_normal((d, k)), axis=1)
    row("A_0 keeps norms: as printed; divided by sqrt(k)",
        f"multiplies them by {norms.mean():.2f}; {norms.mean() / math.sqrt(k):.2f} on average")
    for factor in (4, 15):
        width = math.ceil(factor * math.log(100))
        row(f"Lemma B.2: surrogate labels uncorrelated at k = {factor} log r",
            f"largest |<q_i, q_j>| {_correlation(100, width, random):.2f} at r = 100, k = {width}")
    try:
        fit(points[:1000], labels[:1000], k, r, seed, method="paper")
    except ValueError as refusal:
        print(f"\nThe paper's threshold for the first 1,000 images: {refusal}")

    sphere = random.standard_normal((min(n, 5000), d))
    sphere /= numpy.linalg.norm(sphere, axis=1, keepdims=True)
    labels = labels[:len(sphere)]
    error, plane = _plane(seed)
    row("Theorem 3.2 in the plane: 24 points, 3 classes, width 2", f"largest |y^ - y| {error:.1e}")
    pictures = {
        "expressivity_plane.png": plane,
        "expressivity_fitted.png": [plot.Panel(
            [plot.Line(stops, fitted / n, "labels fitted"),
             plot.Line([0, stops[-1]], [1 / r, 1 / r], "chance", "dotted")],
            f"{n:,} points with random labels, width {k}", "blocks applied", "fraction of labels fitted",
            y_range=(0, 1.05))],
        "expressivity_width.png": [_width_panel("images of norm 1", points[:5000], labels, seed),
                                   _width_panel("random points of norm 1", sphere, labels, seed)],
    }
    for file, panels in pictures.items():
        plot.save(out / file, panels)
        print(out / file)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the claims of the paper's section 3 beside measurements, and draw three pictures."""
    parser = argparse.ArgumentParser(prog="python -m tinyres.theory.expressivity_report",
                                     description=main.__doc__)
    parser.add_argument("--data", type=user_path, default=Path("data"), help="folder that may hold CIFAR-10")
    parser.add_argument("--out", type=user_path, default=Path("runs/theory"), help="folder for the pictures")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random draws")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    report(*_load(options.data, options.seed), options.out, options.seed)


if __name__ == "__main__":
    end_with_reader()
    main()
