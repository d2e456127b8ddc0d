"""run_imagenet.py on drawn shapes in folders; once as its users call it, in a process of its own."""
from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy
import pytest
from support.harness import ROOT, call_script, run_script, weight_bytes

import run_imagenet
import tinyres as tr

SCRIPT = ROOT / "run_imagenet.py"
SMALL = ["--blocks", "1", "1", "--widths", "2", "4", "--batch-size", "8", "--evaluate-every", "3",
         "--backend", "numpy"]


run = functools.partial(call_script, SCRIPT)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training pictures, three of them broken, and 12 test pictures in ten classes."""
    root = tmp_path_factory.mktemp("pictures") / "shapes"
    tr.datasets.save_as_folder(tr.datasets.shapes(24, 12, size=40), root)
    truncated, text, empty = sorted((root / "train").rglob("*.JPEG"))[:3]
    truncated.write_bytes(truncated.read_bytes()[:300])
    text.write_text("no picture")
    empty.write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def straight(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of 6 steps in one piece, by the script itself: its folder and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    return out, run_script(SCRIPT, *SMALL, "--data", pictures, "--steps", 6, "--out", out)


def test_a_run_writes_both_errors_and_says_what_was_broken(straight):
    out, printed = straight
    assert "24 training and 12 test images in 10 classes; residual network of 6 layers" in printed
    assert "14.17%" not in printed and "35.29%" not in printed, "the paper's figures are ImageNet's"
    assert printed.count("%           -") == 2 and "blocks [1, 1] (paper: [3, 4, 6, 3])" in printed
    assert printed.count("cannot be read and is skipped") == 3
    assert "3 of the 24 pictures in" in printed
    start, *metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert start["step"] == 0 and [line["step"] for line in metrics] == [3, 6]
    assert all(0 <= line["test_top5_error"] <= line["test_error"] <= 1 for line in metrics)
    assert metrics[0]["lr"] == 0.1 and (out / "curve.png").exists()


def test_the_learning_rate_falls_every_two_epochs(pictures, straight, tmp_path):
    run(*SMALL, "--data", pictures, "--epochs", 3, "--out", tmp_path, "--lr-decay", 0.5)
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["lr"]) for line in metrics[1:]] == [(3, 0.1), (6, 0.1), (9, 0.05)]


def test_resume_and_evaluate(pictures, straight, tmp_path):
    out, _ = straight
    run(*SMALL, "--data", pictures, "--steps", 3, "--out", tmp_path, "--workers", 1)
    run("--data", pictures, "--resume", "--out", tmp_path, "--steps", 6, "--backend", "numpy", "--workers", 3)
    assert weight_bytes(tmp_path) == weight_bytes(out)
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    printed = run("--data", pictures, "--evaluate", out / "checkpoint.npz", "--backend", "numpy")
    assert (f"step 6, test loss {last['test_loss']:.4f}, top-1 error {last['test_error']:.2%}, "
            f"top-5 error {last['test_top5_error']:.2%}") in printed


def test_settings_of_version_0_1_0_are_understood(pictures, straight, tmp_path):
    with numpy.load(straight[0] / "checkpoint.npz") as file:
        arrays = {name: file[name] for name in file.files}
    config = json.loads(arrays["config"].item())
    config["least_area"] = config.pop("min_area")
    for later in "network", "initial_scale", "schedule", "optimizer", "held_out", "size":
        del config[later]
    numpy.savez(tmp_path / "old.npz", **{**arrays, "config": numpy.array(json.dumps(config))})
    printed = run("--data", pictures, "--evaluate", tmp_path / "old.npz", "--backend", "numpy")
    assert "step 6, test loss" in printed


@pytest.mark.parametrize("arguments, message", [
    (["--data", "absent"], "must be folders of pictures"),
    (["--blocks", "1"], "blocks"),
    (["--batch-size", "25"], "batch_size 25"),
    (["--workers", "0"], "argument --workers"),
    (["--resume"], "--resume needs --out"),
    (["--classify", "a.png"], "--classify needs --evaluate"),
    (["--size", "60"], "argument --size: expected a multiple of 8"),
    (["--held-out", "24"], "24 images held out: expected from 1 to 23"),
    (["--demo", "--evaluate", "x.npz"], "--demo cannot be combined with"),
])
def test_wrong_options_are_named(pictures, tmp_path, arguments, message):
    out = [] if "--resume" in arguments else ["--out", tmp_path / "out"]
    assert message in run(*SMALL, "--data", pictures, *out, *arguments, ok=False)


def test_the_papers_figures_stand_beside_those_of_a_thousand_classes(capsys):
    settings, launch = run_imagenet.ImagenetSettings(), run_imagenet.ImagenetLaunch(out=Path("x"))
    metrics = [{"test_error": 0.4, "test_top5_error": 0.2}]
    run_imagenet.print_errors(settings, launch, metrics, classes=1000)
    assert "40.00%      35.29%" in (printed := capsys.readouterr().out) and "20.00%      14.17%" in printed
    run_imagenet.print_errors(settings, launch, metrics, classes=10)
    assert "40.00%           -" in (printed := capsys.readouterr().out) and "35.29" not in printed


def test_size_plain_schedule_optimizer_held_out_and_classify(pictures, tmp_path):
    printed = run(*SMALL, "--data", pictures, "--size", 32, "--plain", "--schedule", "cosine", "--optimizer",
                  "adam", "--held-out", 4, "--steps", 4, "--out", tmp_path)
    assert "20 training and 4 held-out images in 10 classes; plain network of 6 layers" in printed
    for difference in "size 32 (paper: 224)", "optimizer adam (paper: sgd)", "lr 0.001 (paper: 0.1)":
        assert difference in printed
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in metrics if "lr" in line]
    assert rates == pytest.approx([0.0005, 0.0005 * (1 - 0.5**0.5)]), "of the steps before 3 and 4"
    with numpy.load(tmp_path / "checkpoint.npz") as file:
        assert {"optimizer/mean.0", "optimizer/steps"} <= set(file.files)
    ours = "--data", pictures, "--backend", "numpy", "--evaluate", tmp_path / "checkpoint.npz"
    assert "held-out loss" in run(*ours)
    picture = sorted((pictures / "val").rglob("*.JPEG"))[0]
    named = run(*ours, "--classify", picture, picture).splitlines()
    assert len(named) == 2 and named[0] == named[1] and named[0].startswith(f"{picture}: ")
    names = {part.split()[0] for part in named[0].partition(": ")[2].split(", ")}
    assert len(names) == 5 and names <= {folder.name for folder in (pictures / "train").iterdir()}


def test_pictures_held_out_are_of_all_classes_and_not_trained_on(tmp_path):
    tr.datasets.save_as_folder(tr.datasets.shapes(40, 10, size=40), tmp_path / "shapes")
    whole = tr.datasets.image_folder(tmp_path / "shapes", size=32)
    held = whole.held_out(10)
    assert sorted([*held.train.names, *held.test.names]) == whole.train.names
    assert len(held.test.names) == 10 and len(set(held.test.labels.tolist())) >= 8
    label_of = dict(zip(whole.train.names, whole.train.labels, strict=True))
    for split in held.train, held.test:
        assert [label_of[name] for name in split.names] == split.labels.tolist()
        assert split.evaluation_batch(numpy.arange(2))[0].shape == (2, 32, 32, 3)
