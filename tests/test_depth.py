"""The experiment on depth: which runs it makes, how it goes on, what it draws."""
from __future__ import annotations

import json
import sys

import numpy
import pytest

import tinyres as tr
from tinyres.experiments import depth
from tinyres.experiments.depth import Experiment, Setting, fitted_slope, make_run, read_results

COMMON = dict(dataset="shapes", widths=[4], epochs=1, batch_size=8, weight_decay=0.0, initial_scale=0.3)
TINY = ["--dataset", "shapes", "--widths", "4", "--epochs", "1", "--batch-size", "8", "--weight-decay", "0",
        "--lrs", "0.02", "0.01", "--backend", "numpy"]


def line(setting: Setting, held_out_error: float) -> dict[str, object]:
    return {**COMMON, **setting._asdict(), "held_out_error": held_out_error}


@pytest.fixture
def small(monkeypatch):
    """Shapes of which 90 are trained on and 10 held out."""
    monkeypatch.setitem(depth.DATASETS, "shapes", lambda root: tr.datasets.shapes(100, 20))


def test_the_best_rate_is_chosen_on_held_out_images_and_other_seeds_are_run_with_it():
    experiment = Experiment([1], [0.1, 0.01], [0, 1], COMMON)
    assert len(experiment.runs_left([])) == 6
    results = [line(Setting("residual", 1, 0.1, 0), 0.5)]
    assert experiment.best_lr(results, "residual", 1) is None
    results.append(line(Setting("residual", 1, 0.01, 0), 0.4))
    assert experiment.best_lr(results, "residual", 1) == 0.01
    assert experiment.runs_left(results)[0] == Setting("residual", 1, 0.01, 1)
    assert experiment.runs_left(results)[1] == Setting("plain", 1, 0.1, 0)
    assert [found["lr"] for found in experiment.finished(results, "residual", 1)] == [0.01]


def test_results_of_other_settings_do_not_count():
    experiment = Experiment([1], [0.1], [0], {**COMMON, "epochs": 2})
    assert len(experiment.runs_left([line(Setting("residual", 1, 0.1, 0), 0.5)])) == 2


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
    (tmp_path / "results.jsonl").write_text("".join(lines[:-1]))  # the checkpoint of the last run is there
    depth.main()
    assert "1 runs left" in capsys.readouterr().out and (tmp_path / "depth.png").exists()
    assert json.loads(lines[-1]) == read_results(tmp_path / "results.jsonl")[-1]


def test_a_run_that_diverges_is_a_result(tmp_path):
    experiment = Experiment([1], [1e9], [0], COMMON)
    result = make_run(experiment, Setting("residual", 1, 1e9, 0), tr.datasets.shapes(100, 20), tmp_path)
    assert result["diverged"] and result["held_out_error"] == result["test_error"] == 1


def test_nothing_is_trained_on_the_held_out_images(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(depth, "train", lambda network, optimizer, schedule, dataset, run, **options:
                        seen.append(dataset) or [{"step": options["steps"], "residual_ratios": [0.1]}])
    data = tr.datasets.shapes(100, 20)
    make_run(Experiment([1], [0.1], [0], COMMON), Setting("residual", 1, 0.1, 0), data, tmp_path)
    assert (seen[0].train.images == data.train.images[:90]).all()
    assert (seen[0].test.images == data.train.images[90:]).all()


def test_a_folder_of_another_experiment_and_a_damaged_file_are_refused(tmp_path):
    setting, data = Setting("residual", 1, 0.01, 0), tr.datasets.shapes(100, 20)
    make_run(Experiment([1], [0.01], [0], COMMON), setting, data, tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        make_run(Experiment([1], [0.01], [0], {**COMMON, "epochs": 2}), setting, data, tmp_path)
    (tmp_path / "results.jsonl").write_text('{"a": 1}\n{"a"')
    with pytest.raises(ValueError, match="line 2"):
        read_results(tmp_path / "results.jsonl")
