"""Pictures in folders: every kind of file, the order of batches, files that cannot be read."""
from __future__ import annotations

import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageOps

from tinyres.datasets import image_folder, save_as_folder, shapes
from tinyres.datasets.augment import standardize
from tinyres.datasets.decoding import MAX_PIXELS, _room, _window, decode, draw_windows
from tinyres.datasets.loader import evaluation_batches, training_batches
from tinyres.distributed.forked import forked


def scene(width: int, height: int) -> Image.Image:
    """A smooth picture whose corners differ, so that turning and cutting show."""
    x, y = numpy.linspace(0, 1, width), numpy.linspace(0, 1, height)[:, None]
    waves = numpy.sin(9 * x) * numpy.cos(7 * y) / 4 + 0.25
    pixels = numpy.stack([x + 0 * y, 0 * x + y, waves + 0.25 * x], axis=-1)
    return Image.fromarray((255 * pixels.clip(0, 1)).astype(numpy.uint8))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """40 training and 20 test pictures of drawn shapes."""
    folder = tmp_path_factory.mktemp("pictures") / "shapes"
    save_as_folder(shapes(40, 20, size=48), folder)
    return folder


def copy(root: Path, to: Path) -> Path:
    for path in root.rglob("*.JPEG"):
        target = to / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return to


def test_a_data_set_written_as_a_folder_is_read_back(root, xp):
    data, drawn = image_folder(root), shapes(40, 20, size=48)
    assert data.classes == tuple(sorted(drawn.classes))
    assert numpy.bincount(data.train.labels).tolist() == [4] * 10 and len(data.test.labels) == 20
    images, labels = data.test.evaluation_batch(numpy.arange(20))
    assert images.shape == (20, 224, 224, 3) and images.dtype == "float32" and isinstance(images, xp.ndarray)
    for name, image, label in zip(data.test.names, images, labels.tolist(), strict=True):
        number = int(Path(name).stem)
        assert data.classes[label] == drawn.classes[drawn.test.labels[number]]
        picture = Image.fromarray(drawn.test.images[number]).crop((3, 3, 45, 45)).resize((224, 224))
        expected = standardize(numpy.asarray(picture)[None])[0]
        assert abs(xp.asarray(expected) - image).mean() < 0.3, "not the middle of that picture"


def test_a_folder_that_is_there_is_not_written_over(root):
    before = sorted(root.rglob("*"))
    save_as_folder(shapes(100, 20), root)
    assert sorted(root.rglob("*")) == before


def test_evaluation_scales_the_shorter_side_to_256_and_cuts_out_the_middle(tmp_path):
    for width, height in (500, 375), (300, 640), (64, 64), (2400, 1600):
        (picture := scene(width, height)).save(tmp_path / "a.jpg", quality=95)
        scale = 256 / min(width, height)
        resized = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
        expected = numpy.asarray(resized.crop((left, top, left + 224, top + 224)), float)
        assert abs(decode(tmp_path / "a.jpg") - expected).mean() < 2, (width, height)


def test_training_windows_lie_inside_and_have_the_areas_and_shapes_asked_for():
    rng = numpy.random.default_rng(0)
    seen = []
    for width, height in [(500, 375)] * 300 + [(31, 17)] * 50:
        left, top, right, bottom = _window(width, height, rng.random((10, 4)).tolist(), 0.08)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        w, h = right - left, bottom - top
        seen.append((width, w * h / (width * height), w / h))
    area, shape = numpy.array([s[1:] for s in seen if s[0] == 500]).T
    assert 0.078 < area.min() < 0.12 and 0.9 < area.max() <= 1
    assert 0.74 < shape.min() < 0.8 and 1.25 < shape.max() < 1.345
    for size in (1, 1), (1, 3000), (3000, 1):
        left, top, right, bottom = _window(*size, rng.random((10, 4)).tolist(), 0.08)
        assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]


def test_a_window_is_that_part_of_the_picture_also_when_decoded_smaller(tmp_path):
    rng = numpy.random.default_rng(1)
    for width, height in (500, 375), (1999, 1501), (4001, 3001):
        (picture := scene(width, height)).save(tmp_path / "a.jpg", quality=95)
        windows = rng.random((10, 4))
        box = _window(width, height, windows.tolist(), 0.08)
        expected = picture.resize((224, 224), Image.Resampling.BILINEAR, box)
        for flip in False, True:
            got = decode(tmp_path / "a.jpg", windows, flip)[:, ::-1 if flip else 1]
            assert abs(got - numpy.asarray(expected, float)).mean() < 2, (width, height)


@pytest.mark.parametrize("mode, suffix", [("L", "jpg"), ("CMYK", "jpg"), ("L", "png"), ("P", "png"),
                                          ("RGBA", "png"), ("LA", "png"), ("1", "png"), ("I;16", "png")])
def test_every_kind_of_picture_becomes_rgb(tmp_path, mode, suffix):
    gray = scene(300, 260).convert("L")
    if mode == "I;16":
        picture = Image.fromarray(numpy.asarray(gray, numpy.uint16) * 257)
    else:
        picture = gray.convert("RGB").convert(mode, dither=Image.Dither.NONE, palette=Image.Palette.ADAPTIVE)
    picture.save(tmp_path / f"a.{suffix}")
    expected = (gray.point(lambda value: 255 * (value > 127)) if mode == "1" else gray).convert("RGB")
    expected.save(tmp_path / "rgb.png")
    got = decode(tmp_path / f"a.{suffix}")
    assert got.shape == (224, 224, 3)
    assert abs(got - decode(tmp_path / "rgb.png").astype(float)).mean() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_pictures_that_a_camera_stored_turned_are_turned_back(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    scene(300, 220).save(tmp_path / f"a.{suffix}", exif=exif)
    with Image.open(tmp_path / f"a.{suffix}") as picture:
        ImageOps.exif_transpose(picture).save(tmp_path / "upright.png", exif=b"")
    got, expected = decode(tmp_path / f"a.{suffix}"), decode(tmp_path / "upright.png")
    assert abs(got - expected.astype(float)).mean() < 2


def test_a_damaged_note_about_the_picture_does_no_harm(tmp_path):
    scene(300, 220).save(tmp_path / "a.jpg", exif=b"Exif\0\0nonsense, no header")
    assert decode(tmp_path / "a.jpg").shape == (224, 224, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (6000, 20)])
def test_odd_sizes(tmp_path, size):
    for name in "a.jpg", "a.png":
        Image.new("RGB", size, (10, 200, 30)).save(tmp_path / name)
        for windows in None, numpy.random.default_rng(0).random((10, 4)):
            assert abs(decode(tmp_path / name, windows).astype(int) - (10, 200, 30)).max() <= 3


def test_batches_are_the_same_with_any_number_of_workers_and_from_any_step(root):
    def batches(workers: int, first: int) -> list:
        return list(training_batches(image_folder(root, workers).train, 6, 5, first, 9))

    for one, four, later in zip(batches(1, 0)[4:], batches(4, 0)[4:], batches(3, 4), strict=True):
        for other in four, later:
            assert (one[0] == other[0]).all() and (one[1] == other[1]).all()
    assert (batches(1, 0)[0][0] != batches(1, 0)[7][0]).any(), "an epoch later, other windows"


@pytest.mark.parametrize("size", [2, 3])
def test_shares_are_the_whole_batch_without_overlap(root, size):
    for split in image_folder(root).train, shapes(40, 20).train:
        whole = next(training_batches(split, 12, 1, 2, 3))
        for rank in range(size):
            part = next(training_batches(split, 12, 1, 2, 3, slice(rank, None, size)))
            assert (part[0] == whole[0][rank::size]).all() and (part[1] == whole[1][rank::size]).all()
        labels = [labels for rank in range(size)
                  for _, batch in evaluation_batches(split, 7, slice(rank, None, size)) for labels in batch]
        assert sorted(labels) == sorted(split.labels)


def break_some(folder: Path) -> list[str]:
    """Three files of one class that are no whole pictures; a fourth one of it stays."""
    files = sorted((folder / "train" / "heart").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:500])
    files[1].write_text("<html>404 not found</html>")
    files[2].write_bytes(b"")
    return [f"heart/{path.name}" for path in files[:3]]


def test_broken_files_are_named_counted_and_replaced(root, tmp_path, capsys):
    folder = copy(root, tmp_path)
    broken = break_some(folder)
    data = image_folder(folder, 3)
    assert len(data.train.names) == 40
    heart = data.classes.index("heart")
    chosen = numpy.flatnonzero(data.train.labels == heart)
    draws = draw_windows(4, numpy.random.default_rng(0))
    images, labels = data.train.pixels(chosen, *draws)
    assert set(data.train.broken) == set(broken) and (labels == heart).all()
    again, _ = data.train.pixels(chosen, *draws)
    sound, _ = data.train.pixels(numpy.repeat(chosen[3], 4), *draws)
    assert (images == again).all() and (images == sound).all(), "the next readable file, in order of names"
    warnings = capsys.readouterr().err
    assert all(warnings.count(f"{name} cannot be read") == 1 for name in broken)
    assert "3 of 40 so far" in warnings
    images, labels = data.train.evaluation_batch(numpy.arange(40))
    assert len(images) == len(labels) == 37 and (labels == heart).sum() == 1, "evaluation leaves them out"
    assert len(list(training_batches(data.train, 8, 0, 0, 10))) == 10


@pytest.mark.parametrize("count, total", [(11, 40), (8, 8)])
def test_too_many_broken_files_are_an_error_and_no_hang(root, tmp_path, count, total):
    folder = copy(root, tmp_path)
    files = sorted((folder / "train").rglob("*.JPEG"))
    for path in files[total:]:
        path.unlink()
    for path in folder.glob("train/*"):
        if not list(path.iterdir()):  # a class without pictures is another error
            path.rmdir(), shutil.rmtree(folder / "val" / path.name)
    for path in files[:count]:
        path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=f"{count} of the {total} pictures in .* cannot be read"):
        list(training_batches(image_folder(folder, 4).train, 4, 0, 0, 100))


def test_a_picture_too_large_to_be_honest_is_a_broken_file(root, monkeypatch, capsys):
    data = image_folder(root)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="cannot be read"):
        data.test.evaluation_batch(numpy.arange(20))
    assert "decompression bomb" in capsys.readouterr().err


def test_threads_decode_no_more_pixels_at_once_than_there_is_room_for(tmp_path):
    scene(300, 220).save(tmp_path / "a.png")
    with ThreadPoolExecutor(1) as pool:
        with _room(os.getpid()).of(MAX_PIXELS - 300 * 220 + 1):
            waiting = pool.submit(decode, tmp_path / "a.png")
            with pytest.raises(FutureTimeout):
                waiting.result(timeout=0.1)
        assert waiting.result().shape == (224, 224, 3)
    with _room(os.getpid()).of(MAX_PIXELS):  # all of it was given back
        pass


def test_a_flat_folder_with_a_list_of_labels(root, tmp_path):
    folder = copy(root, tmp_path)
    expected = image_folder(folder).test
    lines = []
    for name, label in zip(expected.names, expected.labels, strict=True):
        path = folder / "val" / name
        lines.append(f"{path.name} {image_folder(folder).classes[label]}\n")
        path.rename(folder / "val" / path.name)
    (folder / "val" / "labels.txt").write_text("".join(lines[::-1]))
    flat = image_folder(folder).test
    by_name = dict(zip((Path(name).name for name in expected.names), expected.labels, strict=True))
    assert len(flat.names) == 20 and [by_name[name] for name in flat.names] == flat.labels.tolist()

    (folder / "val" / "labels.txt").write_text("".join(lines[1:]))
    with pytest.raises(ValueError, match="does not say the class of 1 of the 20 pictures"):
        image_folder(folder)
    (folder / "val" / "labels.txt").write_text("".join(lines) + "x.JPEG 17\n")
    with pytest.raises(ValueError, match="line 21: expected a file's name and one of the folder names"):
        image_folder(folder)


def test_folders_that_are_not_there_are_named(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="train and .*val must be folders .*data/README.md"):
        image_folder(tmp_path)
    folder = copy(root, tmp_path / "a")
    (folder / "val" / "heart").rename(folder / "val" / "hart")
    with pytest.raises(ValueError, match="1 classes that train/ does not have, such as 'hart'"):
        image_folder(folder)
    (tmp_path / "b" / "train" / "x").mkdir(parents=True)
    (tmp_path / "b" / "val").mkdir()
    with pytest.raises(FileNotFoundError, match="two or more classes, found 1"):
        image_folder(tmp_path / "b")
    (tmp_path / "b" / "train" / "y").mkdir()
    with pytest.raises(ValueError, match="min_area 0 must be above 0"):
        image_folder(root, min_area=0)
    with pytest.raises(FileNotFoundError, match="holds no files .jpeg or .jpg or .png"):
        image_folder(tmp_path / "b")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork processes")
def test_a_copy_of_the_process_reads_pictures_too(root):
    split = image_folder(root, workers=1).test
    images, _ = split.evaluation_batch(numpy.arange(2))  # the threads that decode are there
    with forked(2) as group:
        if group.rank == 1:
            signal.alarm(20)  # or a copy that waits for its threads would wait for ever
        sums = group.all_reduce_sum(float(split.evaluation_batch(numpy.arange(2))[0].var()))
    assert sums == [2 * float(images.var())]


LITTER = ["train/.ipynb_checkpoints/a.jpg", "train/__MACOSX/heart/a.jpg", "train/.git/objects/a.png",
          "val/.ipynb_checkpoints/a.jpg", "val/__MACOSX/a.jpg", "train/heart/._x.jpg", "train/.DS_Store",
          "val/heart/._x.JPEG", "train/heart/.ipynb_checkpoints/a-checkpoint.jpg",
          "train/heart/folder.jpg/a.txt", "train/heart/notes.txt", "train/README"]


def test_what_begins_with_a_dot_and_other_files_are_no_data(root, tmp_path):
    folder, expected = copy(root, tmp_path), image_folder(root)
    for name in LITTER:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no picture")
    found = image_folder(folder)
    assert found.classes == expected.classes
    assert found.train.names == expected.train.names and found.test.names == expected.test.names
    scene(30, 30).save(folder / "train" / "heart" / "x.PNG")
    assert len(image_folder(folder).train.names) == 41
    flat = tmp_path / "flat"
    copy(root, flat)
    for path in (flat / "val").rglob("*.JPEG"):
        path.rename(flat / "val" / path.name)
    names = sorted(path.name for path in (flat / "val").glob("*.JPEG"))
    (flat / "val" / "._00000.JPEG").write_bytes(b"no picture")
    (flat / "val" / "labels.txt").write_text("".join(f"{name} heart\n" for name in names))
    assert image_folder(flat).test.names == names


@pytest.mark.parametrize("leave", [None, "notes.txt", "._x.jpg"])
def test_a_class_without_pictures_is_an_error_with_its_name(root, tmp_path, leave):
    folder = copy(root, tmp_path)
    (folder / "train" / "horse").mkdir()
    (folder / "train" / "zebra").mkdir()
    if leave:
        (folder / "train" / "horse" / leave).write_bytes(b"no picture")
    with pytest.raises(FileNotFoundError, match="train holds no picture of 2 of its 12 classes: .*'horse'"):
        image_folder(folder)


def test_a_class_without_test_pictures_is_no_error(root, tmp_path):
    folder = copy(root, tmp_path)
    for path in (folder / "val" / "heart").iterdir():
        path.unlink()
    assert len(image_folder(folder).test.names) == 18


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_of_labels_may_begin_with_a_byte_order_mark_and_hold_any_name(root, tmp_path, encoding):
    folder = copy(root, tmp_path)
    for path in list((folder / "val").rglob("*.JPEG")):
        path.rename(folder / "val" / f"Bär_{path.stem}.JPEG")
    names = sorted(path.name for path in (folder / "val").glob("*.JPEG"))
    lines = "".join(f"{name} heart\r\n" for name in names)
    (folder / "val" / "labels.txt").write_bytes(lines.encode(encoding))
    assert image_folder(folder).test.names == names
    (folder / "val" / "labels.txt").write_bytes(f"{names[0]} B\xe4r\n".encode("latin-1"))
    with pytest.raises(ValueError, match="labels.txt, line 1: expected a file's name and one of the folder"):
        image_folder(folder)
