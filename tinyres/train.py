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
"""
from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from . import plot
from .backend import Array, to_numpy, xp_of
from .datasets.dataset import Dataset, Split
from .datasets.loader import evaluation_batches, training_batches
from .distributed import ALONE, Group
from .files import write_atomically
from .nn import Module
from .ops import softmax_cross_entropy
from .optim import SGD
from .tensor import Tensor, no_grad

CHECKPOINT_SECONDS = 300  # besides those at evaluations and at the end
DISPLAY_SECONDS = 0.5, 15.0  # how often the progress line is renewed: on a terminal, elsewhere

Metrics = list[dict[str, float]]


def train(model: Module, optimizer: SGD, schedule: Callable[[int], float], dataset: Dataset, *, steps: int,
          batch_size: int, seed: int, out: Path, config: Mapping[str, Any], first_step: int = 0,
          evaluate_every: int | None = None, metrics_every: int = 10, evaluation_batch_size: int = 250,
          top: Sequence[int] = (1,), group: Group = ALONE) -> Metrics:
    """Train until `steps` steps are done or a signal asks to stop, and return the lines of metrics.jsonl.

    schedule: step -> learning rate. out: the run's folder, made if absent. config: settings to save, for
    JSON. first_step: steps already done, when model and optimizer come from a checkpoint of the same folder.
    evaluate_every: steps between evaluations (and checkpoints); default: one epoch.
    evaluation_batch_size, top: as for `evaluate`.
    group: the processes that share the work. batch_size is that of all together, each takes its share; only
        process 0 writes.
    After Ctrl-C or SIGTERM the step is finished and a checkpoint saved; the last line then has step < steps.
    Raises FloatingPointError, without touching the last good checkpoint, if the loss or a weight is not
    finite; ValueError if batch_size is no multiple of the number of processes.
    """
    if batch_size % group.size:
        raise ValueError(f"batch_size {batch_size} must be a multiple of {group.size}, the number of "
                         "processes")
    evaluate_every = evaluate_every or max(1, len(dataset.train.labels) // batch_size)
    checkpoint = out / "checkpoint.npz"
    metrics = [line for line in read_metrics(out / "metrics.jsonl") if line["step"] <= first_step]
    group.broadcast([tensor.data for _, tensor in model.named_tensors()] + optimizer.velocities)
    if group.rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "config.json",
                         lambda file: file.write(json.dumps(dict(config), indent=2).encode()))
        write_atomically(out / "metrics.jsonl", lambda file: file.writelines(map(_json_line, metrics)))

    progress = _Progress(first_step, steps, batch_size, checkpoint)
    with _stop_on_signal() as stop:
        for images, labels in training_batches(dataset.train, batch_size, seed, first_step, steps,
                                               group.share):
            optimizer.lr = schedule(progress.step)
            logits = model(Tensor(images))
            loss = softmax_cross_entropy(logits, labels)
            loss.backward()
            group.average([parameter.grad for parameter in optimizer.parameters])
            optimizer.step()
            progress.add(loss.data, (logits.data.argmax(axis=1) != labels).mean())
            del logits, loss  # frees the graph before the next one is built

            step = progress.step
            last = step == steps or any(group.sum(stop.is_set()))
            evaluating = step % evaluate_every == 0 or step == steps
            if step % metrics_every == 0 or evaluating or last:
                line = {"step": step, "lr": optimizer.lr, **_average(group, progress.summary())}
                if evaluating:
                    line["test_loss"], *errors = evaluate(model, dataset.test, evaluation_batch_size, top,
                                                          group)
                    line |= {error_name(k): error for k, error in zip(top, errors, strict=True)}
                if group.rank == 0:
                    with open(out / "metrics.jsonl", "ab") as file:
                        file.write(_json_line(line))
                metrics.append(line)
                progress.restart(line)
            if evaluating or last or progress.seconds_since_checkpoint() > CHECKPOINT_SECONDS:
                progress.fetch()  # raises before a diverged network is saved
                with progress.clock_stopped():
                    if group.rank == 0:
                        save_checkpoint(checkpoint, model, optimizer, step, config)
                        draw_curves(out / "curve.png", {"": metrics})
            progress.show(evaluating or last)
            if last:
                break
    return metrics


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
            logits = model(Tensor(images))
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
                                     f"was saved; {_last_good(path)}. Lower the learning rate")
    arrays |= {"step": numpy.int64(step), "config": numpy.array(json.dumps(dict(config)))}
    write_atomically(path, lambda file: numpy.savez(file, **arrays))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Nothing in the file is executed.

    Raises FileNotFoundError if there is none, ValueError if the file is not a whole checkpoint.
    """
    parts: dict[str, dict[str, numpy.ndarray]] = {"model": {}, "optimizer": {}}
    try:
        with numpy.load(path, allow_pickle=False) as file:
            for name in file.files:
                part, _, key = name.partition("/")
                if key:
                    parts[part][key] = file[name]
            config = json.loads(str(file["config"]))
            return Checkpoint(parts["model"], parts["optimizer"], int(file["step"]), config)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {path}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not a whole checkpoint of tinyres ({error})") from error


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
                                 y_range=(0, 100) if scale == 100 else None))
    plot.save(path, panels)


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


def _json_line(line: Mapping[str, float]) -> bytes:
    return json.dumps(dict(line), allow_nan=False).encode() + b"\n"


def _last_good(checkpoint: Path) -> str:
    if checkpoint.exists():
        return f"the last good checkpoint is {checkpoint}"
    return "no checkpoint had been saved yet"


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
                                         f"diverged; {_last_good(self.checkpoint)}. Lower the learning rate")
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
            print(f"\r{text:<100}", end="\n" if self.step == self.steps else "", flush=True)
        else:
            print(text, flush=True)
