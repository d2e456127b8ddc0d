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
    """From 0 to above all losses, so that noise around one value does not look like a descent."""
    return 0.0, 1.1 * max((max(line.y, default=1) for line in lines), default=1)


def draw_identity(path: str | Path, metrics: Metrics) -> None:
    """Draw ||h(x)|| / ||x|| of every residual block against its depth, before training, at an evaluation in
    the middle and at the last, beside 1 / number of blocks, what Theorem 2.1 says of linear networks."""
    lines = [line for line in metrics if "residual_ratios" in line]
    if not lines:
        return
    ratios = [line["residual_ratios"] for line in lines]
    shown, depth = sorted({0, (len(lines) - 1) // 2, len(lines) - 1}), len(ratios[0])
    drawn = [plot.Line(range(1, len(ratios[i]) + 1), ratios[i], f"step {lines[i]['step']}") for i in shown]
    drawn.append(plot.Line([1, depth], [1 / depth] * 2, f"1 / {depth}", "dotted"))
    plot.save(path, plot.Panel(drawn, "How far each block is from the identity", "residual block",
                               "||h(x)|| / ||x||", log_y=True))
