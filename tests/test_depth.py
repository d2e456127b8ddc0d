"""The experiment on depth, and what it has in common with others: which runs it makes, how it goes on, what
it draws."""
from __future__ import annotations

import json
import os
import signal
import sys

import numpy
import pytest

import tinyres as tr
from tinyres.experiments import depth, sweep
from tinyres.experiments.depth import fitted_slope
from tinyres.experiments.sweep import Sweep, make_run, read_results
from tinyres.training import loop

COMMON = dict(dataset="shapes", widths=[4], epochs=1, batch_size=8, weight_decay=0.0, initial_scale=0.3)
TINY = ["--dataset", "shapes", "--widths", "4", "--epochs", "1", "--batch-size", "8", "--weight-decay", "0",
        "--lrs", "0.02", "0.01", "--backend", "numpy"]


def config(kind: str, blocks: int, lr: float, seed: int) -> dict[str, object]:
    return {**COMMON, "kind": kind, "blocks": blocks, "lr": lr, "seed": seed}


def cases(*blocks: int) -> list[dict[str, object]]:
    return [{"kind": kind, "blocks": number} for number in blocks for kind in depth.KINDS]


def small_run(folder, settings, data=None):
    return make_run(folder, settings, depth.build(settings, 10), data or tr.datasets.shapes(100, 20))


@pytest.fixture
def small(monkeypatch):
    """Shapes of which 90 are trained on and 10 held out."""
    monkeypatch.setitem(sweep.DATASETS, "shapes", lambda root: tr.datasets.shapes(100, 20))


def test_the_best_rate_is_chosen_on_held_out_images_and_other_seeds_are_run_with_it():
    runs = Sweep(cases(1), [0.1, 0.01], [0, 1], COMMON)
    residual, _ = runs.cases
    assert len(runs.runs_left()) == 6
    runs.results.append({**config("residual", 1, 0.1, 0), "held_out_error": 0.5})
    assert runs.best_lr(residual) is None and runs.finished(residual) == []
    runs.results.append({**config("residual", 1, 0.01, 0), "held_out_error": 0.4})
    assert runs.best_lr(residual) == 0.01
    assert runs.runs_left()[:2] == [config("residual", 1, 0.01, 1), config("plain", 1, 0.1, 0)]
    assert [found["lr"] for found in runs.finished(residual)] == [0.01]


def test_results_of_other_settings_do_not_count():
    results = [{**config("residual", 1, 0.1, 0), "held_out_error": 0.5}]
    assert len(Sweep(cases(1), [0.1], [0], {**COMMON, "epochs": 2}, results).runs_left()) == 2


def test_the_slope_of_a_power_law():
    x = numpy.array([3, 6, 27])
    assert fitted_slope(x, 5 * x**-0.75) == pytest.approx(-0.75)


def test_the_command_makes_all_runs_and_goes_on_where_it_stopped(small, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["depth", *TINY, "--blocks", "1", "2", "--out", str(tmp_path)])
    depth.main()
    printed = capsys.readouterr().out
    assert "12 runs left" in printed and "hours" in printed
    results = read_results(tmp_path / "results.jsonl")
    assert len(results) == 12 and {found["convolutions"] for found in results} == {3, 5}
    assert all({"train_error", "held_out_error", "test_error", "steps"} <= found.keys() for found in results)
    ratios = [found["residual_ratios"] for found in results if found["kind"] == "residual"]
    assert [len(each) for each in ratios] == [1] * 3 + [2] * 3
    for name in "depth.png", "identity.png":
        assert (tmp_path / name).stat().st_size > 10_000
        (tmp_path / name).unlink()

    lines = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    metrics = tmp_path / f"plain-2-lr{json.loads(lines[-1])['lr']}-seed1" / "metrics.jsonl"
    for cut, left in (len(lines[-1]), ""), (len(lines[-1]), '{"st'), (1, None), (len(lines[-1]) - 5, None):
        # the last line is absent, or lacks its newline, or was cut off; the run's checkpoint is there
        (tmp_path / "results.jsonl").write_text("".join(lines)[:-cut])
        if left is not None:
            metrics.write_text(left)
        depth.main()
        assert ("1 runs left" in capsys.readouterr().out) == (cut > 1) and (tmp_path / "depth.png").exists()
        assert [json.loads(each) for each in lines] == read_results(tmp_path / "results.jsonl")


def test_a_signal_in_the_last_evaluation_of_a_run_ends_the_experiment(small, monkeypatch, tmp_path):
    def evaluate(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": 1.0, "error": 0.5}

    monkeypatch.setattr(sys, "argv", ["depth", *TINY, "--blocks", "1", "--out", str(tmp_path)])
    monkeypatch.setattr(loop, "evaluate", evaluate)
    with pytest.raises(SystemExit) as caught:
        depth.main()
    assert caught.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "results.jsonl").exists() and len(list(tmp_path.glob("*-seed*"))) == 1


def test_a_block_whose_activations_are_all_zero_has_a_ratio(tmp_path):
    errors = dict.fromkeys(("train_error", "held_out_error", "test_error"), 0.5)
    lines = [{**config("residual", blocks, 0.1, 0), "convolutions": 1 + 2 * blocks, **errors,
              "residual_ratios": [0.0] * blocks} for blocks in (1, 2)]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = read_results(tmp_path / "results.jsonl")
    depth.draw_identity(tmp_path / "identity.png", Sweep(cases(1, 2), [0.1], [0], COMMON, results))
    assert (tmp_path / "identity.png").exists()


def test_a_run_that_diverges_is_a_result(tmp_path):
    result = small_run(tmp_path, config("residual", 1, 1e9, 0))
    assert result["diverged"] and result["held_out_error"] == result["test_error"] == 1


def test_nothing_is_trained_on_the_held_out_images(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(sweep, "train", lambda network, optimizer, schedule, dataset, run, **options:
                        seen.append(dataset))
    data = tr.datasets.shapes(100, 20)
    small_run(tmp_path, config("residual", 1, 0.1, 0), data)
    assert (seen[0].train.images == data.train.images[:90]).all()
    assert (seen[0].test.images == data.train.images[90:]).all()


def test_a_folder_of_another_experiment_and_a_damaged_file_are_refused(tmp_path):
    settings, results = config("residual", 1, 0.01, 0), tmp_path / "results.jsonl"
    small_run(tmp_path, settings)
    with pytest.raises(ValueError, match="other settings"):
        small_run(tmp_path, {**settings, "epochs": 2})
    with pytest.raises(ValueError, match="batch_size 91 is more than the 90 images"):
        small_run(tmp_path, {**settings, "batch_size": 91})
    good = {"convolutions": 3, "train_error": 0.1, "held_out_error": 0.1, "test_error": 0.1}
    for bad in ("5", "null", "{}", '"step"', "[" * 10**5, "\xff\0", '{"a"',
                *(json.dumps(good | bad) for bad in (
                    {"test_error": 2}, {"residual_ratios": [-1]}, {"convolutions": None},
                    {"residual_ratios": []}, {"held_out_errors": [[0.5, 0.5]]},
                    {"held_out_errors": [[1, 2]]}))):
        results.write_text(f"{json.dumps(good)}\n{bad}\n", encoding="latin-1")
        with pytest.raises(ValueError, match="results.jsonl, line 2 is "):
            read_results(results)
