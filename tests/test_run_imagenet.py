"""run_imagenet.py as its users call it, in processes of its own, on pictures of drawn shapes in folders."""
from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy
import pytest
from support.harness import run_script, weight_bytes

import tinyres as tr

SCRIPT = Path(__file__).resolve().parent.parent / "run_imagenet.py"
SMALL = ["--blocks", "1", "1", "--widths", "2", "4", "--batch-size", "8", "--evaluate-every", "3",
         "--backend", "numpy"]


run = functools.partial(run_script, SCRIPT)


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
    """A run of 6 steps in one piece: its folder and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    return out, run(*SMALL, "--data", pictures, "--steps", 6, "--out", out)


def test_a_run_writes_both_errors_and_says_what_was_broken(straight):
    out, printed = straight
    assert "24 training and 12 test images in 10 classes; network of 6 layers" in printed
    assert "14.17%" in printed and "35.29%" in printed and "blocks [1, 1] (paper: [3, 4, 6, 3])" in printed
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
    numpy.savez(tmp_path / "old.npz", **{**arrays, "config": numpy.array(json.dumps(config))})
    printed = run("--data", pictures, "--evaluate", tmp_path / "old.npz", "--backend", "numpy")
    assert "step 6, test loss" in printed


@pytest.mark.parametrize("arguments, message", [
    (["--data", "absent"], "must be folders of pictures"),
    (["--blocks", "1"], "blocks"),
    (["--batch-size", "25"], "batch_size 25"),
    (["--workers", "0"], "argument --workers"),
    (["--resume"], "--resume needs --out"),
    (["--demo", "--evaluate", "x.npz"], "--demo cannot be combined with"),
])
def test_wrong_options_are_named(pictures, tmp_path, arguments, message):
    out = [] if "--resume" in arguments else ["--out", tmp_path / "out"]
    assert message in run(*SMALL, "--data", pictures, *out, *arguments, ok=False)
