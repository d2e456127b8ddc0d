"""Pictures of a run: learning curves, and how far its blocks are from the identity."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import plot

Metrics = list[dict[str, Any]]  # the lines of a metrics.jsonl


def draw_curves(path: str | Path, runs: Mapping[str, Metrics]) -> None:
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


def draw_identity(path: str | Path, metrics: Metrics) -> None:
    """Draw ||h(x)|| / ||x|| of every residual block against its depth, before training, at a middle and
    at the last evaluation, and one over the number of blocks, as Theorem 2.1 has it of linear networks."""
    lines = [line for line in metrics if "residual_ratios" in line]
    if not lines:
        return
    shown, depth = sorted({0, (len(lines) - 1) // 2, len(lines) - 1}), len(lines[0]["residual_ratios"])
    drawn = [plot.Line(range(1, depth + 1), lines[i]["residual_ratios"], f"step {lines[i]['step']}")
             for i in shown]
    drawn.append(plot.Line([1, depth], [1 / depth] * 2, f"1 / {depth}", "dotted"))
    plot.save(path, plot.Panel(drawn, "How far each block is from the identity", "residual block",
                               "||h(x)|| / ||x||", log_y=True))
