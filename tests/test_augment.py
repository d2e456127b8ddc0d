import itertools

import numpy
import pytest

import tinyres as tr
from tinyres.datasets import Split
from tinyres.datasets.augment import crop_flip, draw_crops, standardize
from tinyres.datasets.loader import batch_of_step, training_batches


def images(xp, N=6, seed=0):
    return xp.asarray(numpy.random.default_rng(seed).integers(0, 256, (N, 8, 8, 3), dtype=numpy.uint8))


def test_standardize_against_a_loop(xp):
    batch = images(xp)
    out = tr.backend.to_numpy(standardize(batch))
    assert out.dtype == numpy.float32
    for image, result in zip(tr.backend.to_numpy(batch), out, strict=True):
        values = image.astype(numpy.float64)
        expected = (values - values.mean()) / max(values.std(), 1 / numpy.sqrt(values.size))
        numpy.testing.assert_allclose(result, expected, atol=1e-5)


def test_an_image_of_one_color_becomes_zeros(xp):
    assert not standardize(xp.full((1, 4, 4, 3), 200, numpy.uint8)).any()


@pytest.mark.parametrize("padding", [0, 1, 2])
def test_every_result_is_a_shifted_and_perhaps_mirrored_original(xp, padding):
    batch = images(xp, N=500)
    crops = draw_crops(500, numpy.random.default_rng(0), padding)
    out = tr.backend.to_numpy(crop_flip(batch, crops, padding))
    sides = padding, padding
    originals = numpy.pad(tr.backend.to_numpy(batch), [(0, 0), sides, sides, (0, 0)])
    shifts = range(2 * padding + 1)
    seen = set()
    for original, result in zip(originals, out, strict=True):
        for top, left, flip in itertools.product(shifts, shifts, (False, True)):
            window = original[top:top + 8, left:left + 8]
            if (result == (window[:, ::-1] if flip else window)).all():
                seen.add((top, left, flip))
                break
        else:
            raise AssertionError("an augmented image is no window of its original")
    assert len(seen) == 2 * len(shifts) ** 2, "500 draws should meet all places, mirrored and not"


def split(xp, N=20):
    return Split(images(xp, N), xp.arange(N))


def test_batches_are_cut_with_the_padding_asked_for_and_the_papers_by_default(xp):
    data = split(xp)
    originals = tr.backend.to_numpy(standardize(data.images))
    for padding in {"crop_padding": 0}, {"crop_padding": 4}, {}:
        (batch, labels), = training_batches(data, 20, 0, 0, 1, **padding)
        assert (batch == batch_of_step(data, 20, 0, 0, **padding)[0]).all()
        pairs = zip(tr.backend.to_numpy(batch), originals[tr.backend.to_numpy(labels)], strict=True)
        uncut = sum(min(abs(new - old).max(), abs(new - old[:, ::-1]).max()) < 1e-4 for new, old in pairs)
        assert (uncut == 20) == (padding == {"crop_padding": 0})


def test_an_epoch_shows_each_image_once_in_another_order_each_time(xp):
    epochs = [[], []]
    for step, (batch, labels) in enumerate(training_batches(split(xp), 5, 0, 0, 8)):
        assert batch.shape == (5, 8, 8, 3) and batch.dtype == "float32"
        epochs[step // 4] += labels.tolist()
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(20)) and epochs[0] != epochs[1]


def test_batches_depend_on_seed_and_step_alone(xp):
    straight = list(training_batches(split(xp), 6, 3, 0, 7))
    later = list(training_batches(split(xp), 6, 3, 4, 7))
    for (batch, labels), (same_batch, same_labels) in zip(straight[4:], later, strict=True):
        assert (batch == same_batch).all() and (labels == same_labels).all()
    other_seed, _ = batch_of_step(split(xp), 6, 4, 4)
    assert (straight[4][0] != other_seed).any()


def test_leaving_early_ends_the_thread(xp):
    batches = training_batches(split(xp), 5, 0, 0, 1000)
    next(batches)
    batches.close()


@pytest.mark.parametrize("batch_size", [0, 21])
def test_impossible_batch_sizes_are_refused(xp, batch_size):
    with pytest.raises(ValueError, match=f"batch_size {batch_size} must be from 1"):
        next(training_batches(split(xp), batch_size, 0, 0, 1))


def test_an_error_while_preparing_reaches_the_reader(xp):
    with pytest.raises(ValueError):  # CuPy raises nothing for an index out of range
        list(training_batches(Split(images(xp, 20)[..., 0], xp.arange(20)), 5, 0, 0, 4))
