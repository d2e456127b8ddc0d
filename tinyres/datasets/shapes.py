"""Ten classes of drawn shapes, made in seconds: a data set for demonstrations that needs no download.

The classes differ in shape only. Place, size, rotation, colors, background and noise come from the same
distributions for all of them, so that single pixels say little: a linear classifier gets about half of the
test images wrong, and a small convolutional network learns the classes in three epochs.
"""
from __future__ import annotations

import operator

import numpy
from PIL import Image, ImageDraw

from .dataset import Dataset, Split

SIZE = 32  # pixels: width and height of an image, unless another is asked for
FINE = 4  # shapes are drawn this many times larger and then reduced, which makes smooth edges
CHUNK = 500  # images made at once: few enough for the processor's cache


def _on_circle(angles: numpy.ndarray, radius: float | numpy.ndarray = 1.0,
               center: float = 0.0) -> numpy.ndarray:
    return numpy.stack([center + radius * numpy.cos(angles), radius * numpy.sin(angles)], axis=-1)


def _turn(points: int, first: float = -numpy.pi / 2) -> numpy.ndarray:
    """Angles around the circle, by default from the top (y points down in images)."""
    return first + numpy.arange(points) * (2 * numpy.pi / points)


def _heart(t: numpy.ndarray) -> numpy.ndarray:
    y = 5 * numpy.cos(2 * t) + 2 * numpy.cos(3 * t) + numpy.cos(4 * t) - 13 * numpy.cos(t)
    return numpy.stack([16 * numpy.sin(t)**3, y], axis=-1)


# The outline of each shape, (corners, 2), at any scale. A second outline is a hole.
OUTLINES: dict[str, list[numpy.ndarray]] = {
    "circle": [_on_circle(_turn(40))],
    "square": [_on_circle(_turn(4, numpy.pi / 4))],
    "triangle": [_on_circle(_turn(3))],
    "star": [_on_circle(_turn(10), numpy.tile([1.0, 0.42], 5))],
    "cross": [numpy.array([(3, 10), (3, 3), (10, 3), (10, -3), (3, -3), (3, -10),
                        (-3, -10), (-3, -3), (-10, -3), (-10, 3), (-3, 3), (-3, 10)])],
    "ring": [_on_circle(_turn(40)), _on_circle(_turn(40), 0.55)],
    # The part of a circle outside a smaller one: the two meet at these angles.
    "crescent": [numpy.concatenate([_on_circle(numpy.linspace(0.895, 2 * numpy.pi - 0.895, 30)),
                                 _on_circle(numpy.linspace(2 * numpy.pi - 1.350, 1.350, 30), 0.8, 0.45)])],
    "heart": [_heart(_turn(40))],
    "arrow": [numpy.array([(0, -10), (9, 0), (3, 0), (3, 10), (-3, 10), (-3, 0), (-9, 0)])],
    "hourglass": [numpy.array([(-8, -10), (8, -10), (1, 0), (8, 10), (-8, 10), (-1, 0)])],
}


def shapes(train: int = 10_000, test: int = 2_000, seed: int = 0, size: int = SIZE) -> Dataset:
    """Drawn shapes in ten classes, RGB images of 32 x 32 pixels or another size: (N, size, size, 3) uint8.

    train, test: the number of images in the two splits. Each split holds every class equally often (within
        one), in random order.
    size: width and height of an image in pixels, 1 or more; what is in the image grows with it.
    seed: the same seed gives the same bytes, with the same versions of NumPy and Pillow. The two splits are
        drawn from separate random streams, so that the size of one does not change the other.

    Raises ValueError if train or test is below ten, the number of classes, if size is below 1, or if seed is
    negative; TypeError if one of them is not an integer.
    """
    sizes = [operator.index(train), operator.index(test)]
    if min(sizes) < len(OUTLINES):
        raise ValueError(f"train={train} and test={test} must be {len(OUTLINES)} or more: "
                         "one image for each class")
    if operator.index(size) < 1:
        raise ValueError(f"size={size} must be 1 or more pixels")
    if operator.index(seed) < 0:
        raise ValueError(f"seed={seed} must not be negative")
    streams = numpy.random.default_rng(seed).spawn(2)
    splits = [_split(n, rng, size) for n, rng in zip(sizes, streams, strict=True)]
    return Dataset(*splits, classes=tuple(OUTLINES))


def _split(n: int, rng: numpy.random.Generator, size: int) -> Split:
    labels = rng.permutation(numpy.arange(n, dtype=numpy.int64) % len(OUTLINES))
    chunk = max(1, CHUNK * SIZE**2 // size**2)
    images = numpy.concatenate([_paint(_masks(labels[start:start + chunk], rng, size), rng)
                             for start in range(0, n, chunk)])
    return Split(images, labels)


def _masks(labels: numpy.ndarray, rng: numpy.random.Generator, size: int = SIZE) -> numpy.ndarray:
    """How much of each pixel the shape covers, 0 to 1: (n,) -> (n, size, size) float32.

    A shape reaches 9 to 12 of 32 pixels from its center, is rotated by up to 20 degrees, stretched by up to
    1.2 in any direction, and lies anywhere in the image where all of it is visible.
    """
    n = len(labels)
    canvas = Image.new("L", (size * FINE, n * size * FINE))  # all masks, one below the other
    pencil = ImageDraw.Draw(canvas)
    direction, turn = rng.uniform(0, 2 * numpy.pi, n), rng.uniform(-0.35, 0.35, n)
    stretch, reach = rng.uniform(1.0, 1.2, n)**0.5, rng.uniform(9, 12, n) * (size / SIZE)
    place = rng.uniform(size=(n, 2))
    stretches = numpy.stack([stretch, 1 / stretch], axis=-1)[:, None]
    stretched = _rotation(direction) * stretches @ _rotation(turn - direction)
    for label, outlines in enumerate(OUTLINES.values()):
        rows = numpy.flatnonzero(labels == label)
        scale = reach[rows, None, None] / abs(outlines[0]).max()
        drawn = [outline @ stretched[rows] * scale for outline in outlines]
        low, high = drawn[0].min(axis=1, keepdims=True), drawn[0].max(axis=1, keepdims=True)
        corner = place[rows, None] * (size - (high - low))
        top = rows[:, None, None] * [0, size]
        for outline, fill in zip(drawn, (255, 0), strict=False):
            points = (outline - low + corner + top) * FINE
            for numbers in points.reshape(len(rows), 2 * outline.shape[1]).tolist():
                pencil.polygon(numbers, fill=fill)
    masks = numpy.asarray(canvas.reduce(FINE), dtype=numpy.float32).reshape(n, size, size)
    return masks / numpy.float32(255)


def _rotation(angles: numpy.ndarray) -> numpy.ndarray:
    """Rotation matrices, (n,) -> (n, 2, 2)."""
    cos, sin = numpy.cos(angles), numpy.sin(angles)
    return numpy.stack([cos, -sin, sin, cos], axis=-1).reshape(-1, 2, 2)


def _paint(masks: numpy.ndarray, rng: numpy.random.Generator) -> numpy.ndarray:
    """Colors, textures and noise: (n, size, size) -> (n, size, size, 3) uint8."""
    n, size = masks.shape[:2]
    behind, front = _colors(n, rng)

    def uniform(low: float, high: float, *shape: int) -> numpy.ndarray:
        return rng.uniform(low, high, shape).astype(numpy.float32)

    # Colors before pixels: NumPy is slow where the last axis is short.
    background = behind + uniform(-0.08, 0.08, n, 3, 1, 1) * _textures(n, rng, size)
    foreground = front + uniform(-0.08, 0.08, n, 3, 1, 1) * _textures(n, rng, size)
    images = background + (foreground - background) * masks[:, None]
    strength = uniform(0.02, 0.05, n, 1, 1, 1)
    noisy = rng.standard_normal((n, size, size, 3), dtype=numpy.float32)
    noisy *= strength
    noisy += images.transpose(0, 2, 3, 1)
    return (noisy.clip(0, 1) * 255).round().astype(numpy.uint8)


def _colors(n: int, rng: numpy.random.Generator) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Colors behind and in front, (n, 3, 1, 1) each, 0 to 1; the front is brighter by 0.35 to 0.6."""
    contrast = rng.uniform(0.35, 0.6, n)
    middle = 0.5 + rng.uniform(-0.5, 0.5, n) * (1 - contrast)
    brightness = numpy.stack([middle - contrast / 2, middle + contrast / 2])
    hue = rng.uniform(-0.3, 0.3, (2, n, 3))
    hue -= hue.mean(axis=-1, keepdims=True)
    return tuple((brightness[..., None] + hue)[..., None, None].clip(0, 1).astype(numpy.float32))


def _textures(n: int, rng: numpy.random.Generator, size: int) -> numpy.ndarray:
    """A gradient, stripes, checks or blobs, at random for each image: (n, 1, size, size) float32, -1 to 1."""
    angle = rng.uniform(0, 2 * numpy.pi, (n, 1, 1))
    across, down = numpy.cos(angle).astype(numpy.float32), numpy.sin(angle).astype(numpy.float32)
    drawn = rng.uniform([[[2]], [[0]]], [[[5]], [[1]]], (n, 2, 1, 1))
    waves, phase = drawn.astype(numpy.float32).swapaxes(0, 1)
    x = numpy.linspace(-1, 1, size, dtype=numpy.float32)
    along, beside = across * x + down * x[:, None], across * x[:, None] - down * x
    stripes = _zigzag(along * waves + phase)
    checks = stripes * _zigzag(beside * waves + phase)
    # Blobs: random values on a coarse grid, interpolated linearly.
    grid = numpy.linspace(-1, 1, 6, dtype=numpy.float32)
    between = numpy.maximum(0, 1 - abs(x[:, None] - grid) / (grid[1] - grid[0]))
    blobs = between @ rng.uniform(-1, 1, (n, 6, 6)).astype(numpy.float32) @ between.T
    kind = rng.integers(4, size=n)
    return numpy.stack([along, stripes, checks, blobs])[kind, numpy.arange(n), None]


def _zigzag(t: numpy.ndarray) -> numpy.ndarray:
    """A wave of period 1 made of straight lines between -1 and 1."""
    return abs((t - numpy.floor(t)) * 4 - 2) - 1
