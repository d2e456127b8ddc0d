"""The training loop: a step, an evaluation, and a run of many steps."""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy

from ..backend import Array, xp_of
from ..datasets.dataset import Dataset, Split
from ..datasets.loader import evaluation_batches, training_batches
from ..distributed import SINGLE_PROCESS, Group, check_batch, make_equal, replicas
from ..extras.losses import error_rate
from ..fast import memory_kept
from ..module import Module, evaluating
from ..ops import softmax_cross_entropy
from ..optim import Optimizer
from ..support.diverged import Diverged
from ..tensor import Tensor, no_grad
from .curves import Metrics
from .progress import Progress
from .run_folder import Run
from .signals import STOPPING, stop_on_signal

RATIO_IMAGES = 10  # the first test images, on which blocks are compared with the identity

Compute = Callable[[Module, Array, Array], tuple[Array, Array]]


def loss_and_error(model: Module, images: Array, labels: Array) -> tuple[Array, Array]:
    """Forward and backward pass: (loss, fraction of wrong predictions), scalars; the gradients are left in
    the parameters."""
    logits = model(Tensor(images))
    loss = softmax_cross_entropy(logits, labels)
    loss.backward()
    return loss.data, error_rate(logits.data, labels)


def training_step(model: Module, optimizer: Optimizer, images: Array, labels: Array,
                  group: Group = SINGLE_PROCESS, compute: Compute = loss_and_error) -> tuple[Array, Array]:
    """One step on a batch: (loss, fraction of wrong predictions), scalars in the library of the images.

    images: standardized, (N, H, W, C) float32. labels: (N,). group: the processes that take the step
    together; it makes them draw different random numbers, and average gradients and running means.
    Raises Diverged, before the weights are moved, if an array on NumPy or a float16 activation is not finite.
    """
    optimizer.zero_grad()  # those of a look at the network before would be added
    # errstate: _check_finite says it better
    with replicas(model, optimizer.parameters, group), numpy.errstate(all="ignore"):
        loss, error = compute(model, images, labels)
    _check_finite(model, images, loss)
    optimizer.step()
    return loss, error


def train(model: Module, optimizer: Optimizer, schedule: Callable[[int], float], dataset: Dataset, run: Run,
          *, steps: int, batch_size: int, compute: Compute = loss_and_error) -> Metrics:
    """Train until `steps` steps are done or a signal asks to stop, and return the lines of metrics.jsonl.

    schedule: step -> learning rate, 0 being the first step. run: where to record, and the steps already done.
    batch_size: of all processes of the run together; each takes its shard.
    compute: forward and backward pass; default: `loss_and_error`.
    After Ctrl-C, SIGTERM or SIGHUP the current step is finished and a checkpoint saved; the last line then
    has step < steps. A file that cannot be written is reported on stderr and tried again when it is next due.
    Raises ValueError for labels that are not the index of a class, a batch_size that is not a multiple of the
    number of processes, a folder that holds another run, or steps that are done already; Diverged, without
    touching the last good checkpoint, if images, weights, the loss or a gradient are not finite, naming the
    first of them (on a GPU the loss, when it is fetched: a check at every step would stall it); OSError if a
    file cannot be made at the start, or the checkpoint not written at the end; RuntimeError if another
    process trains in the same folder.
    """
    group = run.group
    if run.step >= steps:
        raise ValueError(f"{run.folder} is at step {run.step} already: to continue, give more steps")
    check_batch(batch_size, group.size)
    _check_labels(dataset)
    batches = training_batches(dataset.train, batch_size, run.seed, run.step, steps, group.shard,
                               run.crop_padding)
    epoch = len(dataset.train.labels) // batch_size
    with run, stop_on_signal() as stop, memory_kept():
        make_equal(model, list(optimizer.state.values()), group)
        progress = Progress(run.step, steps, batch_size, getattr(optimizer, "look", None))
        if run.step == 0 and (ratios := residual_ratios(model, dataset.test)):
            run.record({"step": 0, "residual_ratios": ratios})
        for step, (images, labels) in enumerate(batches, run.step + 1):
            optimizer.lr = schedule(step - 1)
            try:
                progress.add(step, *training_step(model, optimizer, images, labels, group, compute))
            except Diverged as error:
                error.step = step
                raise
            stops = group.all_reduce_sum(*(number in stop for number in STOPPING))
            due = run.due(step, steps, epoch, stopped=any(stops))
            if due.metrics:
                line = {"step": step, "lr": float(optimizer.lr), **progress.summary(group)}
                if due.evaluation:
                    line |= _test_figures(model, dataset.test, group)
                run.record(line)
                progress.restart(line)
            if due.checkpoint:
                progress.fetch()  # raises before a diverged network is saved
                with progress.clock_stopped():
                    run.save(model, optimizer, step, last=due.end)
            progress.show(always=due.evaluation or due.end)
            if due.end:
                break
    # a signal that came since, such as in the last evaluation, counts too
    run.stopped_by = next((number for number, count in zip(STOPPING, stops, strict=True)
                           if count or number in stop), None)
    return run.metrics


def evaluate(model: Module, split: Split, group: Group = SINGLE_PROCESS) -> dict[str, float]:
    """Mean "loss", "error" and, for more than five classes, "top5_error" over a split, images not augmented.

    error: the fraction of images whose class is not the likeliest to the network; top5_error: not among the
    five likeliest. group: the processes that share the work.
    Raises ValueError for an empty split, Diverged if the loss is not finite.
    """
    if not len(split.labels):
        raise ValueError("evaluate: the split holds no images")
    loss, wrong, wrong5, count, classes = 0.0, 0.0, 0.0, 0.0, 0
    with no_grad(), evaluating(model):
        for images, labels in evaluation_batches(split, split.evaluation_batch_size, group.shard):
            if not len(labels):
                continue  # none of their files could be read
            logits = model(Tensor(images))
            loss = loss + softmax_cross_entropy(logits, labels).data * len(labels)
            # stable, so that among equals the first class comes first, as with argmax
            ranked = xp_of(logits.data).argsort(-logits.data, axis=1, kind="stable")
            missed = ranked != labels[:, None]
            wrong, wrong5 = wrong + missed[:, 0].sum(), wrong5 + missed[:, :5].all(axis=1).sum()
            count, classes = count + len(labels), logits.shape[1]
    loss, wrong, wrong5, count = group.all_reduce_sum(float(loss), float(wrong), float(wrong5), count)
    if not math.isfinite(loss):
        raise Diverged(f"the loss over {count:.0f} images ({loss})")
    figures = {"loss": loss / count, "error": wrong / count, "top5_error": wrong5 / count}
    return figures if classes > 5 else {name: figures[name] for name in ("loss", "error")}


def _test_figures(model: Module, split: Split, group: Group) -> dict[str, Any]:
    """What an evaluation adds to a line of metrics."""
    figures: dict[str, Any] = {f"test_{name}": value for name, value in evaluate(model, split, group).items()}
    ratios = residual_ratios(model, split)
    return figures | ({"residual_ratios": ratios} if ratios else {})


def residual_ratios(model: Module, split: Split) -> list[float]:
    """||h(x)|| / ||x|| of each block on the first images of a split, for a model that can tell
    (models.ResidualNetwork); for another one, and where a ratio is not finite, none."""
    if not hasattr(model, "residual_ratios"):
        return []
    images, _ = split.evaluation_batch(numpy.arange(min(RATIO_IMAGES, len(split.labels))))
    with evaluating(model), numpy.errstate(all="ignore"):  # a network that diverges is reported by its loss
        ratios = model.residual_ratios(Tensor(images))
    return ratios if numpy.isfinite(ratios).all() else []


def _check_finite(model: Module, images: Array, loss: Array) -> None:
    """On NumPy, raise Diverged for the first array of a step that is not finite."""
    if not isinstance(images, numpy.ndarray):
        return
    gradients = {f"the gradient of {name}": p.grad for name, p in model.named_parameters()
                 if not p.is_spent()}
    with numpy.errstate(all="ignore"):  # a sum is finite only if all is; of large numbers it may not be
        sums = [gradient.sum() for gradient in gradients.values()]
    if numpy.isfinite([loss, *sums]).all():
        return
    if not numpy.isfinite(images).all():
        raise Diverged("the batch of images", "Check the data set")
    weights = {name: p.data for name, p in model.named_parameters()}
    for name, array in {**weights, "the loss": loss, **gradients}.items():
        if not numpy.isfinite(array).all():
            raise Diverged(name)


def _check_labels(dataset: Dataset) -> None:
    for name, labels in ("training", dataset.train.labels), ("test", dataset.test.labels):
        if not len(labels):
            raise ValueError(f"the data set holds no {name} images")
        if not 0 <= int(labels.min()) <= int(labels.max()) < len(dataset.classes):
            raise ValueError(f"the {name} labels go from {labels.min()} to {labels.max()}, expected 0 to "
                             f"{len(dataset.classes) - 1} for {len(dataset.classes)} classes")
