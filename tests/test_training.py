import inspect
import json
import os
import shutil
import signal
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy
import pytest
from PIL import Image

import tinyres as tr
from tinyres.datasets import Dataset, Split
from tinyres.datasets.augment import standardize
from tinyres.fast.gpu import capture
from tinyres.support.diverged import Diverged
from tinyres.training import (
    Run,
    draw_curves,
    evaluate,
    load_checkpoint,
    loop,
    loss_and_error,
    read_metrics,
    save_checkpoint,
    train,
)
from tinyres.training.run_folder import RUN_FILES
from tinyres.training.signals import STOPPING


def small_dataset(xp):
    """40 images of two classes that grow brighter, or darker, from top to bottom."""
    rng = numpy.random.default_rng(0)
    labels = numpy.arange(40) % 2
    slope = numpy.linspace(-60, 60, 8) * (2 * labels[:, None] - 1)
    pixels = 128 + slope[:, :, None, None] + rng.normal(0, 10, (40, 8, 8, 3))
    split = Split(xp.asarray(pixels.clip(0, 255).astype("uint8")), xp.asarray(labels))
    return Dataset(split, Split(split.images[:7], split.labels[:7]), ("down", "up"))


def small_run(xp, out, steps, first_step=0, lr=0.05, schedule=None, data=None, compute=loss_and_error,
              **options):
    """Train a small network, from the checkpoint in `out` if first_step > 0: (net, optimizer, metrics).

    options: of the Run.
    """
    net = small_run.net = tr.models.cifar_net(2, blocks=1, widths=(4, 8), seed=1)
    optimizer = tr.optim.SGD(net.parameters(), lr, 0.9, 1e-4)
    if first_step:
        checkpoint = load_checkpoint(out / "checkpoint.npz")
        assert checkpoint.step == first_step
        net.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(checkpoint.optimizer)
    options = {"metrics_every": 10, "evaluate_every": 10, **options}
    run = Run(out, {"lr": lr}, seed=3, step=first_step, **options)
    metrics = train(net, optimizer, schedule or tr.optim.step_decay(lr, [20]), data or small_dataset(xp), run,
                    steps=steps, batch_size=8, compute=compute)
    return net, optimizer, metrics


def states(net, optimizer):
    return {**net.state_dict(), **optimizer.state_dict()}


def test_a_resumed_run_is_byte_for_byte_the_undisturbed_one(xp, tmp_path):
    net, optimizer, metrics = small_run(xp, tmp_path / "straight", 30)
    expected = states(net, optimizer)
    small_run(xp, tmp_path / "parts", 15)
    net, optimizer, resumed = small_run(xp, tmp_path / "parts", 30, first_step=15)
    for name, value in states(net, optimizer).items():
        assert value.tobytes() == expected[name].tobytes(), name
    figures = [{k: v for k, v in line.items() if k != "images_per_second"} for line in metrics]
    later = [{k: v for k, v in line.items() if k != "images_per_second"} for line in resumed]
    assert later[-1] == figures[-1]


def test_it_learns_and_writes_what_it_says(xp, tmp_path):
    _, _, (start, *metrics) = small_run(xp, tmp_path, 60, evaluate_every=25)
    assert metrics[-1]["test_error"] <= 0.1 and metrics[-1]["train_loss"] < metrics[0]["train_loss"]
    assert read_metrics(tmp_path / "metrics.jsonl") == [start, *metrics]
    assert start.keys() == {"step", "residual_ratios"} and start["step"] == 0
    assert len(start["residual_ratios"]) == 2 and start["residual_ratios"] != metrics[-1]["residual_ratios"]
    assert [line["step"] for line in metrics] == [10, 20, 25, 30, 40, 50, 60]
    assert [line["step"] for line in metrics if "test_error" in line] == [25, 50, 60]
    assert metrics[0]["lr"] == 0.05 and metrics[2]["lr"] == pytest.approx(0.005)
    assert set(metrics[0]) == {"step", "lr", "train_loss", "train_error", "images_per_second"}
    assert json.loads((tmp_path / "config.json").read_text()) == {"lr": 0.05}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "checkpoint.npz", "config.json",
                                                                 "curve.png", "identity.png",
                                                                 "metrics.jsonl"]
    assert [len(line["residual_ratios"]) for line in metrics if "residual_ratios" in line] == [2, 2, 2]


@pytest.mark.parametrize("step, stopped, due", [
    (1, False, ""), (10, False, "metrics"), (25, False, "metrics evaluation checkpoint"),
    (26, False, ""), (26, True, "metrics checkpoint end"), (50, True, "metrics evaluation checkpoint end"),
    (60, False, "metrics evaluation checkpoint end"), (60, True, "metrics evaluation checkpoint end")])
def test_what_is_due_when(tmp_path, step, stopped, due):
    run = Run(tmp_path, {}, evaluate_every=25)
    found = run.due(step, 60, 3, stopped)
    assert [name for name, is_due in found._asdict().items() if is_due] == due.split()
    run.last_saved -= 301  # seconds
    assert run.due(step, 60, 3, stopped) == found._replace(checkpoint=True)


@pytest.mark.parametrize("epoch, every", [(3, 3), (0, 1)])  # 0: fewer images than a batch
def test_an_evaluation_is_due_once_an_epoch_unless_told_otherwise(tmp_path, epoch, every):
    run = Run(tmp_path, {})
    assert [step for step in range(1, 8) if run.due(step, 100, epoch, False).evaluation] == list(range(1, 8))[
        every - 1::every]


def test_a_folder_that_is_started_over_holds_the_new_run_alone(tmp_path):
    small_run(numpy, tmp_path, 4, evaluate_every=2)
    _, _, metrics = small_run(numpy, tmp_path, 4, evaluate_every=2, overwrite=True)
    assert [line["step"] for line in metrics] == [0, 2, 4]
    assert read_metrics(tmp_path / "metrics.jsonl") == metrics


def test_a_run_is_not_replaced_without_a_word_and_one_call_goes_on(xp, tmp_path):
    net, optimizer, expected = small_run(xp, tmp_path / "straight", 12)
    small_run(xp, tmp_path / "nb", 5)
    before = {path.name: path.read_bytes() for path in (tmp_path / "nb").iterdir()}
    with pytest.raises(ValueError, match=r"nb already holds a run: .*Run\(...\).resume\(model, optimizer\)"):
        small_run(xp, tmp_path / "nb", 5)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "nb").iterdir()}
    other = tr.models.cifar_net(2, blocks=1, widths=(4, 8), seed=9)
    other_optimizer = tr.optim.SGD(other.parameters(), 0.05, 0.9, 1e-4)
    run = Run(tmp_path / "nb", {}, seed=3, metrics_every=10).resume(other, other_optimizer)
    for steps in 12, 13:  # the same run again, as when a cell is run twice
        metrics = train(other, other_optimizer, tr.optim.step_decay(0.05, [20]), small_dataset(xp), run,
                        steps=steps, batch_size=8)
        if steps == 12:
            assert all((value == states(net, optimizer)[name]).all()
                       for name, value in states(other, other_optimizer).items())
        run.resume(other, other_optimizer)
    assert metrics[-1]["step"] == 13 and metrics[0] == expected[0]
    with pytest.raises(ValueError, match="is at step 13 already: to continue, give more steps"):
        train(other, other_optimizer, lambda step: 0.1, small_dataset(xp), run, steps=13, batch_size=8)
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        Run(tmp_path / "absent", {}).resume(other, other_optimizer)
    with pytest.raises(ValueError, match=r"nb/checkpoint.npz is of another network or optimizer .*mean.0"):
        run.resume(other, tr.optim.Adam(other.parameters()))


def test_a_modules_state_in_a_file(tmp_path):
    module, other = (tr.nn.Sequential(tr.nn.Linear(3, 2), tr.nn.BatchNorm2d(2), tr.nn.Dropout())
                     for _ in range(2))
    module.file = tr.Tensor([numpy.nan])  # a name that NumPy's savez takes for itself
    other.file = tr.Tensor([0.0])
    tr.save(module, str(tmp_path / "m.npz"))
    tr.load(other, tmp_path / "m.npz")
    assert all(value.tobytes() == module.state_dict()[name].tobytes()
               for name, value in other.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]
    with pytest.raises(ValueError, match="build the same network"):
        tr.load(module.layers[0], tmp_path / "m.npz")
    layer = tr.nn.Linear(3, 2)
    save_checkpoint(tmp_path / "c.npz", module.layers[0], tr.optim.SGD(layer.parameters(), 0.1), 1, {})
    tr.load(layer, tmp_path / "c.npz")
    assert (layer.weight.data == module.layers[0].weight.data).all()
    with pytest.raises(FileNotFoundError, match="there is no file"):
        tr.load(layer, tmp_path / "absent.npz")
    whole = (tmp_path / "m.npz").read_bytes()
    for content in b"", whole[:100], b"{}" * 50:
        (tmp_path / "m.npz").write_bytes(content)
        with pytest.raises(ValueError, match="m.npz is not a whole file of tr.save"):
            tr.load(layer, tmp_path / "m.npz")


def test_the_first_training_figures_are_those_of_the_first_steps(xp, tmp_path):
    """With a rate too small to change anything, train_loss is the mean loss of the network as it was made."""
    _, _, metrics = small_run(xp, tmp_path, 5, schedule=lambda step: 1e-12)
    net, data = tr.models.cifar_net(2, blocks=1, widths=(4, 8), seed=1), small_dataset(xp)
    losses, errors = [], []
    for x, labels in tr.datasets.loader.training_batches(data.train, 8, 3, 0, 5):
        logits = net(tr.Tensor(x))
        losses.append(tr.softmax_cross_entropy(logits, labels).item())
        errors.append(float((logits.data.argmax(1) != labels).mean()))
    assert metrics[-1]["train_loss"] == pytest.approx(numpy.mean(losses), rel=1e-5)
    assert metrics[-1]["train_error"] == pytest.approx(numpy.mean(errors))


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_stops_after_the_step_and_saves(xp, tmp_path, number, request):
    def schedule(step):
        if step == 6:
            os.kill(os.getpid(), number)
        return 0.05

    inherited = signal.signal(number, before := signal.default_int_handler)  # under nohup: to ignore it
    request.addfinalizer(lambda: signal.signal(number, inherited))
    _, _, metrics = small_run(xp, tmp_path, 15, schedule=schedule)
    assert metrics[-1]["step"] == 7 and load_checkpoint(tmp_path / "checkpoint.npz").step == 7
    assert signal.getsignal(number) is before
    net, optimizer, _ = small_run(xp, tmp_path, 15, first_step=7, schedule=lambda step: 0.05)
    expected, expected_optimizer, _ = small_run(xp, tmp_path / "straight", 15, schedule=lambda step: 0.05)
    assert all((value == states(expected, expected_optimizer)[name]).all()
               for name, value in states(net, optimizer).items())


def test_a_signal_in_the_last_evaluation_is_not_forgotten(tmp_path, monkeypatch):
    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    net = tr.nn.Sequential(tr.global_avg_pool2d, tr.nn.Linear(3, 2))
    optimizer, run = tr.optim.SGD(net.parameters(), 0.1), Run(tmp_path, {})
    train(net, optimizer, lambda step: 0.1, small_dataset(numpy), run, steps=2, batch_size=8)
    assert run.stopped_by is None
    monkeypatch.setattr(loop, "evaluate", interrupted)
    train(net, optimizer, lambda step: 0.1, small_dataset(numpy), run.resume(net, optimizer), steps=3,
          batch_size=8)
    assert run.stopped_by == signal.SIGTERM and run.metrics[-1]["test_error"] >= 0


def in_folder(out, meanwhile):
    """A run that calls a function after 8 of 20 steps, and has a line each 2, a checkpoint each 5."""
    def schedule(step):
        if step == 8:
            meanwhile()
        return 0.05

    return small_run(numpy, out, 20, schedule=schedule, evaluate_every=5, metrics_every=2)[2]


@pytest.mark.parametrize("removed", ["", ".lock", "metrics.jsonl"])
def test_a_folder_that_is_removed_is_made_again(tmp_path, capsys, removed):
    out = tmp_path / "above" / "out"

    def remove():
        shutil.rmtree(out.parent) if not removed else (out / removed).unlink()

    metrics = in_folder(out, remove)
    assert [line["step"] for line in metrics] == [0, 2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20]
    assert read_metrics(out / "metrics.jsonl") == metrics
    assert load_checkpoint(out / "checkpoint.npz").step == 20
    assert sorted(os.listdir(out)) == sorted([".lock", *RUN_FILES])
    assert f"{out} was removed: it is made again" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_again_at_once(tmp_path, capsys):
    out = tmp_path / "above" / "out"

    def schedule(step):
        if step == 8:
            shutil.rmtree(out.parent), out.parent.touch()
        elif step == 16:
            out.parent.unlink()
        return 0.05

    _, _, metrics = small_run(numpy, out, 20, schedule=schedule, evaluate_every=5, metrics_every=2)
    assert read_metrics(out / "metrics.jsonl") == metrics and metrics[-1]["step"] == 20
    assert load_checkpoint(out / "checkpoint.npz").step == 20
    assert f"could not write {out / 'checkpoint.npz'} ([Errno 20]" in capsys.readouterr().err


@pytest.mark.parametrize("others", ["folder", "lock"])
@pytest.mark.parametrize("ended", [True, False])
def test_a_folder_that_another_run_has_taken_is_left_to_it(tmp_path, others, ended):
    out, second, written = tmp_path / "out", ExitStack(), {}

    def another():
        shutil.rmtree(out) if others == "folder" else (out / ".lock").unlink()
        run = second.enter_context(Run(out, {"second": True}, overwrite=True))
        run.record({"step": 1, "train_loss": 1.0})
        if ended:
            second.close()
        written.update({path.name: path.read_bytes() for path in out.iterdir()})

    with second, pytest.raises(RuntimeError, match=f"{out} was removed, and another run has begun there"):
        in_folder(out, another)
    assert written == {path.name: path.read_bytes() for path in out.iterdir()}
    assert json.loads(written["config.json"]) == {"second": True}


def test_two_runs_of_one_program_in_one_folder(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with Run(tmp_path / "out", {}):
        for name in "out", "link", "out":
            with pytest.raises(RuntimeError, match=f"another run is writing to .*{name}"):
                Run(tmp_path / name, {}).__enter__()
    Run(tmp_path / "link", {}).__enter__().__exit__(None, None, None)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(xp, tmp_path):
    with pytest.raises(Diverged, match=r"is not finite at step 1[34]: .*the last good checkpoint is "
                                       r".*checkpoint.npz. The network has diverged: .* lower learning rate"):
        small_run(xp, tmp_path, 60, schedule=lambda step: 0.05 if step < 12 else 1e20)
    checkpoint = load_checkpoint(tmp_path / "checkpoint.npz")
    assert checkpoint.step == 10
    assert all(numpy.isfinite(value).all() for value in checkpoint.model.values())


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
def test_weights_that_are_not_finite_are_not_saved(xp, tmp_path):
    net = tr.models.cifar_net(2, blocks=1, widths=(4, 8))
    optimizer = tr.optim.SGD(net.parameters(), 0.1)
    save_checkpoint(tmp_path / "c.npz", net, optimizer, 1, {})
    net.stem.weight.data[0, 0, 0, 0] = numpy.nan
    with pytest.raises(Diverged, match="model/stem.weight is not finite at step 2: .*nothing was saved; the "
                                       "last good checkpoint is .*c.npz. The network has diverged"):
        save_checkpoint(tmp_path / "c.npz", net, optimizer, 2, {})
    assert load_checkpoint(tmp_path / "c.npz").step == 1
    with pytest.raises(Diverged, match=r"loss over 7 images \(nan\) is not finite. The network has diverged"):
        evaluate(net, small_dataset(xp).test)


def test_images_that_are_not_finite_are_named(tmp_path):
    data = small_dataset(numpy)
    images = data.train.images.astype("float32")
    images[:, 3, 3, 0] = numpy.nan
    data = data._replace(train=data.train._replace(images=images))
    with pytest.raises(Diverged, match="the batch of images is not finite at step 1: .*data set"):
        small_run(numpy, tmp_path, 5, data=data)


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize("value", [numpy.nan, numpy.inf, -numpy.inf])
def test_a_weight_or_gradient_that_is_not_finite_is_named_with_its_step(tmp_path, monkeypatch, value):
    """An optimizer, and then a convolution, that go wrong at step 12, in one number."""
    def spoil_weight(step):
        if step == 11:
            small_run.net.blocks[1].conv2.weight.data[1, 1, 0, 0] = value
        return 0.05

    with pytest.raises(Diverged, match=r"^blocks.1.conv2.weight is not finite at step 12: "):
        small_run(numpy, tmp_path / "weight", 30, schedule=spoil_weight, evaluate_every=10)

    def spoil_gradient(step):
        if step == 11:
            monkeypatch.setattr(tr.nn, "conv2d", spoiled)
        return 0.05

    def spoiled(x, w, stride, padding):
        out = conv2d(x, w, stride, padding)

        def vjp(g):
            grads = original(g)
            if w is small_run.net.blocks[0].conv1.weight:
                grads[1][0, 0, 0, 0] = value
            return grads

        original, out.node.vjp = out.node.vjp, vjp
        return out

    conv2d = tr.nn.conv2d
    with pytest.raises(Diverged, match=r"^the gradient of blocks.0.conv1.weight is not finite at step 12: .*"
                                       r"the last good checkpoint is .*checkpoint.npz"):
        small_run(numpy, tmp_path / "gradient", 30, schedule=spoil_gradient, evaluate_every=10)
    assert numpy.isfinite(small_run.net.stem.weight.data).all()
    assert load_checkpoint(tmp_path / "gradient" / "checkpoint.npz").step == 10


def test_an_evaluation_that_diverges_within_a_run_names_its_last_good_checkpoint(tmp_path, monkeypatch):
    """Training images are those of before, and the test images are spoiled after the first evaluation."""
    data = small_dataset(numpy)
    test = data.test._replace(images=data.test.images.astype("float32"))

    def spoil_images(step):
        if step == 5:
            test.images[...] = numpy.nan
        return 0.05

    with pytest.raises(Diverged, match=r"the loss over 7 images \(nan\) is not finite; the last good "
                                       r"checkpoint is .*checkpoint.npz. The network has diverged"):
        small_run(numpy, tmp_path, 30, schedule=spoil_images, data=data._replace(test=test), evaluate_every=5)
    assert load_checkpoint(tmp_path / "checkpoint.npz").step == 5


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("label", [-1, 2, None])
def test_labels_out_of_range_and_empty_splits_are_refused_at_once(xp, tmp_path, split, label):
    data = small_dataset(xp)
    good = getattr(data, split)
    if label is None:
        bad, message = Split(good.images[:0], good.labels[:0]), "holds no (training|test) images"
    else:
        bad, message = good._replace(labels=good.labels.copy()), "labels go from .*expected 0 to 1 for 2"
        bad.labels[3] = label
    with pytest.raises(ValueError, match=message):
        small_run(xp, tmp_path / "out", 5, data=data._replace(**{split: bad}))
    assert not (tmp_path / "out").exists()


@contextmanager
def largest_file(size):
    """No file can grow beyond so many bytes meanwhile, as if the disk were full."""
    resource = pytest.importorskip("resource", reason="needs Unix")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def full_disk(first, last):
    """A schedule that fills the disk from a step until another."""
    stack = ExitStack()

    def schedule(step):
        if step == first:
            stack.enter_context(largest_file(100))
        elif step == last:
            stack.close()
        return 0.05

    return stack, schedule


def test_a_full_disk_leaves_the_last_good_files_and_is_named(xp, tmp_path, capsys):
    stack, schedule = full_disk(12, None)
    with stack, pytest.raises(OSError, match="could not write .*checkpoint.npz .*File too large.*; the last "
                                             "good checkpoint is .*checkpoint.npz"):
        small_run(xp, tmp_path, 30, schedule=schedule, evaluate_every=5)
    printed = capsys.readouterr().err
    assert all(f"could not write {tmp_path / name}" in printed for name in RUN_FILES[1:]), printed
    assert load_checkpoint(tmp_path / "checkpoint.npz").step == 10
    Image.open(tmp_path / "curve.png").load()
    assert (tmp_path / "metrics.jsonl").read_text().endswith("}\n")
    assert sorted(os.listdir(tmp_path)) == sorted([".lock", *RUN_FILES])


def test_a_run_outlives_a_full_disk(xp, tmp_path, capsys):
    # capsys: what is printed goes to memory, and not to a file under the same limit
    stack, schedule = full_disk(12, 24)
    with stack:
        net, optimizer, metrics = small_run(xp, tmp_path / "a", 30, schedule=schedule, evaluate_every=5)
    straight, straight_optimizer, _ = small_run(xp, tmp_path / "b", 30, schedule=lambda step: 0.05)
    assert all((value == states(straight, straight_optimizer)[name]).all()
               for name, value in states(net, optimizer).items())
    assert load_checkpoint(tmp_path / "a" / "checkpoint.npz").step == 30
    assert read_metrics(tmp_path / "a" / "metrics.jsonl") == metrics and metrics[-1]["step"] == 30


def test_a_line_that_could_not_be_written_is_written_before_the_next_checkpoint(tmp_path, monkeypatch):
    def fail(path, lines):
        raise OSError("no space")

    net = tr.models.cifar_net(2, blocks=1, widths=(4, 8))
    line = {"step": 1, "train_loss": 1.0, "train_error": 0.5}
    with Run(tmp_path, {}) as run:
        with monkeypatch.context() as patch:
            patch.setattr("tinyres.training.run_folder.append_lines", fail)
            run.record(line)
        assert read_metrics(tmp_path / "metrics.jsonl") == []
        run.save(net, tr.optim.SGD(net.parameters(), 0.1), 1, last=False)
    assert read_metrics(tmp_path / "metrics.jsonl") == [line]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")
def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path, monkeypatch):
    full = open("/dev/full", "w")
    monkeypatch.setattr("sys.stdout", full)
    _, _, metrics = small_run(numpy, tmp_path, 10)
    with pytest.raises(OSError, match="No space left"):
        full.close()
    assert metrics[-1]["step"] == 10


@pytest.mark.parametrize("name", RUN_FILES)
def test_a_file_that_may_not_be_written_is_named(xp, tmp_path, capsys, name):
    """A folder in its place, since no permission would stop root."""
    (tmp_path / name).mkdir()
    if name.endswith(".png"):
        small_run(xp, tmp_path, 10)
        assert "could not write" in capsys.readouterr().err
        assert load_checkpoint(tmp_path / "checkpoint.npz").step == 10
    else:
        with pytest.raises(OSError, match=f"{name}"):
            small_run(xp, tmp_path, 10)


def test_evaluate_against_one_batch(xp, monkeypatch):
    net, data = tr.models.cifar_net(2, blocks=1, widths=(4, 8)), small_dataset(xp)
    logits = net(tr.Tensor(standardize(data.train.images)))
    monkeypatch.setattr(Split, "evaluation_batch_size", 7)
    figures = evaluate(net, data.train)
    loss, error = figures["loss"], figures["error"]
    expected = tr.softmax_cross_entropy(logits, data.train.labels).item()
    assert set(figures) == {"loss", "error"} and loss == pytest.approx(expected, rel=1e-5)
    assert error == float((logits.data.argmax(1) != data.train.labels).mean())
    with pytest.raises(ValueError, match="no images"):
        evaluate(net, Split(data.train.images[:0], data.train.labels[:0]))


def test_read_metrics_leaves_out_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]


def test_a_damaged_line_of_metrics_is_named_and_nothing_is_changed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for line in ("5", "null", "{}", '"step"', '{"step": null}', '{"step": 1e3}', '{"step": 9, "lr": "x"}',
                 "[" * 10**5, '{"step": 9, "lr": 1e999}', '{"step": 9, "lr": NaN}',
                 '{"step": 9, "residual_ratios": 1}', "\xff\0"):
        path.write_text(f'{{"step": 1}}\n{line}\n', encoding="latin-1")
        with pytest.raises(ValueError, match="metrics.jsonl, line 2 "):
            Run(tmp_path, {}, step=4).__enter__()
        assert sorted(os.listdir(tmp_path)) == [".lock", path.name]
        assert path.read_text("latin-1").count("\n") == 2


def test_curves_of_two_runs_are_drawn(tmp_path):
    line = {"step": 1, "train_loss": 2.0, "train_error": 0.9}
    last = {**line, "step": 2, "test_loss": 1.0, "test_error": 0.5}
    draw_curves(tmp_path / "c.png", {"a": [line, last], "b": []})
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_trains_on_crops_of_its_padding(xp, tmp_path):
    expected = small_dataset(xp)
    for padding in 0, 4:
        seen = []
        small_run(xp, tmp_path / str(padding), 1, crop_padding=padding,
                  compute=lambda net, images, labels, seen=seen: seen.append(images) or
                  loss_and_error(net, images, labels))
        batch, _ = tr.datasets.loader.batch_of_step(expected.train, 8, 3, 0, crop_padding=padding)
        assert (seen[0] == batch).all()


def test_a_captured_run_is_the_same_run(xp, tmp_path):
    if xp is numpy:
        pytest.skip("capture needs a GPU")
    plain, captured = (
        states(*small_run(xp, tmp_path / str(i), 30, evaluate_every=10, compute=compute)[:2])
        for i, compute in enumerate([loss_and_error, capture.captured(loss_and_error)]))
    assert all(plain[name].tobytes() == captured[name].tobytes() for name in plain)


def test_a_batch_that_is_too_large_leaves_no_folder_behind(xp, tmp_path):
    data = small_dataset(xp)
    data = data._replace(train=tr.datasets.Split(*(array[:4] for array in data.train)))
    with pytest.raises(ValueError, match="batch_size 8 must be from 1 to"):
        small_run(xp, tmp_path / "run", 5, data=data)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_another_run_has_replaced_meanwhile_is_left_alone(tmp_path):
    small_run(numpy, tmp_path, 4)
    before = (tmp_path / "checkpoint.npz").read_bytes()
    with pytest.raises(RuntimeError, match="has come to step 4 since step 2 was read: another run"):
        Run(tmp_path, {}, step=2).__enter__()
    assert (tmp_path / "checkpoint.npz").read_bytes() == before
    small_run(numpy, tmp_path, 6, first_step=4)  # the lock was given back


def test_a_checkpoint_of_version_0_1_0_gives_the_network_that_it_was(xp):
    checkpoint = load_checkpoint(Path(__file__).parent / "support" / "checkpoint_of_version_0_1_0.npz")
    net = tr.models.cifar_net(blocks=1, widths=(2, 3), seed=1)
    net.load_state_dict(checkpoint.model)
    optimizer = tr.optim.SGD(net.parameters(), 0.1)
    optimizer.load_state_dict(checkpoint.optimizer)
    assert checkpoint.step == 4 and checkpoint.config["widths"] == [2, 3]
    assert float(abs(optimizer.velocities[1]).sum()) == pytest.approx(0.15476641, rel=1e-5)
    ramp = xp.asarray(numpy.linspace(-1, 1, 32 * 32 * 3, dtype="float32").reshape(1, 32, 32, 3))
    expected = [0.041445196, -0.027782584, 0.011675017, 0.046128627, -0.033825394, 0.050612096, -0.001209958,
                0.085146666, 0.096620761, 0.027082136]
    numpy.testing.assert_allclose(net(tr.Tensor(ramp)).numpy()[0], expected, atol=1e-6)


def test_metrics_of_version_0_1_0_are_read_under_todays_names(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "h_over_x": [0.5]}\n')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "residual_ratios": [0.5]}]


def test_an_optimizer_derived_by_a_user_trains_saves_and_resumes(xp, tmp_path):
    class SignDescent(tr.optim.Optimizer):
        def __init__(self, parameters, lr):
            super().__init__(parameters, lr)
            self.signs = self.zeros("sign")

        def step(self):
            for p, sign in zip(self.parameters, self.signs, strict=True):
                sign[...] = 0.5 * sign + xp.sign(p.grad)
                p.data -= self.lr * sign

    def run(out, steps, first_step=0):
        net = tr.models.cifar_net(2, blocks=1, widths=(4, 8), seed=1)
        optimizer = SignDescent(net.parameters(), 1e-3)
        if first_step:
            checkpoint = load_checkpoint(out / "checkpoint.npz")
            net.load_state_dict(checkpoint.model)
            optimizer.load_state_dict(checkpoint.optimizer)
        train(net, optimizer, lambda step: 1e-3, small_dataset(xp), Run(out, {}, step=first_step),
              steps=steps, batch_size=8)
        return states(net, optimizer)

    expected = run(tmp_path / "straight", 12)
    run(tmp_path / "parts", 7)
    resumed = run(tmp_path / "parts", 12, first_step=7)
    assert all(resumed[name].tobytes() == value.tobytes() for name, value in expected.items())


def test_train_takes_at_most_eight_parameters():
    assert len(inspect.signature(train).parameters) <= 8


def test_predict_and_accuracy_as_in_evaluation(xp):
    dataset = tr.datasets.shapes(10, 20)
    images, labels = dataset.test.evaluation_batch(numpy.arange(20))
    images, labels = xp.asarray(images), xp.asarray(labels)
    net = tr.nn.Sequential(lambda x: x.reshape(len(x), -1), tr.nn.Linear(3072, 10), tr.nn.Dropout(0.9))
    logits = net.layers[1](tr.Tensor(images).reshape(20, -1))
    predicted = tr.predict(net, images, batch_size=7)
    assert isinstance(predicted, numpy.ndarray) and predicted.tolist() == logits.data.argmax(1).tolist()
    assert tr.predict(net, tr.Tensor(images)).tolist() == predicted.tolist()
    right = (predicted == tr.backend.to_numpy(labels)).mean()
    for answer in predicted, predicted.tolist(), logits, logits.data:
        assert tr.accuracy(answer, labels) == right
    assert net.layers[2].training, "the mode must be as before"
    with pytest.raises(ValueError, match=r"labels \(N,\) .* got \(20,\) and \(5,\)"):
        tr.accuracy(predicted, labels[:5])


def test_evaluation_switches_dropout_off():
    dataset = tr.datasets.shapes(10, 20)
    net = tr.nn.Sequential(lambda x: x.reshape(len(x), -1), tr.nn.Linear(3072, 10), tr.nn.Dropout(0.5))
    assert evaluate(net, dataset.test) == evaluate(net, dataset.test)
    assert net.training


def test_paths_may_be_strings_and_data_sets_say_their_sizes(tmp_path):
    folder, dataset = str(tmp_path), tr.datasets.shapes(10, 20)
    net = tr.nn.Linear(2, 2)
    save_checkpoint(f"{folder}/a.npz", net, tr.optim.Adam(net.parameters()), 3, {})
    assert load_checkpoint(f"{folder}/a.npz").step == 3
    draw_curves(f"{folder}/curve.png", {})
    tr.datasets.save_as_folder(dataset, f"{folder}/images")
    pictures = tr.datasets.image_folder(f"{folder}/images")
    assert "train=Split(10 images of 32 x 32 x 3, uint8), test=Split(20 images" in repr(dataset)
    assert "FolderSplit(20 pictures in" in repr(pictures) and len(repr(pictures)) < 500


def test_gradients_of_a_look_at_the_network_are_not_those_of_the_first_step():
    networks = [tr.models.cifar_net(blocks=1, widths=(8,)) for _ in range(2)]
    images, labels = numpy.ones((4, 8, 8, 3), "float32"), numpy.arange(4)
    tr.training.loss_and_error(networks[0], images, labels)
    for network in networks:
        tr.training.training_step(network, tr.optim.SGD(network.parameters(), 0.1), images, labels)
    for looked_at, other in zip(*(network.parameters() for network in networks), strict=True):
        assert (looked_at.data == other.data).all()
