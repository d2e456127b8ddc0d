"""Pictures drawn with Pillow and saved as PNG: line charts, and drawings of boxes, arrows and cells.

Data become axis coordinates, each axis chooses round tick numbers (axes.py), and the lines become strokes of
pixels (strokes.py). Pillow draws the text (text.py) and the grid (panel.py). Pictures that are not charts are
put together from boxes, arrows, cells and images (drawing.py).
"""
from __future__ import annotations

import math
import os
from collections.abc import Sequence

from PIL import Image

from .drawing import Drawing, tint, write_png
from .panel import Line, Panel, draw_panel
from .style import LINE_HEIGHT, MARGIN, PALETTE, PANEL_HEIGHT, PANEL_WIDTH, STYLES, TITLE_SIZE
from .text import draw_paragraph, fit

__all__ = ["PALETTE", "STYLES", "Drawing", "Line", "Panel", "save", "tint"]


def save(path: str | os.PathLike, panels: Panel | Sequence[Panel], title: str = "") -> None:
    """Draw one to four panels, 1280 x 880 pixels each, and save them as a PNG file.

    Two panels stand side by side, three or four in a grid of two by two; a title adds a strip on top.
    The file appears complete or not at all: if anything fails, an older file at `path` stays as it was.

    Raises ValueError for x and y that differ in length, an unknown style, a color outside the palette, an
    impossible y_range, or a number of panels other than 1 to 4; FileNotFoundError if the folder is missing.
    """
    panels = [panels] if isinstance(panels, Panel) else list(panels)
    if not 1 <= len(panels) <= 4:
        raise ValueError(f"a chart has 1 to 4 panels, not {len(panels)}; put further ones in another file")
    columns, rows = min(len(panels), 2), (len(panels) + 1) // 2
    size, text = fit(title, TITLE_SIZE, columns * PANEL_WIDTH - 2 * MARGIN)
    top = math.ceil(LINE_HEIGHT * size * len(text)) + MARGIN if text else 0
    image = Image.new("RGB", (columns * PANEL_WIDTH, top + rows * PANEL_HEIGHT), "white")
    draw_paragraph(image, image.width / 2, MARGIN, size, text)
    for index, panel in enumerate(panels):
        image.paste(draw_panel(panel), (index % 2 * PANEL_WIDTH, top + index // 2 * PANEL_HEIGHT))
    write_png(path, image)
