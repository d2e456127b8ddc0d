"""Lessons: pages to project and to run, each a module that says something, shows it, and draws it.

    python -m tinyres.lessons.graph            what a network is to the engine: a graph, walked backwards
    python -m tinyres.lessons.chain_rule       five vector-Jacobian products by hand, each checked by numbers
    python -m tinyres.lessons.convolution      im2col, and why the gradient is a convolution again
    python -m tinyres.lessons.optimizers       SGD, momentum and Adam in a valley
    python -m tinyres.lessons.depth            what thirty layers without identity lose, and what they do not
    python -m tinyres.lessons.exercises        ten functions of this package, to be written anew

Pictures go to runs/lessons/. Each lesson takes less than half a minute on two cores.
"""
from __future__ import annotations

from pathlib import Path

PICTURES = Path("runs/lessons")


def picture(out: Path, name: str) -> Path:
    """The path of a lesson's picture, printed, in a folder that is made if absent."""
    out.mkdir(parents=True, exist_ok=True)
    print(f"\nPicture: {out / name}")
    return out / name
