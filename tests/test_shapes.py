"""Shapes: balanced, repeatable, well drawn, and not to be told apart by a linear classifier."""
import numpy as np
import pytest

from tinyres.datasets import shapes
from tinyres.datasets.shapes import OUTLINES, SIZE, _masks


@pytest.fixture(scope="module")
def data():
    return shapes()


def test_sizes_types_and_names(data):
    for split, size in (data.train, 10_000), (data.test, 2_000):
        assert split.images.shape == (size, 32, 32, 3) and split.images.dtype == np.uint8
        assert split.images.flags.c_contiguous
        assert split.labels.shape == (size,) and split.labels.dtype == np.int64
    assert len(data.classes) == len(set(data.classes)) == 10


def test_classes_are_balanced_and_shuffled(data):
    assert np.bincount(data.train.labels).tolist() == [1_000] * 10
    assert np.bincount(data.test.labels).tolist() == [200] * 10
    follows = (np.diff(data.train.labels) % 10 == 1).mean()  # 1 if the classes came in turn
    assert 0.05 < follows < 0.15
    counts = np.bincount(shapes(train=23, test=10).train.labels)
    assert counts.min() == 2 and counts.max() == 3


def test_the_same_seed_gives_the_same_bytes():
    first, again, other = shapes(50, 20, seed=3), shapes(50, 20, seed=3), shapes(50, 20, seed=4)
    for one, two, three in zip(first[:2], again[:2], other[:2], strict=True):
        np.testing.assert_array_equal(one.images, two.images)
        np.testing.assert_array_equal(one.labels, two.labels)
        assert (one.images != three.images).mean() > 0.9


def test_the_splits_are_drawn_apart():
    small, large = shapes(20, 20, seed=1), shapes(900, 20, seed=1)
    np.testing.assert_array_equal(small.test.images, large.test.images)
    assert (small.train.images != small.test.images).mean() > 0.9


def test_no_test_image_is_a_training_image(data):
    train = {image.tobytes() for image in data.train.images}
    assert len(train) == 10_000
    assert not any(image.tobytes() in train for image in data.test.images)


def test_masks_lie_within_the_image_and_the_ring_has_a_hole():
    labels = np.repeat(np.arange(10), 30)
    masks = _masks(labels, np.random.default_rng(0))
    assert masks.shape == (300, SIZE, SIZE) and masks.min() == 0 and masks.max() == 1
    area = masks.sum(axis=(1, 2))
    assert area.min() > 80 and area.max() < 24**2 * 1.1  # a square that reaches 12 pixels each way
    y, x = np.mgrid[:SIZE, :SIZE]
    for name, filled in ("circle", True), ("square", True), ("ring", False):
        for mask in masks[labels == list(OUTLINES).index(name)]:
            middle = [round((axis * mask).sum() / mask.sum()) for axis in (y, x)]
            assert (mask[tuple(middle)] == 1) == filled, name


def test_places_and_colors_vary(data):
    circles = data.train.images[data.train.labels == 0].astype(np.float32)
    assert circles.std(axis=0).min() > 30  # every pixel of a class takes many values
    assert np.abs(circles.mean(axis=(1, 2))[:, 0] - circles.mean(axis=(1, 2))[:, 2]).max() > 60


def test_a_linear_classifier_fails(data):
    # Ridge regression onto the classes, in closed form, on standardized means of 2 x 2 pixels, with which it
    # is a little better than with single pixels.
    def pixels(images: np.ndarray) -> np.ndarray:
        squares = images.reshape(len(images), 16, 2, 16, 2, 3)
        return squares.mean(axis=(2, 4), dtype=np.float32).reshape(len(images), -1)

    x = pixels(data.train.images)
    mean, spread = x.mean(axis=0), x.std(axis=0)
    x = (x - mean) / spread
    targets = np.eye(10, dtype=np.float32)[data.train.labels] - 0.1
    gram = x.T @ x
    errors = []
    for strength in (1e2, 1e3, 1e4):
        weights = np.linalg.solve(gram + strength * np.eye(len(gram), dtype=np.float32), x.T @ targets)
        predicted = ((pixels(data.test.images) - mean) / spread @ weights).argmax(axis=1)
        errors.append((predicted != data.test.labels).mean())
    assert min(errors) >= 0.40, errors


@pytest.mark.parametrize("arguments, error, message", [
    ({"train": 9}, ValueError, "train=9 and test=2000 must be 10 or more"),
    ({"test": 0}, ValueError, "test=0 must be 10 or more"),
    ({"train": -5}, ValueError, "train=-5"),
    ({"seed": -1}, ValueError, "seed=-1 must not be negative"),
    ({"train": 100.0}, TypeError, "float"),
    ({"test": "100"}, TypeError, "str"),
    ({"seed": None}, TypeError, "NoneType"),
])
def test_arguments_that_make_no_sense_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        shapes(**arguments)
