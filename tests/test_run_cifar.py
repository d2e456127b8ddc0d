"""run_cifar.py on the generated shapes: as its users call it, in processes of its own, where that matters."""
from __future__ import annotations

import functools
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest
from support.harness import ROOT, WORKER, call_script, run_script, weight_bytes

import run_cifar
import tinyres as tr
from tinyres.cli.launch import data_folder
from tinyres.training import loop

SCRIPT = ROOT / "run_cifar.py"
SMALL = ["--dataset", "shapes", "--blocks", "1", "--widths", "4", "8", "--batch-size", "16",
         "--evaluate-every", "1000", "--backend", "numpy"]
SHAPES = tr.datasets.shapes(100, 20)
FEW_IMAGES = [sys.executable, "-c", WORKER, str(ROOT), "0", *SMALL, "--lr", "0.002"]

run = functools.partial(call_script, SCRIPT)


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 images to train on and 20 to test on, for what runs in this process."""
    monkeypatch.setitem(run_cifar.DATASETS, "shapes", lambda root: SHAPES)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of 30 steps by the script itself, on all shapes: its folder and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "straight"
    return out, run_script(SCRIPT, *SMALL, "--steps", "30", "--out", str(out))


def test_a_run_ends_with_the_papers_figure_and_what_differs(straight):
    out, printed = straight
    assert "step 30/30" in printed and "test error" in printed
    assert "blocks 1 (paper: 9)" in printed and "widths [4, 8] (paper: [64, 128, 256])" in printed
    assert "momentum" not in printed.split("Different")[1]
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 30 and 0 <= last["test_error"] <= 1
    assert json.loads((out / "config.json").read_text())["widths"] == [4, 8]


def test_resume_and_evaluate(tmp_path):
    run(*SMALL, "--steps", "30", "--out", tmp_path / "one")
    run(*SMALL, "--steps", "15", "--out", tmp_path / "parts")
    printed = run("--resume", "--out", tmp_path / "parts", "--steps", "30", "--backend", "numpy")
    assert "step 30/30" in printed
    assert weight_bytes(tmp_path / "parts") == weight_bytes(tmp_path / "one")
    last = json.loads((tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()[-1])
    printed = run("--evaluate", tmp_path / "parts" / "checkpoint.npz", "--backend", "numpy")
    assert f"step 30, test loss {last['test_loss']:.4f}, test error {last['test_error']:.2%}" in printed


def test_the_demo_trains_both_twins_and_draws_what_it_says(tmp_path):
    printed = run("--demo", "--steps", "3", "--blocks", "1", "--widths", "4", "8", "--out", str(tmp_path))
    assert printed.count("step 3/3") == 2 and "x + h(x)" in printed and "90.0%" in printed
    last = [json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
            for name in ("residual", "plain")]
    assert ["residual_ratios" in line for line in last] == [True, False]
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    assert "curve.png" in names and sum(name.startswith("pictures") for name in names) == 5, names


def test_a_signal_in_the_last_evaluation_of_a_run_ends_the_demo(tmp_path, monkeypatch, capsys):
    def evaluate(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": 1.0, "error": 0.5}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    monkeypatch.setattr(sys, "argv", ["run_cifar.py", "--demo", "--steps", "1", "--blocks", "1", "--widths",
                                      "4", "8", "--backend", "numpy", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        run_cifar.main()
    assert caught.value.code == 128 + signal.SIGTERM
    assert "after step 1. The demo starts over" in capsys.readouterr().out
    assert os.listdir(tmp_path) == ["residual"]


@pytest.fixture
def running() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a run that takes so many steps, and gives its process after the first one. The run ends even if
    the test fails, and SIGHUP does to it what is asked for, even if nohup started the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(steps: int, out: Path, hangup: signal.Handlers = signal.SIG_DFL) -> subprocess.Popen[str]:
        command = [*FEW_IMAGES, "--steps", str(steps), "--out", str(out)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup))
        processes.append(process)
        while not (line := process.stdout.readline()).startswith("step "):
            assert line, process.communicate()
        return process

    yield start
    for process in processes:
        with process:
            process.kill()


def test_ctrl_c_saves_and_says_how_to_resume(running, tmp_path):
    folder = tmp_path / "a run"
    process = running(100_000, folder)
    os.kill(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, errors
    assert f"python run_cifar.py --resume --data data --out '{folder}' --backend numpy" in printed
    with numpy.load(folder / "checkpoint.npz") as file:
        assert f"after step {int(file['step'])}" in printed


def test_a_closed_terminal_saves_too(running, tmp_path):
    """SIGHUP, when an ssh session ends, with nobody left to read what is printed."""
    process = running(100_000, tmp_path)
    process.stdout.close()
    process.stderr.close()
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    with numpy.load(tmp_path / "checkpoint.npz") as file:
        assert 0 < int(file["step"]) < 100_000


def test_under_nohup_a_closed_terminal_changes_nothing(running, tmp_path):
    process = running(100, tmp_path, signal.SIG_IGN)
    os.kill(process.pid, signal.SIGHUP)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "step 100/100" in printed


@pytest.mark.parametrize("shell", ["{} | head -1", "{} > /dev/full", "{} >&-", "{} 2>&1 | true"])
def test_output_that_cannot_be_written_does_not_end_a_run(tmp_path, shell):
    if "/dev/full" in shell and not os.path.exists("/dev/full"):
        pytest.skip("needs Linux")
    command = shlex.join([*FEW_IMAGES, "--steps", "25", "--out", str(tmp_path)])
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {shell.format(command)}"], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0 and "Broken pipe" not in done.stderr and "Traceback" not in done.stderr
    with numpy.load(tmp_path / "checkpoint.npz") as file:
        assert int(file["step"]) == 25


@pytest.mark.parametrize("arguments, message", [
    (["--widths"], "argument --widths"),
    (["--widths", "8", "4"], "argument --widths"),
    (["--widths", "2000000000"], "not enough memory"),
    (["--steps", "5", "--epochs", "1"], "not allowed with"),
    (["--batch-size", "101"], "batch_size 101"),
    (["--resume"], "--resume needs --out"),
    (["--resume", "--out", "absent"], "there is no checkpoint"),
    (["--evaluate", "absent.npz"], "there is no checkpoint"),
    (["--evaluate", "."], ". is a folder"),
    (["--out", __file__], "is a file, expected a folder"),
    (["--step", "5"], "unrecognized arguments: --step"),
    (["--demo", "--laptop"], "--demo cannot be combined with --laptop"),
    (["--demo", "--classify", "a.jpg"], "--classify cannot be combined with --demo"),
    (["--demo", "--plain"], "--demo trains the residual network and its plain twin: leave --network out"),
    (["--steps", "5", "--classify", "a.jpg"], "--steps cannot be combined with --classify, which trains"),
    (["--epochs", "5", "--evaluate", "absent"], "--epochs cannot be combined with --evaluate"),
    (["--schedule", "cosine", "--lr-drops", "5"], "--lr-drops is for --schedule drops, and the schedule is"),
    (["--laptop", "--lr-drops", "5"], "and the schedule is one-cycle: leave it out"),
    (["--network", "all-convolutional", "--blocks", "2"], "--blocks is for residual blocks"),
    (["--network", "all-convolutional", "--initial-scale", "2"], "--initial-scale is for residual blocks"),
])
def test_wrong_options_are_named(arguments, message, tmp_path):
    arguments = [str(tmp_path / a) if a.startswith("absent") else a for a in arguments]
    out = [] if "--resume" in arguments else ["--out", str(tmp_path / "out")]
    assert message in run("--dataset", "shapes", "--backend", "numpy", *out, *arguments, ok=False)


@pytest.mark.parametrize("option, value", [
    ("--blocks", "9999999999"), ("--blocks", "1.5"), ("--blocks", "0"), ("--widths", "0"),
    ("--widths", "1 2 3 4 5 6 7"), ("--lr", "1e999"), ("--lr", "0"), ("--lr", "nan"), ("--lr-drops", "-1"),
    ("--momentum", "nan"), ("--momentum", "-0.1"), ("--momentum", "1"), ("--batch-size", "0"),
    ("--weight-decay", "-1"), ("--weight-decay", "inf"), ("--steps", "0"), ("--epochs", "-3"),
    ("--batch-size", "-8"), ("--evaluate-every", "0"), ("--seed", "-1"), ("--seed", "1e5")])
def test_values_out_of_range_name_their_option(monkeypatch, capsys, option, value):
    monkeypatch.setattr(sys, "argv", ["run_cifar.py", option, *value.split()])
    with pytest.raises(SystemExit) as caught:
        run_cifar.main()
    assert caught.value.code == 2 and f"error: argument {option}" in capsys.readouterr().err


def test_a_run_is_not_overwritten_and_not_resumed_with_other_settings(straight):
    out, _ = straight
    assert "already holds a run" in run(*SMALL, "--steps", "30", "--out", str(out), ok=False)
    assert "started with lr 0.05" in run("--resume", "--out", str(out), "--lr", "0.1", ok=False)
    assert "at step 30 already" in run("--resume", "--out", str(out), "--backend", "numpy", ok=False)


def test_the_laptops_settings_and_their_cost():
    printed = run("--laptop", "--dataset", "shapes", "--batch-size", 32, "--dry-run", "--backend", "numpy")
    # at the full rate, without the warm-up of its schedule, this network diverges in three steps
    assert "848,304 trainable weights, batches of 32" in printed
    assert "24,000 steps  about" in printed and "an estimate" in printed


def test_held_out_images_take_the_place_of_test_images(tmp_path):
    printed = run(*SMALL, "--steps", "2", "--held-out", "10", "--schedule", "one-cycle",
                  "--initial-scale", "0.3", "--out", tmp_path)
    assert "90 training and 10 held-out images" in printed
    assert "held-out error" in run("--evaluate", tmp_path / "checkpoint.npz", "--backend", "numpy")
    refused = run(*SMALL, "--held-out", "100", "--out", tmp_path / "other", ok=False)
    assert "100 images held out: expected from 1 to 99" in refused


def test_help_has_a_text_for_every_option_and_an_error_one_line_of_usage(monkeypatch, capsys):
    for argument, code in ("--help", 0), ("--blocks=x", 2):
        monkeypatch.setattr(sys, "argv", ["run_cifar.py", argument])
        with pytest.raises(SystemExit) as caught:
            run_cifar.main()
        assert caught.value.code == code
        printed, errors = capsys.readouterr()
        if argument == "--help":
            words = " ".join(printed.split())
            assert "learning rate; default: 0.05" in words and "default: 64 128 256" in words
            assert "default: None" not in words and "default: False" not in words
        else:
            assert len(errors.splitlines()) == 2 and "argument --blocks" in errors


def test_where_the_data_are(tmp_path, monkeypatch):
    folder, names = tmp_path / "sets", ("cifar-10-batches-py", "cifar-10-python.tar.gz")
    (folder / names[0]).mkdir(parents=True)
    for given in folder, folder / names[0], tmp_path:
        assert data_folder(given, names) == folder
    (tmp_path / "file").touch()
    for wrong, message in ("file", "is a file: expected the folder"), ("absent", "no such folder"):
        with pytest.raises(ValueError, match=message):
            data_folder(tmp_path / wrong, names)
    assert "no such folder" in run_script(SCRIPT, "--data", tmp_path / "mistyped", ok=False)
    assert not (tmp_path / "mistyped").exists()
    assert data_folder(Path("data"), names) == Path("data"), "the default one is made"


def test_from_the_folder_above_a_clone_of_the_packages_name(tmp_path):
    """Its name alone would make Python take the clone for the package: what is on the path comes first."""
    (tmp_path / "tinyres").symlink_to(SCRIPT.parent)
    done = subprocess.run([sys.executable, "-c", "import tinyres; print(tinyres.Tensor)"], cwd=tmp_path,
                          env={**os.environ, "PYTHONPATH": str(SCRIPT.parent)}, capture_output=True,
                          text=True)
    assert "tinyres.tensor.Tensor" in done.stdout, done.stderr
    assert 'package-dir = {"" = "."}' in (SCRIPT.parent / "pyproject.toml").read_text()


def test_evaluate_and_resume_remember_where_the_data_were(straight, monkeypatch):
    out, _ = straight
    saved = json.loads((out / "config.json").read_text())["data"]
    assert saved == str(Path("data").absolute())
    for arguments in ["--evaluate", str(out / "checkpoint.npz")], ["--resume", "--out", str(out)]:
        monkeypatch.setattr(sys, "argv", ["run_cifar.py", *arguments])
        assert run_cifar.read_settings()[0].data == Path(saved)
        monkeypatch.setattr(sys, "argv", ["run_cifar.py", *arguments, "--data", "elsewhere"])
        assert run_cifar.read_settings()[0].data == Path("elsewhere")


def test_runs_of_other_rates_and_lengths_have_folders_of_their_own(monkeypatch):
    names = set()
    for arguments in [], ["--lr", "0.01"], ["--steps", "9"], ["--epochs", "9"]:
        monkeypatch.setattr(sys, "argv", ["run_cifar.py", *arguments])
        names.add(run_cifar.read_settings()[1].out.name)
    assert names == {f"cifar10-residual-9x64-128-256-{part}-seed0" for part in (
        "50000steps-lr0.05", "50000steps-lr0.01", "9steps-lr0.05", "9epochs-lr0.05")}
