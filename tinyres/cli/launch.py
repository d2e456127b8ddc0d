"""What starts a run from its settings: backend and processes, precision, optimizer, training or a dry run."""
from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy

from .. import backend, distributed
from ..datasets import Dataset, Split
from ..datasets.augment import PADDING
from ..distributed import SINGLE_PROCESS, Group, check_batch
from ..distributed.forked import forked, process_count
from ..fast.cpu import blas
from ..fast.gpu import block, capture, loss_scale, precision
from ..models import ResidualNetwork
from ..nn import Module
from ..optim import SGD, Adam, Optimizer, cosine_decay, one_cycle
from ..support.files import refusing
from ..training import Checkpoint, Run, evaluate, loss_and_error, train, trial
from ..training.curves import Metrics
from ..training.dry_run import dry_run
from ..training.pictures import probabilities
from .settings import Launch, Settings

CLASSES_SHOWN = 5  # of a picture


def use_backend(settings: Settings, launch: Launch) -> tuple[Group, str]:
    """Choose the array library and the precision, say so where the choice was left to us, and join the other
    processes: their group, and the precision.

    Raises ValueError if the precision needs a GPU and NumPy computes, RuntimeError if a GPU is asked for and
    none works.
    """
    group = distributed.start(launch.backend) if launch.distributed else SINGLE_PROCESS
    name = backend.use(launch.backend).__name__
    on_gpu = "float16" if launch.capture and group.size == 1 else "tf32"  # which is faster kernel by kernel
    products = settings.precision or ("float32" if name == "numpy" else on_gpu)
    if name == "numpy" and products != "float32" and (launch.resume or launch.evaluate):
        print(f"Precision {products} needs a GPU: float32 here.")
        products = "float32"
    precision.use(products)
    if settings.precision is None and name != "numpy" and group.rank == 0:
        print(f"Precision {products} (--precision): float16 has activations in 16 bits, weights and sums in "
              "32; tf32 holds larger numbers, float32 more digits.")
    if launch.backend == "auto" and name == "numpy":
        print("On the CPU, with NumPy (--backend cupy says what a GPU needs).")
    if name == "numpy":
        blas.limit_threads()
        if group.rank == 0 and blas.is_slow():
            print(blas.SLOW)
    return group, products


def data_folder(path: Path, names: Iterable[str]) -> Path:
    """The folder that holds one of the names: the one given or, if it does not, one above or below it.

    Raises ValueError for a file, and for a folder that is absent and not the default one.
    """
    if path.is_file():
        raise ValueError(f"--data {path} is a file: expected the folder that holds {' or '.join(names)}")
    if not path.exists() and path.parts[:1] != ("data",):
        raise ValueError(f"--data {path}: there is no such folder; make it first if the data should go there")
    return holding(path, names) or path


def holding(path: Path, names: Iterable[str]) -> Path | None:
    """The folder that holds one of the names: the one given, or one above or below it; or None."""
    below = sorted(path.glob("*/")) if path.is_dir() else []
    for folder in (path, *([path.parent] if path.name in names else []), *below):
        if any((folder / name).exists() for name in names):
            return folder
    return None


def count_layers(network: Module, *kinds: type[Module]) -> int:
    """How many layers of these classes a network holds."""
    return sum(isinstance(module, kinds) for _, module in network.named_modules())


def in_precision(products: str, network: Module) -> Module:
    """The network as it computes in a precision; on a GPU, arranged for it.

    Raises ValueError for float16 and a network of another class, whose logits would not be float32.
    """
    if products == "float16" and not isinstance(network, ResidualNetwork):
        raise ValueError(f"precision float16 is for a ResidualNetwork, got a {type(network).__name__}: give "
                         "--precision tf32")
    if backend.current() is not numpy:
        block.arrange(network)
    return precision.Float16(network) if products == "float16" else network


def build_optimizer(settings: Settings, model: Module, checkpoint: Checkpoint | None) -> Optimizer:
    """The optimizer that the settings describe for a model from `in_precision`, with a checkpoint's state."""
    optimizer: Optimizer
    if settings.optimizer == "adam":
        optimizer = Adam(model.parameters(), settings.lr, (settings.momentum, 0.999),
                         weight_decay=settings.weight_decay)
    else:
        optimizer = SGD(model.parameters(), settings.lr, settings.momentum, settings.weight_decay)
    if isinstance(model, precision.Float16):
        optimizer = loss_scale.ScaledOptimizer(optimizer, model)
    if checkpoint:  # which may come from another precision
        with refusing(f"{checkpoint.path} is of another optimizer"):
            optimizer.load_state_dict({name: value for name, value in checkpoint.optimizer.items()
                                       if name in optimizer.state or name not in loss_scale.SCALE_STATE})
    return optimizer


def build_schedule(settings: Settings, drops: Callable[[int], float]) -> Callable[[int], float]:
    """step -> learning rate as --schedule says. drops: the paper's."""
    if settings.schedule == "drops":
        return drops
    return {"one-cycle": one_cycle, "cosine": cosine_decay}[settings.schedule](settings.lr, settings.steps)


@contextmanager
def shared(launch: Launch, batch_size: int, model: Module, group: Group) -> Iterator[Group]:
    """The processes that share the work within this context: those of the group or, on a CPU, forked ones.

    Raises ValueError if --processes asks to share a GPU, which takes --distributed.
    """
    if launch.distributed or backend.current() is not numpy:
        if launch.processes:
            raise ValueError(f"--processes {launch.processes} shares a CPU, and a GPU computes here: give "
                             "--backend numpy, or mpirun and --distributed")
        yield group
        return
    count = launch.processes or process_count(batch_size, model.num_parameters())
    if count > 1:
        print(f"{count} processes share the work (--processes).")
    with forked(count) as group:
        yield group


def run(settings: Settings, launch: Launch, network: Module, schedule: Callable[[int], float],
        dataset: Dataset, headline: str, checkpoint: Checkpoint | None = None,
        group: Group = SINGLE_PROCESS, crop_padding: int = PADDING) -> Metrics:
    """Print the headline and train the network, from the checkpoint on if there is one; or make a dry run.

    schedule: step -> learning rate. group: the processes that mpirun started. crop_padding: as in `Run`.
    Raises ValueError if the folder already holds another run, or this one with all its steps; RuntimeError if
    a step needs more memory than the GPU has; SystemExit as `end_if_stopped`.
    """
    if checkpoint and checkpoint.step >= settings.steps:
        raise ValueError(f"{launch.out} is at step {checkpoint.step} already: to continue, give --steps "
                         "more than that")
    model = in_precision(settings.precision, network)
    optimizer = build_optimizer(settings, model, checkpoint)
    if not launch.dry_run:
        print(headline)
    check_batch(settings.batch_size, launch.processes or group.size)  # before that many are started
    with shared(launch, settings.batch_size, model, group) as group:
        whole = launch.capture and group.size == 1
        compute = capture.captured(loss_and_error) if whole else loss_and_error
        if launch.dry_run:
            return dry_run(model, optimizer, schedule, dataset, settings.steps, settings.batch_size, group,
                           compute)
        record = Run(launch.out, settings.config(), seed=settings.seed, group=group, overwrite=launch.demo,
                     step=checkpoint.step if checkpoint else 0, evaluate_every=settings.evaluate_every,
                     crop_padding=crop_padding)
        if backend.current() is not numpy:
            images, _ = dataset.test.evaluation_batch(numpy.arange(1))
            captured = whole and not [*model.named_generators()]  # else it draws random numbers
            text = trial.describe(model, compute, images.shape[1:], settings.batch_size // group.size,
                                  settings.steps - record.step,
                                  f"{settings.precision}, {'captured' if captured else 'not captured'}"
                                  f"{': several processes' * (group.size > 1)}")
            if group.rank == 0:
                print(text)
        metrics = train(model, optimizer, schedule, dataset, record, steps=settings.steps,
                        batch_size=settings.batch_size, compute=compute)
    remedy = (f"To continue:  python {Path(sys.argv[0]).name} --resume --data "
              f"{shlex.quote(str(settings.data))} --out {shlex.quote(str(launch.out))}"
              f"{f' --backend {launch.backend}' * (launch.backend != 'auto')}"
              f"{f' --processes {launch.processes}' if launch.processes else ''}"
              f"{' --distributed' * launch.distributed}{' --no-capture' * (not launch.capture)}")
    if launch.demo:
        remedy = "The demo starts over when run again."
    elif metrics[-1]["step"] == settings.steps:
        remedy = "It was the last one."
    end_if_stopped(record, remedy)
    return metrics


def test(settings: Settings, launch: Launch, network: Module, split: Split,
         group: Group) -> dict[str, float]:
    """The figures of a saved network, as `training.evaluate` has them."""
    model = in_precision(settings.precision, network)
    with shared(launch, settings.batch_size, model, group) as group:
        return evaluate(model, split, group)


def end_if_stopped(run: Run, remedy: str) -> None:
    """If a signal has asked a run to stop, end the program as that signal would have: with status 128 + its
    number, as in a shell. remedy: how to continue."""
    if run.stopped_by:
        print(f"Stopped and saved after step {run.metrics[-1]['step']}. {remedy}")
        sys.exit(128 + run.stopped_by)


def print_result(settings: Settings, launch: Launch, errors: Mapping[str, float],
                 paper: Mapping[str, float]) -> None:
    """Errors by name beside the paper's, as far as it has them, and every setting that is not the paper's."""
    print(f"\n{'':14}{'this run':>10}{'the paper':>12}")
    for name, error in errors.items():
        print(f"{name:14}{error:>10.2%}{f'{paper[name]:.2%}' if name in paper else '-':>12}")
    print(f"\nDifferent from the paper's run: {settings.differences()}\n"
          f"Curves, metrics and checkpoint are in {launch.out}")


def print_classes(files: Sequence[Path], images: numpy.ndarray, classes: Sequence[str],
                  model: Module) -> None:
    """Print the likeliest classes of each picture. images: what the model sees of the files, (N, H, W, 3)
    uint8."""
    xp = backend.current()
    split = Split(xp.asarray(images), xp.zeros(len(images), numpy.int64))  # labels are not asked
    for file, likelihood in zip(files, probabilities(model, split), strict=True):
        best = numpy.argsort(-likelihood)[:CLASSES_SHOWN]
        print(f"{file}: {', '.join(f'{classes[i]} {likelihood[i]:.1%}' for i in best)}")
