"""Lessons: pages to project and run. Each is a module that explains something, checks it, and draws it.

    python -m tinyres.lessons.graph            what a network is to the engine: a graph, walked backwards
    python -m tinyres.lessons.chain_rule       five vector-Jacobian products by hand, each checked numerically
    python -m tinyres.lessons.convolution      im2col, and why the gradient is a convolution again
    python -m tinyres.lessons.optimizers       SGD, momentum and Adam in a valley
    python -m tinyres.lessons.depth            what thirty layers without identity lose, and what they do not
    python -m tinyres.lessons.normalization    what identity and normalization do for a deep network
    python -m tinyres.lessons.exercise_checks  ten functions of this package, for you to write again in
                                               exercises.py: what is wrong with them, and your score

Pictures go to runs/lessons/. Each lesson takes a second or two, except depth and normalization: they train
networks, which takes up to a minute on two cores.
"""
from __future__ import annotations

from pathlib import Path

PICTURES = Path("runs/lessons")


def picture(out: Path, name: str) -> Path:
    """Make the folder if it is absent, print where the lesson's picture goes, and return that path."""
    out.mkdir(parents=True, exist_ok=True)
    print(f"\nPicture: {out / name}")
    return out / name
