"""The training loop, evaluation, checkpoints, metrics and learning curves.

A run lives in one folder:
    config.json      the settings it was started with
    metrics.jsonl    one JSON object a line: step, lr, train_loss, train_error, images_per_second; at
                     evaluations also test_loss, test_error (and test_top5_error). Errors are shares from 0
                     to 1; training figures are means over the steps since the line before, on augmented
                     images.
    checkpoint.npz   weights, momentum, step and settings: all that is needed to go on bit for bit. The random
                     streams are functions of seed and step (see datasets/loader.py), so these two are their
                     state.
    curve.png        loss and error against step
    identity.png     ||h(x)|| / ||x|| of each residual block against depth
    .lock            empty; held while a run writes here, so that a second one is refused
"""
from __future__ import annotations

import functools
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from . import backend, gpu, plot
from .backend import Array, to_numpy, xp_of
from .datasets.dataset import Dataset, Split
from .datasets.loader import evaluation_batches, training_batches
from .distributed import ALONE, Group
from .files import locked, read_npz, write_atomically
from .models import ResidualNetwork
from .nn import Module
from .ops import softmax_cross_entropy
from .optim import SGD
from .tensor import Tensor, no_grad

RUN_FILES = "config.json", "metrics.jsonl", "checkpoint.npz", "curve.png", "identity.png"
LOWER = "Start another run with a lower learning rate"
LOSS_SCALE = 4096.0  # in float16: gradients of pixels are some 1e-6, and 6e-8 is the least that it holds
IDENTITY_IMAGES = 10  # first ones of the test images, on which blocks are compared with the identity
CHECKPOINT_SECONDS = 300  # besides those at evaluations and at the end
DISPLAY_SECONDS = 0.5, 15.0  # how often the progress line is renewed: on a terminal, elsewhere

Metrics = list[dict[str, Any]]


def training_step(model: Module, optimizer: SGD, images: Array, labels: Array,
                  group: Group = ALONE) -> tuple[Array, Array]:
    """One step of SGD on a batch: (loss, share of wrong predictions), arrays of no axes where the batch is.

    images: standardized, (N, H, W, C) float32. labels: (N,). group: as for `train`.
    Raises FloatingPointError, on NumPy, if an array is not finite, before the weights are moved.
    """
    with numpy.errstate(all="ignore"):  # _check_finite says it better
        logits = model(_input(images))
        loss = softmax_cross_entropy(logits, labels)
        loss.backward(xp_of(images).full_like(loss.data, optimizer.loss_scale))  # 1 except in float16
    group.average([parameter.grad for parameter in optimizer.parameters])
    _check_finite(model, images, loss)
    optimizer.step()
    return loss.data, (logits.data.argmax(axis=1) != labels).mean()


def train(model: Module, optimizer: SGD, schedule: Callable[[int], float], dataset: Dataset, *, steps: int,
          batch_size: int, seed: int, out: Path, config: Mapping[str, Any], first_step: int = 0,
          evaluate_every: int | None = None, metrics_every: int | None = None,
          evaluation_batch_size: int = 250, top: Sequence[int] = (1,), group: Group = ALONE,
          capture: bool = False) -> Metrics:
    """Train until `steps` steps are done or a signal asks to stop, and return the lines of metrics.jsonl.

    schedule: step -> learning rate. out: the run's folder, made if absent. config: settings to save, for
    JSON. first_step: steps already done, when model and optimizer come from a checkpoint of the same folder.
    evaluate_every: steps between evaluations (and checkpoints); default: one epoch.
    metrics_every: steps between lines; default: 10, on a GPU 100, which waits for each line's figures.
    evaluation_batch_size, top: as for `evaluate`.
    group: the processes that share the work. batch_size is that of all together, each takes its share; only
        process 0 writes.
    capture: on a GPU, in one process: launch the steps whole (gpu.Captured) instead of kernel by kernel.
    After Ctrl-C or SIGTERM the step is finished and a checkpoint saved; the last line then has step < steps.
    A file that cannot be written is reported on stderr and tried again when it is due next.
    Raises ValueError for labels that are no class's number, or a batch_size that is no multiple of the number
    of processes; FloatingPointError, without touching the last good checkpoint, if images, weights, the loss
    or a gradient are not finite, naming the first that is not (on a GPU the loss, when it is fetched: a look
    at every step would stall it); OSError if a file cannot be made at the start, or the checkpoint not
    written at the end; RuntimeError if another process trains in the same folder.
    """
    if batch_size % group.size:
        raise ValueError(f"batch_size {batch_size} must be a multiple of {group.size}, the number of "
                         "processes")
    if capture and (group.size > 1 or backend.current() is numpy):
        raise ValueError("capture is for a single process on a GPU: leave it out")
    _check_labels(dataset)
    evaluate_every = evaluate_every or max(1, len(dataset.train.labels) // batch_size)
    metrics_every = metrics_every or (10 if backend.current() is numpy else 100)
    checkpoint, first = out / "checkpoint.npz", group.rank == 0
    batches = training_batches(dataset.train, batch_size, seed, first_step, steps, group.share)
    if first:
        out.mkdir(parents=True, exist_ok=True)
    with locked(out, RUN_FILES) if first else nullcontext(), _stop_on_signal() as stop:
        metrics = [line for line in read_metrics(out / "metrics.jsonl") if line["step"] <= first_step]
        group.broadcast([tensor.data for _, tensor in model.named_tensors()] + optimizer.velocities)
        if first:
            write_atomically(out / "config.json",
                             lambda file: file.write(json.dumps(dict(config), indent=2).encode()))
            write_atomically(out / "metrics.jsonl", lambda file: file.writelines(map(_json_line, metrics)))
        written = len(metrics)
        progress = _Progress(first_step, steps, batch_size, checkpoint)
        take_step = (_captured_step(model, optimizer) if capture
                     else functools.partial(training_step, model, optimizer, group=group))
        for images, labels in batches:
            optimizer.lr = schedule(progress.step)
            try:
                progress.add(*take_step(images, labels))
            except _NotFinite as error:
                raise FloatingPointError(f"{error.name} is not finite at step {progress.step + 1}: the run "
                                         f"cannot go on; {_last_good(checkpoint)}. {error.remedy}") from None

            step = progress.step
            last = step == steps or any(group.sum(stop.is_set()))
            evaluating = step % evaluate_every == 0 or step == steps
            if step % metrics_every == 0 or evaluating or last:
                line = {"step": step, "lr": optimizer.lr, **_average(group, progress.summary())}
                if evaluating:
                    line["test_loss"], *errors = evaluate(model, dataset.test, evaluation_batch_size, top,
                                                          group)
                    line |= {error_name(k): error for k, error in zip(top, errors, strict=True)}
                    if isinstance(model, ResidualNetwork) and model.blocks[0].residual:
                        some = numpy.arange(min(IDENTITY_IMAGES, len(dataset.test.labels)))
                        line["h_over_x"] = model.h_over_x(_input(dataset.test.plain(some)[0]))
                metrics.append(line)
                if first:
                    with _going_on(out / "metrics.jsonl", checkpoint):
                        _append_metrics(out / "metrics.jsonl", metrics[written:])
                        written = len(metrics)
                progress.restart(line)
            if evaluating or last or progress.seconds_since_checkpoint() > CHECKPOINT_SECONDS:
                progress.fetch()  # raises before a diverged network is saved
                with progress.clock_stopped():
                    if first:
                        with _going_on(checkpoint, checkpoint, but_not=last):
                            save_checkpoint(checkpoint, model, optimizer, step, config)
                        with _going_on(out / "curve.png", checkpoint):
                            draw_curves(out / "curve.png", {"": metrics})
                        with _going_on(out / "identity.png", checkpoint):
                            draw_identity(out / "identity.png", metrics)
            progress.show(evaluating or last)
            if last:
                break
    return metrics


def _captured_step(model: Module, optimizer: SGD) -> Callable[[Array, Array], tuple[Array, Array]]:
    """`training_step` on a GPU, launched whole: batches are copied to where the first one was."""
    memory: list[Array] = []
    captured = gpu.Captured(lambda: training_step(model, optimizer, *memory))

    def step(images: Array, labels: Array) -> tuple[Array, Array]:
        if not memory:
            memory.extend((images.copy(), labels.copy()))
        for kept, new in zip(memory, (images, labels), strict=True):
            kept[...] = new
        loss, error = captured()
        return loss.copy(), error.copy()  # the next step writes its own to the same place

    return step


def _input(images: Array) -> Tensor:
    return Tensor(images.astype("float16") if backend.precision() == "float16" else images)


def evaluate(model: Module, split: Split, batch_size: int = 250, top: Sequence[int] = (1,),
             group: Group = ALONE) -> tuple[float, ...]:
    """(mean loss, error, ...) over a split, each image standardized and not augmented.

    top: for each k, the share of images whose class is not among the k that the network thinks likeliest.
    group: the processes that share the work; batch_size is that of each.
    Raises ValueError for an empty split, FloatingPointError if the loss is not finite.
    """
    if not len(split.labels):
        raise ValueError("evaluate: the split holds no images")
    loss, wrong, count = 0.0, [0.0] * len(top), 0
    with no_grad():
        for images, labels in evaluation_batches(split, batch_size, group.share):
            if not len(labels):
                continue  # none of their files could be read
            logits = model(_input(images))
            loss = loss + softmax_cross_entropy(logits, labels).data * len(labels)
            # stable, so that among equals the first class comes first, as with argmax
            ranked = xp_of(logits.data).argsort(-logits.data, axis=1, kind="stable")
            missed = ranked != labels[:, None]
            wrong = [total + missed[:, :k].all(axis=1).sum() for total, k in zip(wrong, top, strict=True)]
            count += len(labels)
    loss, *wrong, count = group.sum(float(loss), *map(float, wrong), count)
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss over {count:.0f} images is {loss}: the network has diverged; "
                                 "train with a lower learning rate")
    return tuple(total / count for total in (loss, *wrong))


def error_name(k: int) -> str:
    """The name of a top-k error in the metrics."""
    return "test_error" if k == 1 else f"test_top{k}_error"


def _average(group: Group, figures: Mapping[str, float]) -> dict[str, float]:
    """Each figure's average over the processes."""
    return dict(zip(figures, (total / group.size for total in group.sum(*figures.values())), strict=True))


class Checkpoint(NamedTuple):
    """What `save_checkpoint` wrote: give model and optimizer to their `load_state_dict`."""
    model: dict[str, numpy.ndarray]
    optimizer: dict[str, numpy.ndarray]
    step: int
    config: dict[str, Any]


def save_checkpoint(path: Path, model: Module, optimizer: SGD, step: int, config: Mapping[str, Any]) -> None:
    """Write a checkpoint as one .npz file of plain arrays; an older one is replaced only once this one is
    whole.

    Raises FloatingPointError, and writes nothing, if a weight or velocity is not finite.
    """
    arrays = {f"model/{name}": value for name, value in model.state_dict().items()}
    arrays |= {f"optimizer/{name}": value for name, value in optimizer.state_dict().items()}
    for name, value in arrays.items():
        if not numpy.isfinite(value).all():
            raise FloatingPointError(f"{name} is not finite after step {step}: the run has diverged. Nothing "
                                     f"was saved; {_last_good(path)}. {LOWER}")
    arrays |= {"step": numpy.int64(step), "config": numpy.array(json.dumps(dict(config)))}
    write_atomically(path, lambda file: numpy.savez(file, **arrays))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, which may come from anywhere: nothing in it is executed, no more memory taken than
    it is long.

    Raises FileNotFoundError if there is none, ValueError if the file is not a whole checkpoint.
    """
    parts: dict[str, dict[str, numpy.ndarray]] = {"model": {}, "optimizer": {}}
    try:
        arrays = read_npz(path)
        step, config = arrays.pop("step"), arrays.pop("config")
        for name, value in arrays.items():
            part, _, key = name.partition("/")
            if value.dtype.kind != "f" or value.itemsize > 8 or not numpy.isfinite(value).all():
                raise ValueError(f"{name!r:.60} is {value.dtype}, expected finite floats")
            parts[part][key] = value
        settings = json.loads(config.item())
        if step.dtype.kind != "i" or step.item() < 0 or not isinstance(settings, dict):
            raise ValueError("its step is no number >= 0, or its config no object")
        return Checkpoint(parts["model"], parts["optimizer"], step.item(), settings)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {path}") from None
    except Exception as error:  # a damaged file can raise nearly any exception
        raise ValueError(f"{path} is not a whole checkpoint of tinyres ({type(error).__name__}: "
                         f"{' '.join(str(error).split())[:200]})") from error


def draw_curves(path: Path, runs: Mapping[str, Metrics]) -> None:
    """Draw loss and error of one or more runs, by name, against the step: training dashed, test solid."""
    panels = []
    for quantity, scale in ("loss", 1), ("error", 100):
        lines = []
        for color, (name, metrics) in enumerate(runs.items()):
            for split, style in ("train", "dashed"), ("test", "solid"):
                points = [line for line in metrics if f"{split}_{quantity}" in line]
                lines.append(plot.Line([line["step"] for line in points],
                                       [scale * line[f"{split}_{quantity}"] for line in points],
                                       f"{name} {split}".strip(), style, color if len(runs) > 1 else None))
        panels.append(plot.Panel(lines, "", "step", quantity + (" (%)" if scale == 100 else ""),
                                 y_range=(0, 100) if scale == 100 else _from_zero(lines)))
    plot.save(path, panels)


def _from_zero(lines: Sequence[plot.Line]) -> tuple[float, float]:
    """A range that shows all losses, but not noise around one value as if it were a descent."""
    return 0.0, 1.1 * max((max(line.y, default=1) for line in lines), default=1)


def draw_identity(path: Path, metrics: Metrics) -> None:
    """Draw ||h(x)|| / ||x|| of every residual block against its depth, at the first, a middle and the last
    evaluation, and one over the number of blocks, the order of Theorem 2.1 for linear networks."""
    lines = [line for line in metrics if "h_over_x" in line]
    if not lines:
        return
    shown, depth = sorted({0, (len(lines) - 1) // 2, len(lines) - 1}), len(lines[0]["h_over_x"])
    drawn = [plot.Line(range(1, depth + 1), lines[i]["h_over_x"], f"step {lines[i]['step']}") for i in shown]
    drawn.append(plot.Line([1, depth], [1 / depth] * 2, f"1 / {depth}", "dotted"))
    plot.save(path, plot.Panel(drawn, "How far each block is from the identity", "residual block",
                               "||h(x)|| / ||x||", log_y=True))


def read_metrics(path: Path) -> Metrics:
    """The lines of a metrics.jsonl, none if the file is absent; a last line that was cut off is left out."""
    if not path.exists():
        return []
    metrics = []
    for line in path.read_text().splitlines():
        try:
            metrics.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return metrics


def _check_labels(dataset: Dataset) -> None:
    for name, labels in ("training", dataset.train.labels), ("test", dataset.test.labels):
        if not len(labels):
            raise ValueError(f"the data set holds no {name} images")
        if not 0 <= int(labels.min()) <= int(labels.max()) < len(dataset.classes):
            raise ValueError(f"the {name} labels go from {labels.min()} to {labels.max()}, expected 0 to "
                             f"{len(dataset.classes) - 1} for {len(dataset.classes)} classes")


class _NotFinite(FloatingPointError):
    def __init__(self, name: str, remedy: str) -> None:
        super().__init__(f"{name} is not finite. {remedy}")
        self.name, self.remedy = name, remedy


def _check_finite(model: Module, images: Array, loss: Tensor) -> None:
    """On NumPy, raises FloatingPointError that names the first array of a step that is not finite."""
    if not isinstance(images, numpy.ndarray):
        return
    parameters = list(model.named_parameters())
    gradients = [(f"the gradient of {name}", p.grad) for name, p in parameters if p.grad is not None]
    if all(numpy.isfinite(array).all() for _, array in [("the loss", loss.data), *gradients]):
        return
    for name, array in [("the batch of images", images), *((name, p.data) for name, p in parameters),
                        ("the loss", loss.data), *gradients]:
        if not numpy.isfinite(array).all():
            raise _NotFinite(name, "Check the data set" if array is images else LOWER)


def _append_metrics(path: Path, lines: Metrics) -> None:
    size = path.stat().st_size
    try:
        with open(path, "ab") as file:
            file.writelines(map(_json_line, lines))
    except OSError:
        os.truncate(path, size)  # or the next line would join a torn one
        raise


def _json_line(line: Mapping[str, float]) -> bytes:
    return json.dumps(dict(line), allow_nan=False).encode() + b"\n"


def _last_good(checkpoint: Path) -> str:
    if checkpoint.exists():
        return f"the last good checkpoint is {checkpoint}"
    return "no checkpoint had been saved yet"


@contextmanager
def _going_on(path: Path, checkpoint: Path, but_not: bool = False) -> Iterator[None]:
    """Say that a file could not be written, and go on: the disk may have room the next time."""
    try:
        yield
    except OSError as error:
        trouble = f"could not write {path} ({error}); {_last_good(checkpoint)}"
        if but_not:
            raise OSError(f"{trouble}. Make room, and resume") from error
        _say(f"\n{trouble}. Training goes on", file=sys.stderr)


def _say(text: str, **options: Any) -> None:
    with suppress(OSError):  # a log on a full disk must not end the run
        print(text, flush=True, **options)


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second one acts as usual, at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python delivers signals to the main thread only
        return

    def on_signal(number: int, frame: object) -> None:
        signal.signal(number, before[number])
        stop.set()
        print("\nstopping after this step", file=sys.stderr)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Progress:
    """Losses and errors since the last line of metrics, the clock, and the progress line.

    Steps add their figures as arrays where they are. They are fetched, and looked at, only when shown: a GPU
    need not wait for Python after each step.
    """

    def __init__(self, step: int, steps: int, batch_size: int, checkpoint: Path) -> None:
        self.step, self.steps, self.batch_size, self.checkpoint = step, steps, batch_size, checkpoint
        self.terminal = sys.stdout.isatty()
        self.test = ""
        self.first_step, self.started = step, time.perf_counter()
        self.last_shown, self.last_saved = -math.inf, self.started
        self.pending: list[tuple[Array, Array]] = []
        self.figures: list[tuple[float, float]] = []
        self.since = self.started

    def add(self, loss: Array, error: Array) -> None:
        self.step += 1
        self.pending.append((loss, error))

    def fetch(self) -> None:
        """Raises FloatingPointError if a loss is not finite, naming the step."""
        first = self.step - len(self.pending) + 1
        for step, (loss, error) in enumerate(self.pending, first):
            self.figures.append((float(to_numpy(loss)), float(to_numpy(error))))
            if not math.isfinite(self.figures[-1][0]):
                raise FloatingPointError(f"the loss is {self.figures[-1][0]} at step {step}: the run has "
                                         f"diverged; {_last_good(self.checkpoint)}. {LOWER}")
        self.pending = []

    def summary(self) -> dict[str, float]:
        self.fetch()
        loss, error = (sum(column) / len(self.figures) for column in zip(*self.figures, strict=True))
        speed = len(self.figures) * self.batch_size / (time.perf_counter() - self.since)
        return {"train_loss": loss, "train_error": error, "images_per_second": round(speed, 1)}

    def restart(self, line: Mapping[str, float]) -> None:
        if "test_error" in line:
            self.test = f"  test error {100 * line['test_error']:.2f} %"
        self.line, self.figures, self.since = line, [], time.perf_counter()

    def seconds_since_checkpoint(self) -> float:
        return time.perf_counter() - self.last_saved

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Within this context a checkpoint is saved, and time does not count towards images a second."""
        start = time.perf_counter()
        yield
        self.last_saved = time.perf_counter()
        self.since += self.last_saved - start

    def show(self, always: bool) -> None:
        now = time.perf_counter()
        if not always and now - self.last_shown < DISPLAY_SECONDS[not self.terminal]:
            return
        self.last_shown = now
        figures = self.summary() if self.pending or self.figures else self.line
        left = (now - self.started) / (self.step - self.first_step) * (self.steps - self.step)
        text = (f"step {self.step}/{self.steps}  loss {figures['train_loss']:.3f}  "
                f"error {100 * figures['train_error']:.1f} %{self.test}  {figures['images_per_second']:.0f} "
                f"images/s  {int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02} left")
        if self.terminal:
            _say(f"\r{text:<100}", end="\n" if always else "")
        else:
            _say(text)
