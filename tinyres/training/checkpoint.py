"""Checkpoints: weights, an optimizer's state, step and settings in one .npz file of plain arrays; a module's
state alone in such a file."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from ..nn import Module
from ..optim import Optimizer
from ..support.diverged import Diverged
from ..support.files import read_npz, refusing, user_path, write_atomically


class Checkpoint(NamedTuple):
    """What `save_checkpoint` wrote: give model and optimizer to their `load_state_dict`."""
    model: dict[str, numpy.ndarray]
    optimizer: dict[str, numpy.ndarray]
    step: int
    config: dict[str, Any]
    path: Path | None = None  # of the file that it was read from


def save_checkpoint(path: str | Path, model: Module, optimizer: Optimizer, step: int,
                    config: Mapping[str, Any]) -> None:
    """Write a checkpoint; it replaces an older one only once it is whole.

    step: steps done. config: settings, for JSON.
    Raises Diverged, and writes nothing, if a weight or an array of the optimizer's state is not finite.
    """
    write_checkpoint(path, Checkpoint(model.state_dict(), optimizer.state_dict(), step, dict(config)))


def write_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """`save_checkpoint` of arrays that are in memory already."""
    path, step, config = user_path(path), checkpoint.step, checkpoint.config
    arrays = {f"{part}/{name}": value for part in ("model", "optimizer")
              for name, value in getattr(checkpoint, part).items()}
    for name, value in arrays.items():
        if not numpy.isfinite(value).all():
            raise Diverged(name, step=step, last_good=f"nothing was saved; {last_good(path)}")
    arrays |= {"step": numpy.int64(step), "config": numpy.array(json.dumps(config))}
    write_atomically(path, lambda file: numpy.savez(file, **arrays))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint from a file of any origin: nothing in it is executed, and it takes no more memory
    than the file is long.

    Raises FileNotFoundError if there is no such file, ValueError if it is not a whole checkpoint.
    """
    if user_path(path).is_dir():
        raise ValueError(f"{path} is a folder: expected a file, such as the checkpoint.npz of a run")
    if not user_path(path).exists():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    parts: dict[str, dict[str, numpy.ndarray]] = {"model": {}, "optimizer": {}}
    with refusing(f"{path} is not a whole checkpoint of tinyres"):
        arrays = read_npz(path)
        step, config = arrays.pop("step"), arrays.pop("config")
        for name, value in arrays.items():
            part, _, key = name.partition("/")
            number = value.dtype.kind == "f" and value.itemsize <= 8 and numpy.isfinite(value).all()
            if not number and value.dtype != numpy.uint64:  # a random number generator's state
                raise ValueError(f"{name!r:.60} is {value.dtype}, expected finite floats")
            parts[part][key] = value
        settings = json.loads(config.item())
        if step.dtype.kind != "i" or step.item() < 0 or not isinstance(settings, dict):
            raise ValueError("its step is not an integer >= 0, or its config not an object")
        return Checkpoint(parts["model"], parts["optimizer"], step.item(), settings, Path(path))


def save(module: Module, path: str | Path) -> None:
    """Write what `module.state_dict()` holds into an .npz file; it replaces an older one only once it is
    whole. The array of a parameter is called model/NAME there, as in a checkpoint."""
    arrays = {f"model/{name}": value for name, value in module.state_dict().items()}
    write_atomically(Path(path), lambda file: numpy.savez(file, **arrays))


def load(module: Module, path: str | Path) -> None:
    """Set a module to the state that `save` wrote, or that is in the checkpoint.npz of a run. Nothing in the
    file is executed.

    Raises FileNotFoundError if there is no such file, ValueError, changing nothing, if it is not one of
    those or of another module.
    """
    if not user_path(path).exists():
        raise FileNotFoundError(f"there is no file {path}")
    with refusing(f"{path} is not a whole file of tr.save"):
        arrays = read_npz(path)
    module.load_state_dict({name.removeprefix("model/"): value for name, value in arrays.items()
                            if name.startswith("model/")})


def last_good(path: Path) -> str:
    """Which checkpoint there is to go back to, in words."""
    return f"the last good checkpoint is {path}" if path.exists() else "no checkpoint had been saved yet"
