"""Drawings other than charts: text, boxes, arrows, cells with numbers and images, each at a given place.

All positions and sizes are in pixels of the file, x to the right and y down. A drawing 2560 pixels wide is
meant to fill a screen; text of 40 pixels can then be read from the back of a room.
"""
from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy
from PIL import Image, ImageColor, ImageDraw

from ..support.files import user_path, write_atomically
from .strokes import Point, draw_strokes
from .style import LINE_HEIGHT, PALETTE, TEXT_COLOR
from .text import draw_text, text_width

TEXT_SIZE = 40


class Drawing:
    """A white page of width x height pixels. A color is an index into `plot.PALETTE` or "#rrggbb"."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), "white")

    def text(self, x: float, y: float, text: str, size: float = TEXT_SIZE, align: float = 0.5,
             color: int | str = TEXT_COLOR) -> None:
        """Lines of text around the height y; x is their left end (align 0), center (0.5) or right end (1)."""
        lines = text.split("\n")
        for index, line in enumerate(lines):
            middle = y + (index - (len(lines) - 1) / 2) * LINE_HEIGHT * size
            draw_text(self.image, x, middle, size, line, align, _color(color))

    def box(self, x: float, y: float, width: float, height: float, text: str = "", *,
            color: int | str = TEXT_COLOR, size: float = TEXT_SIZE) -> None:
        """A box around (x, y), tinted with its color; lines of text in it, as large as fits, up to `size`."""
        corners = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        ImageDraw.Draw(self.image).rounded_rectangle(corners, radius=18, fill=tint(color, 0.12),
                                                     outline=_color(color), width=4)
        lines = text.split("\n")
        widest = max(text_width(line, size) for line in lines)
        self.text(x, y, text, size * min(1, (width - size / 2) / max(widest, 1),
                                         height / (LINE_HEIGHT * size * (len(lines) + 0.2))))

    def arrow(self, start: Point, end: Point, *, color: int | str = TEXT_COLOR) -> None:
        """A straight arrow with its tip at `end`."""
        tip, whole = numpy.array(end), numpy.subtract(end, start)
        head = whole * min(1, 30 / math.hypot(*whole))
        neck, side = tip - head, head[::-1] * (0.5, -0.5)
        draw_strokes(self.image, [[start, neck]], 3, _color(color), (0, 0, *self.image.size))
        ImageDraw.Draw(self.image).polygon([tuple(point) for point in (tip, neck + side, neck - side)],
                                           fill=_color(color))

    def cells(self, x: float, y: float, side: float, texts: Sequence[Sequence[object]],
              fills: Sequence[Sequence[str]]) -> None:
        """A table of square cells, each with a text and a color; its top left corner is at (x, y)."""
        draw = ImageDraw.Draw(self.image)
        for i, row in enumerate(texts):
            for j, text in enumerate(row):
                left, top, fill = round(x + j * side), round(y + i * side), fills[i][j]
                draw.rectangle((left, top, round(left + side), round(top + side)), fill=fill,
                               outline="#8C959F", width=2)
                red, green, blue = ImageColor.getrgb(fill)
                dark = 0.3 * red + 0.6 * green + 0.1 * blue < 120
                self.text(left + side / 2, top + side / 2, str(text), 0.42 * side,
                          color="#FFFFFF" if dark else TEXT_COLOR)

    def frame(self, x: float, y: float, width: float, height: float, color: int | str) -> None:
        """A thick empty rectangle that points out what is in it; its top left corner is at (x, y)."""
        ImageDraw.Draw(self.image).rectangle((x - 4, y - 4, x + width + 4, y + height + 4),
                                             outline=_color(color), width=8)

    def pixels(self, x: float, y: float, side: float, image: numpy.ndarray) -> None:
        """An image (H, W, 3) uint8, enlarged to a width of `side`; its top left corner is at (x, y)."""
        enlarged = Image.fromarray(image).resize((round(side), round(side * image.shape[0] / image.shape[1])),
                                                 Image.Resampling.NEAREST)
        self.image.paste(enlarged, (round(x), round(y)))

    def save(self, path: str | os.PathLike) -> None:
        """Save as PNG, complete or not at all. Raises FileNotFoundError if its folder is missing."""
        write_png(path, self.image)


def tint(color: int | str, strength: float) -> str:
    """A color mixed with white, as "#rrggbb": strength 0 is white, 1 the color."""
    return "#" + "".join(f"{round(255 - strength * (255 - part)):02X}"
                         for part in ImageColor.getrgb(_color(color)))


def write_png(path: str | os.PathLike, image: Image.Image) -> None:
    """Write a whole PNG file, or leave an older one as it was.

    Raises FileNotFoundError if its folder is missing.
    """
    path = user_path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot save {path}: there is no folder {path.parent}; create it first")
    write_atomically(path, lambda file: image.save(file, format="PNG"))


def _color(color: int | str) -> str:
    return PALETTE[color] if isinstance(color, int) else color
