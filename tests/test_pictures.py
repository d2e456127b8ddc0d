"""What a trained network is asked for: classes of pictures, what it has learned, its weights alone."""
from __future__ import annotations

import functools

import numpy
import pytest
from PIL import Image
from support.harness import ROOT, call_script

import run_cifar
import tinyres as tr
from tinyres.datasets import read_square
from tinyres.pretrained import NETWORK, save_network
from tinyres.training import Checkpoint, load_checkpoint
from tinyres.training.pictures import (
    _if_identity,
    confusion_matrix,
    draw_all,
    draw_confusion,
    draw_path,
    probabilities,
    worst_mistakes,
)

run = functools.partial(call_script, ROOT / "run_cifar.py")


@pytest.fixture(scope="module")
def shapes() -> tr.datasets.Dataset:
    return tr.datasets.shapes(20, 30)


def small_checkpoint(residual: bool = True) -> Checkpoint:
    network = tr.models.cifar_net(10, 1, (4, 8), residual, seed=3)
    return Checkpoint(network.state_dict(), {}, 7, dict(dataset="shapes", blocks=1, widths=[4, 8],
                                                        plain=not residual, precision="float32"))


def test_confusion_counts_pairs_of_true_and_predicted():
    counts = confusion_matrix(numpy.array([0, 0, 1, 2, 0]), numpy.array([0, 2, 1, 0, 2]), 3)
    assert counts.tolist() == [[1, 0, 2], [0, 1, 0], [1, 0, 0]]


def test_the_worst_mistake_is_the_most_confident():
    likelihood = numpy.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.4, 0.6]])
    assert worst_mistakes(numpy.array([0, 0, 1, 0]), likelihood).tolist() == [1, 3]
    assert worst_mistakes(numpy.array([0, 1, 1, 1]), likelihood).tolist() == []


def brightness(color: numpy.ndarray) -> float:
    """Relative luminance, https://www.w3.org/TR/WCAG21/#dfn-relative-luminance."""
    part = color / 255
    linear = numpy.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_every_number_of_a_confusion_matrix_can_be_read(tmp_path):
    """Digits and cell have a contrast of 4.5 or more, as web pages must for people of weak sight."""
    counts = numpy.array([[percent, 100 - percent] if row == 0 else [100 - percent, percent]
                          for percent in range(2, 100, 7) for row in (0, 1)])
    for pair in range(0, len(counts), 2):
        draw_confusion(tmp_path / "a.png", counts[pair:pair + 2], ["one", "two"])
        with Image.open(tmp_path / "a.png") as image:
            pixels = numpy.asarray(image.convert("RGB")).astype(int)
        for i in range(2):
            for j in range(2):
                cell = pixels[155 + 110 * i:255 + 110 * i, 335 + 110 * j:435 + 110 * j].reshape(-1, 3)
                fill = brightness(cell[0])
                contrasts = [(max(fill, other) + 0.05) / (min(fill, other) + 0.05)
                             for other in map(brightness, numpy.unique(cell, axis=0))]
                assert max(contrasts) >= 4.5, counts[pair + i, j]


def test_probabilities_are_those_of_the_logits(xp, shapes):
    network = tr.models.cifar_net(10, 1, (4, 8))
    split = tr.datasets.Split(*map(xp.asarray, shapes.test))
    got = probabilities(network, split)
    images, _ = split.evaluation_batch(numpy.arange(30))
    logits = network(tr.Tensor(images)).numpy().astype(float)
    numpy.testing.assert_allclose(got, numpy.exp(logits) / numpy.exp(logits).sum(axis=1, keepdims=True),
                                  rtol=1e-5)
    assert got.shape == (30, 10)


def test_after_the_last_block_the_classes_are_the_networks_own(shapes):
    network = tr.models.cifar_net(10, 1, (4, 8), initial_scale=1.0)
    images, _ = shapes.test.evaluation_batch(numpy.arange(1))
    features = network.features(tr.Tensor(images))
    own = probabilities(network, tr.datasets.Split(shapes.test.images[:1], shapes.test.labels[:1]))[0]
    numpy.testing.assert_allclose(_if_identity(network, features, 2), own, rtol=1e-6)
    early = _if_identity(network, network.stem(tr.Tensor(images)), 0)
    assert early.shape == (10,) and abs(early - own).max() > 1e-3
    for block in network.blocks:
        block.conv2.weight.data[...] = 0
    images = tr.Tensor(images)
    numpy.testing.assert_allclose(_if_identity(network, network.stem(images), 0),
                                  _if_identity(network, network.features(images), 2), rtol=1e-6)


@pytest.mark.parametrize("residual, names", [(True, ["kernels", "confusion", "answers", "mistakes", "path"]),
                                             (False, ["kernels", "confusion", "answers", "mistakes"])])
def test_pictures_of_a_network(tmp_path, shapes, residual, names):
    network = tr.models.cifar_net(10, 3, (4, 8, 8), residual)  # nine blocks: not all are shown
    files = draw_all(tmp_path / "new" / "folder", network, shapes.test, shapes.classes)
    assert [file.stem for file in files] == names
    for file in files:
        with Image.open(file) as image:
            assert min(image.size) > 300 and len(image.getcolors(2**24)) > 10


def test_a_plain_network_has_no_path_from_block_to_logits(tmp_path, shapes):
    network = tr.models.cifar_net(10, 1, (4,), residual=False)
    with pytest.raises(ValueError, match="expected a residual network"):
        draw_path(tmp_path / "path.png", network, shapes.test.images[0], shapes.classes)


def test_weights_alone_give_the_network_again(tmp_path):
    checkpoint = small_checkpoint()
    save_network(tmp_path / "network.npz",
                 checkpoint._replace(config={**checkpoint.config, "data": "/home/someone"}))
    loaded = tr.models.pretrained(str(tmp_path / "network.npz")).state_dict()
    assert load_checkpoint(tmp_path / "network.npz").config == checkpoint.config
    for name, value in checkpoint.model.items():
        assert loaded[name].dtype == numpy.float32
        numpy.testing.assert_array_equal(loaded[name], value.astype(numpy.float16))


def test_weights_too_large_for_float16_are_refused(tmp_path):
    checkpoint = small_checkpoint()
    checkpoint.model["stem.weight"][0, 0, 0, 0] = 1e5
    with pytest.raises(ValueError, match="stem.weight"):
        save_network(tmp_path / "network.npz", checkpoint)
    assert not list(tmp_path.iterdir())


def test_a_file_without_such_a_network_is_refused(tmp_path):
    checkpoint = small_checkpoint()
    del checkpoint.config["widths"]
    save_network(tmp_path / "network.npz", checkpoint)
    with pytest.raises(ValueError, match="holds no network of run_cifar.py"):
        tr.models.pretrained(tmp_path / "network.npz")
    with pytest.raises(FileNotFoundError):
        tr.models.pretrained(tmp_path / "absent.npz")


def test_a_picture_becomes_its_middle_square(tmp_path):
    pixels = numpy.zeros((60, 100, 3), numpy.uint8)
    pixels[:, 20:80] = (10, 200, 30)  # the middle 60 x 60
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    square = read_square(tmp_path / "wide.png", 32)
    assert (square[:, 1:-1] == (10, 200, 30)).all() and square.shape == (32, 32, 3)
    assert abs(square.astype(int) - (10, 200, 30)).max() < 40  # what is beside it is mixed into its edge only
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "gray.png")
    assert read_square(tmp_path / "gray.png", 8).shape == (8, 8, 3)
    Image.fromarray(pixels[:1, :1]).save(tmp_path / "dot.png")
    assert read_square(tmp_path / "dot.png", 32).shape == (32, 32, 3)


def test_classify_names_five_classes_without_a_data_set(tmp_path):
    rng = numpy.random.default_rng(0)
    for name in "a.png", "b.jpg":
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), numpy.uint8)).save(tmp_path / name)
    lines = run("--backend", "numpy", "--data", tmp_path / "absent", "--classify", tmp_path / "a.png",
                tmp_path / "b.jpg").splitlines()
    assert [line.split(":")[0] for line in lines] == [str(tmp_path / "a.png"), str(tmp_path / "b.jpg")]
    for line in lines:
        named = [part.split() for part in line.partition(": ")[2].split(", ")]
        assert len({name for name, _ in named} & set(tr.datasets.CIFAR10_CLASSES)) == 5
        likelihood = [float(percent.rstrip("%")) for _, percent in named]
        assert likelihood == sorted(likelihood, reverse=True) and 50 < sum(likelihood) <= 100.3
    assert NETWORK.stat().st_size < 4e6


def test_evaluate_draws_exports_and_classifies(tmp_path, shapes, monkeypatch):
    monkeypatch.setitem(run_cifar.DATASETS, "shapes", lambda root: shapes)
    save_network(tmp_path / "network.npz", small_checkpoint())
    ours = "--evaluate", tmp_path / "network.npz", "--backend", "numpy"
    assert "test error" in (printed := run(*ours))
    run(*ours, "--export", tmp_path / "again.npz")
    assert printed.partition(":")[2] == run("--evaluate", tmp_path / "again.npz", "--backend",
                                            "numpy").partition(":")[2]
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png cannot be read as a picture" in run(*ours, "--classify", tmp_path / "text.png", ok=False)
    assert "there is no file" in run(*ours, "--classify", tmp_path / "absent.png", ok=False)
    assert "--export needs --evaluate" in run("--export", tmp_path / "x.npz", ok=False)
