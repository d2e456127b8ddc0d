"""Settings: made once of four layers, frozen, declared together with their options, saved in checkpoints."""
from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy
import pytest

import run_cifar
import run_imagenet
import tinyres as tr
from tinyres.cli.launch import build_optimizer, build_schedule, in_precision
from tinyres.cli.options import Parser, flag, option, positive_float, positive_int
from tinyres.training import load_checkpoint, save_checkpoint

SCRIPTS = [run_cifar, run_imagenet]


def read(monkeypatch: pytest.MonkeyPatch, script: ModuleType, *arguments: object) -> tuple:
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
    return script.read_settings()


def save(folder: Path, config: dict[str, object]) -> None:
    """A checkpoint of one residual block a stage."""
    network = tr.models.cifar_net(10, 1, config["widths"])
    save_checkpoint(folder / "checkpoint.npz", network, tr.optim.SGD(network.parameters(), 0.1), 3, config)


@pytest.mark.parametrize("script", SCRIPTS)
def test_nothing_changes_settings(monkeypatch, script):
    settings, launch, _ = read(monkeypatch, script, "--widths", 4, 8, 8, 8)
    for made in settings, launch:
        for field in dataclasses.fields(made):
            value = getattr(made, field.name)
            assert not isinstance(value, list), f"{field.name} could be changed in place"
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(made, field.name, value)


def test_paper_then_preset_then_checkpoint_then_command_line(monkeypatch, tmp_path):
    save(tmp_path, {"blocks": 1, "widths": [4, 8], "lr": 0.03, "steps": 10, "initial_scale": None})
    settings, launch, checkpoint = read(monkeypatch, run_cifar, "--laptop", "--resume", "--out", tmp_path,
                                        "--steps", "20")
    assert settings.momentum == 0.9, "the paper's"
    assert settings.crop_padding == 4 and settings.schedule == "one-cycle", "the preset's"
    assert settings.lr == 0.03 and settings.initial_scale is None, "the checkpoint's, not the preset's"
    assert settings.steps == 20, "the command line's, not the checkpoint's"
    assert (launch.out, launch.resume, checkpoint.step) == (tmp_path, True, 3)
    assert read(monkeypatch, run_cifar, "--laptop", "--lr", "0.5")[0].lr == 0.5
    assert read(monkeypatch, run_cifar, "--demo")[1].out == Path("runs/demo")


@pytest.mark.parametrize("script", SCRIPTS)
def test_adam_has_a_rate_and_a_folder_of_its_own(monkeypatch, script):
    def adam(*arguments):
        return read(monkeypatch, script, *arguments, "--optimizer", "adam")[0]
    assert adam().lr == adam("--demo").lr == 0.001 and adam("--lr", 0.01).lr == 0.01
    assert "-adam-lr0.001-" in adam().name() and "adam" not in read(monkeypatch, script)[0].name()


def test_optimizers_and_schedules_are_those_of_their_names():
    def learned(**changes):
        settings = run_cifar.CifarSettings(lr=0.4, steps=8, **changes)
        return (build_optimizer(settings, tr.nn.Linear(2, 1), None),
                [build_schedule(settings, lambda step: 7.0)(step) for step in (0, 4)])
    optimizer, rates = learned()
    assert (type(optimizer), optimizer.momentum, optimizer.weight_decay) == (tr.optim.SGD, 0.9, 1e-4)
    assert rates == [7, 7] and learned(schedule="cosine")[1] == pytest.approx([0.4, 0.2])
    assert learned(schedule="one-cycle")[1] == [tr.optim.one_cycle(0.4, 8)(step) for step in (0, 4)]
    optimizer, _ = learned(optimizer="adam", momentum=0.8, weight_decay=0.5)
    assert (type(optimizer), optimizer.betas, optimizer.weight_decay) == (tr.optim.Adam, (0.8, 0.999), 0.5)


def test_a_run_with_adam_goes_on_where_it_stopped(main, tmp_path):
    start = ["--dataset", "shapes", "--blocks", 1, "--widths", 2, 4, "--batch-size", 8, "--optimizer", "adam"]
    main(run_cifar, None, *start, "--steps", 4, "--out", tmp_path / "straight")
    main(run_cifar, None, *start, "--steps", 2, "--out", tmp_path / "parts")
    main(run_cifar, None, "--resume", "--steps", 4, "--out", tmp_path / "parts")
    straight, parts = (load_checkpoint(tmp_path / name / "checkpoint.npz") for name in ("straight", "parts"))
    for ours, theirs in zip(straight[:2], parts[:2], strict=True):
        assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    assert straight.optimizer["steps"].tolist() == [4.0] * 5


def test_without_arguments_a_run_is_the_papers(monkeypatch):
    cifar, imagenet = run_cifar.CifarSettings(), run_imagenet.ImagenetSettings()
    assert [read(monkeypatch, script)[0] for script in SCRIPTS] == [cifar, imagenet]
    assert cifar.differences() == imagenet.differences() == "nothing"
    assert (cifar.blocks, cifar.widths, cifar.steps, cifar.lr) == (9, (64, 128, 256), 50_000, 0.05)
    assert (imagenet.blocks, imagenet.steps, imagenet.lr) == ((3, 4, 6, 3), 700_000, 0.1)


COMMON = {"precision", "widths", "steps", "epochs", "batch_size", "lr", "momentum", "weight_decay",
          "evaluate_every", "seed", "data", "blocks", "network", "initial_scale", "held_out", "schedule",
          "optimizer"}


@pytest.mark.parametrize("script, names", [
    (run_cifar, COMMON | {"dataset", "crop_padding", "lr_drops"}),
    (run_imagenet, COMMON | {"lr_decay", "min_area", "size"})])
def test_a_checkpoint_has_the_settings_under_the_names_of_today(monkeypatch, tmp_path, script, names):
    arguments = ["--widths", 4, 8, "--blocks", *([1] if script is run_cifar else [1, 1])]
    settings, _, _ = read(monkeypatch, script, *arguments)
    config = json.loads(json.dumps(settings.config()))
    assert config == settings.config(), "JSON has no tuples"
    assert config.keys() == names and config["widths"] == [4, 8] and config["epochs"] is None
    assert config["data"] == str(settings.data.absolute())
    save(tmp_path, config)
    again, _, _ = read(monkeypatch, script, "--resume", "--out", tmp_path)
    again, settings = (dataclasses.replace(made, data=made.data.absolute()) for made in (again, settings))
    assert again == settings


@pytest.mark.parametrize("script", SCRIPTS)
def test_which_network_was_plain_or_not_until_there_were_four(monkeypatch, tmp_path, script):
    def resumed(plain, *typed):
        blocks = 1 if script is run_cifar else [1, 1]
        save(tmp_path, {"blocks": blocks, "widths": [4, 8], "steps": 10, "plain": plain})
        return read(monkeypatch, script, "--resume", "--out", tmp_path, *typed)[0].network
    assert [resumed(plain) for plain in (True, False)] == ["plain", "residual"]
    assert resumed(True, "--plain") == resumed(True, "--network", "plain") == "plain"
    for plain, typed in (False, ["--plain"]), ("yes", []), ([True], []):
        with pytest.raises(SystemExit):
            resumed(plain, *typed)
    assert read(monkeypatch, script, "--plain")[0] == read(monkeypatch, script, "--network", "plain")[0]


class Third(tr.nn.ResidualBlock):
    """A block of three convolutions."""
    def __init__(self, in_channels, out_channels, stride=1, **options):
        super().__init__(in_channels, out_channels, stride, **options)
        self.conv3 = tr.nn.Conv2d(out_channels, out_channels, 3, padding=1, rng=options["rng"])

    def h(self, x):
        return self.conv3(tr.relu(super().h(x)))


def of_layers(classes, *settings, **options):
    """A network of other classes."""
    return tr.nn.Sequential(tr.nn.Conv2d(3, 4, 3, stride=4), tr.relu, tr.global_avg_pool2d,
                            tr.nn.Linear(4, classes))


@pytest.fixture
def main(monkeypatch, tmp_path, capsys):
    """A script on few small pictures, with networks that a function makes: what it prints."""
    tr.datasets.save_as_folder(tr.datasets.shapes(24, 12, size=40), tmp_path / "pictures")
    monkeypatch.setitem(run_cifar.DATASETS, "shapes", lambda root: tr.datasets.shapes(24, 12))

    def run(script: ModuleType, made: Callable[..., tr.nn.Module] | None, *arguments: object) -> str:
        with monkeypatch.context() as changes:
            name = "cifar_net" if script is run_cifar else "imagenet_net"
            original = getattr(tr.models, name)
            if made:
                changes.setattr(tr.models, name, functools.partial(original, block=made) if made is Third
                                else made)
            data = [] if script is run_cifar else ["--data", tmp_path / "pictures"]
            changes.setattr(sys, "argv", [f"{script.__name__}.py", "--backend", "numpy",
                                          *map(str, [*data, *arguments])])
            script.main()
        return capsys.readouterr().out
    return run


@pytest.mark.parametrize("script, start, layers", [
    (run_cifar, ["--dataset", "shapes", "--blocks", 1], "10 convolutions"),
    (run_imagenet, ["--blocks", 1, 1, 1, "--size", 32], "11 layers")])
def test_other_blocks_are_counted_resumed_and_evaluated(main, tmp_path, script, start, layers):
    start = [*start, "--widths", 2, 4, 4, "--batch-size", 8]
    out, paper = tmp_path / "own", tmp_path / "paper"
    assert layers in main(script, Third, *start, "--steps", 2, "--out", out)
    assert "step 3/3" in main(script, Third, "--resume", "--steps", 3, "--out", out)
    assert "step 3, test loss" in main(script, Third, "--evaluate", out / "checkpoint.npz")
    main(script, None, *start, "--steps", 1, "--out", paper)
    wrong = "not those of the network that its settings describe: the state does not fit this Residual.*: "
    for made, folder, what in (None, out, "missing .*, unknown"), (Third, paper, "missing"):
        for arguments in ["--resume", "--steps", 9, "--out", folder], ["--evaluate",
                                                                       folder / "checkpoint.npz"]:
            with pytest.raises(ValueError, match=rf"{wrong}{what} \['blocks.0.conv3.weight'"):
                main(script, made, *arguments)


@pytest.mark.parametrize("script, layers", [(run_cifar, "1 convolutions"), (run_imagenet, "2 layers")])
def test_networks_of_other_classes_are_too(main, tmp_path, script, layers):
    start = ["--dataset", "shapes"] if script is run_cifar else ["--size", 32]
    assert f"network of {layers}" in main(script, of_layers, *start, "--steps", 1, "--batch-size", 8,
                                          "--out", tmp_path), "the settings are those of the paper's network"
    assert "step 2/2" in main(script, of_layers, "--resume", "--steps", 2, "--out", tmp_path)
    assert "step 2, test loss" in main(script, of_layers, "--evaluate", tmp_path / "checkpoint.npz")
    if script is run_cifar:
        main(script, of_layers, "--evaluate", tmp_path / "checkpoint.npz", "--pictures", tmp_path / "drawn")
        assert {path.stem for path in (tmp_path / "drawn").iterdir()} == {"kernels", "confusion", "answers",
                                                                          "mistakes"}, "there are no blocks"
    with pytest.raises(ValueError, match="float16 is for a ResidualNetwork, got a Sequential"):
        in_precision("float16", of_layers(10))
    with pytest.raises(ValueError, match=r"missing \['blocks.0.conv1.weight', .* in all"):
        main(script, None, "--evaluate", tmp_path / "checkpoint.npz")


@pytest.mark.parametrize("name, widths, ratios", [
    ("plain", (4, 8), None), ("batch-norm", (4, 8), 2), ("all-convolutional", (4, 6), None)])
def test_a_network_by_name_is_trained_resumed_shared_exported_and_asked(main, tmp_path, name, widths, ratios):
    blocks = [] if name == "all-convolutional" else ["--blocks", 1]
    start = ["--dataset", "shapes", "--network", name, *blocks, "--widths", *widths, "--batch-size", 8,
             "--processes", 2]
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    assert f"; {name} network of " in main(run_cifar, None, *start, "--steps", 4, "--out", straight)
    main(run_cifar, None, *start, "--steps", 2, "--out", parts)
    main(run_cifar, None, "--resume", "--steps", 4, "--processes", 2, "--out", parts)
    whole, resumed = (load_checkpoint(folder / "checkpoint.npz") for folder in (straight, parts))
    assert whole.config["network"] == name and whole.model.keys() == resumed.model.keys()
    assert all((whole.model[key] == resumed.model[key]).all() for key in whole.model), "dropout's masks too"
    last = json.loads((straight / "metrics.jsonl").read_text().splitlines()[-1])
    assert len(last.get("residual_ratios", [])) == (ratios or 0)
    evaluate = "--evaluate", straight / "checkpoint.npz"
    assert f"test error {last['test_error']:.2%}" in main(run_cifar, None, *evaluate)
    main(run_cifar, None, *evaluate, "--export", tmp_path / "network.npz")
    main(run_cifar, None, "--evaluate", tmp_path / "network.npz", "--pictures", tmp_path / "drawn")
    assert len(list((tmp_path / "drawn").iterdir())) == (5 if ratios else 4)
    picture = next((tmp_path / "pictures").rglob("*.JPEG"))
    assert f"{picture}: " in main(run_cifar, None, "--evaluate", tmp_path / "network.npz", "--classify",
                                  picture)
    exported = tr.models.pretrained(tmp_path / "network.npz").state_dict()
    for key, value in whole.model.items():
        if value.dtype == "float32":
            numpy.testing.assert_allclose(exported[key], value, rtol=1e-3, atol=1e-7)


def test_all_cnn_c_has_widths_of_its_own(monkeypatch, capsys, main):
    settings = read(monkeypatch, run_cifar, "--network", "all-convolutional")[0]
    assert settings.widths == (96, 192) and settings.title() == "cifar10-all-convolutional-96-192"
    assert read(monkeypatch, run_cifar, "--network", "all-convolutional", "--widths", 4, 8)[0].widths[0] == 4
    with pytest.raises(SystemExit):
        read(monkeypatch, run_imagenet, "--network", "all-convolutional")
    assert "invalid choice: 'all-convolutional'" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"all_convolutional_net: expected two widths .* got widths \[4\]"):
        main(run_cifar, None, "--dataset", "shapes", "--network", "all-convolutional", "--widths", 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class General:
    rate: float = option(dataclasses.MISSING, "how fast", positive_float)
    steps: int | None = option(None, "how far", positive_int, "N", exclusive="length")
    hours: int | None = option(None, "how long; default: for ever", positive_int, "N", exclusive="length")
    dry: bool = flag("without water")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Special(General):
    rate: float = 0.5
    stages: tuple[int, ...] = option((1, 2), "where", positive_int, nargs="+")


def test_options_are_what_the_fields_declare(capsys):
    parser = Parser("What it does.", Special)
    assert parser.typed([]) == {} and Special(**parser.typed([])) == Special(rate=0.5)
    typed = parser.typed(["--stages", "3", "4", "--dry", "--rate=2"])
    assert Special(**typed) == Special(rate=2.0, dry=True, stages=(3, 4))
    words = " ".join(parser.format_help().split())
    for text in ("how fast; default: 0.5", "where; default: 1 2", "--dry without water",
                 "how far --hours N how long; default: for ever"):
        assert text in words, words
    assert "None" not in words and "False" not in words and "MISSING" not in words
    with pytest.raises(SystemExit):
        parser.typed(["--steps", "1", "--hours", "1"])
    assert "--hours: not allowed with argument --steps" in capsys.readouterr().err
