"""Text in a picture: its width, line breaks, raised exponents."""
from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

from .style import LINE_HEIGHT, MARGIN, TEXT_COLOR


@functools.lru_cache(maxsize=64)
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def text_parts(text: str, size: float) -> Iterator[tuple[str, ImageFont.FreeTypeFont, float]]:
    """The parts of a text, each with its font and how far it is raised: the -3 of 10^-3 is small and high."""
    for index, part in enumerate(re.split(r"\^(-?\d+)", text)):
        yield (part, _font(0.72 * size), 0.38 * size) if index % 2 else (part, _font(size), 0.0)


def text_width(text: str, size: float) -> float:
    return sum(font.getlength(part) for part, font, _ in text_parts(text, size))


def draw_text(image: Image.Image, x: float, middle: float, size: float, text: str, align: float,
              color: str = TEXT_COLOR) -> None:
    """Draw text around the height `middle`; x is its left end (align 0), center (0.5) or right end (1)."""
    x -= align * text_width(text, size)
    for part, font, raised in text_parts(text, size):
        baseline = middle + 0.36 * size - raised
        ImageDraw.Draw(image).text((x, baseline), part, fill=color, font=font, anchor="ls")
        x += font.getlength(part)


def draw_paragraph(image: Image.Image, center: float, top: float, size: float, lines: Sequence[str]) -> None:
    """Draw centered lines of text, moved left where they would come too close to the image's right edge."""
    for index, line in enumerate(lines):
        line_center = min(center, image.width - (MARGIN + text_width(line, size)) / 2)
        draw_text(image, line_center, top + LINE_HEIGHT * size * (index + 0.5), size, line, 0.5)


def _wrap(text: str, size: float, width: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def fit(text: str, size: float, width: float) -> tuple[float, list[str]]:
    """The font size and lines that fit a text into a width: a bit smaller, or else on up to three lines."""
    lines: list[str] = []
    for most_lines, scale in [(1, 1.0), (1, 0.9), (1, 0.8), *((3, 0.93**k) for k in range(50))]:
        lines = _wrap(text, scale * size, width)
        if len(lines) <= most_lines and all(text_width(line, scale * size) <= width for line in lines):
            break
    # The narrowest width that needs no more lines makes them about equally long.
    choices = (_wrap(text, scale * size, fraction * width) for fraction in (0.55, 0.7, 0.85, 1.0))
    return scale * size, next(choice for choice in choices if len(choice) == len(lines))
