"""The comparison of four networks: that they cost the same, which runs it makes, what it draws."""
from __future__ import annotations

import json
import math
import sys
from contextlib import closing

import pytest

import tinyres as tr
from tinyres.experiments import networks, sweep
from tinyres.training.folder_lock import FolderLock


def test_the_networks_cost_the_same():
    cost = {name: networks.multiply_adds(tr.models.named_net(name, 10, 1, contender.widths))
            for name, contender in networks.CONTENDERS.items()}
    assert cost.keys() == set(tr.models.NETWORKS) and cost["residual"] == 57_065_472
    assert all(abs(other / cost["residual"] - 1) < 0.05 for other in cost.values())
    by_hand = 9 * 3 * 4 * 32**2 + (9 * 4 * 4 + 9 * 4 * 4) * 32**2
    assert networks.multiply_adds(tr.models.cifar_net(blocks=1, widths=(4,))) == by_hand


@pytest.mark.parametrize("losses, largest", [
    ([1.5, 2.0, None], 0.2), ([2.3, 2.0, 1.9], 0.4), ([2.3, None, 2.25], 0), ([], 0)])
def test_a_network_trains_where_its_loss_is_below_that_of_guessing(losses, largest):
    lines = [{"lr": lr, "loss": loss} for lr, loss in zip((0.1, 0.2, 0.4), losses, strict=False)]
    assert networks.largest_rate(lines) == largest and 2.0 < networks.TRAINS < math.log(10)


def test_the_command_makes_all_runs_and_goes_on_where_it_stopped(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sweep.DATASETS, "shapes", lambda root: tr.datasets.shapes(40, 10))
    narrow = {name: networks.CONTENDERS[name]._replace(widths=widths)
              for name, widths in (("residual", (4,)), ("all-convolutional", (2, 3)))}
    for name, value in dict(CONTENDERS=narrow, RATES=[0.05, 1e9], SHORT_STEPS=3, LAST_STEPS=2).items():
        monkeypatch.setattr(networks, name, value)
    monkeypatch.setattr(sys, "argv", ["networks", "--dataset", "shapes", "--epochs", "2", "--batch-size",
                                      "12", "--lrs", "0.02", "--out", str(tmp_path), "--backend", "numpy"])
    networks.main()
    printed, results = capsys.readouterr().out, sweep.read_results(tmp_path / "results.jsonl")
    assert printed.count("The next: short-") == 4 and printed.count("2 runs left") == 2
    assert [line["network"] for line in results] == [name for name in narrow for _ in range(2)]
    assert all([step for step, _ in line["held_out_errors"]] == [3, 6] for line in results)
    assert all(line["held_out_errors"][-1][1] == line["held_out_error"] for line in results)
    rates = [json.loads(line) for line in (tmp_path / "results-rates.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in rates] == [0.05, 1e9] * 2 and rates[1]["loss"] is rates[3]["loss"] is None
    assert all(0 < line["loss"] < 9 for line in rates[::2])
    table = [line.split() for line in printed.splitlines()[-2:]]
    assert [row[0] for row in table] == list(narrow) and table[0][1:3] == ["396", "405,504"], printed
    for name in "networks.png", "bars.png":
        assert (tmp_path / name).stat().st_size > 10_000
        (tmp_path / name).unlink()

    for file, again in ("results-rates.jsonl", "The next: short-"), ("results.jsonl", "1 runs left"):
        path = tmp_path / file
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:-1]) + lines[-1][:30])  # as where the disk was full
        networks.main()
        assert capsys.readouterr().out.count(again) == 1 and (tmp_path / "bars.png").exists()
        assert path.read_text() == "".join(lines)

    options = networks.Options(dataset="shapes", epochs=2, batch_size=12, lrs=(0.02,), out=tmp_path)
    with closing(FolderLock(tmp_path, [])), pytest.raises(RuntimeError, match="another run is writing to"):
        networks.try_rates(options, tmp_path / "results-rates.jsonl")
