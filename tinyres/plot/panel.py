"""A pair of axes with its lines, grid, labels and legend, as an image."""
from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from PIL import Image, ImageChops, ImageDraw, ImageStat

from .axes import Axis, Ticks, coordinates, data_range, is_range, minor_ticks, ticks
from .strokes import Box, Point, draw_series
from .style import (
    AXIS_COLOR,
    GRID_COLOR,
    LABEL_SIZE,
    LINE_HEIGHT,
    MARGIN,
    MINOR_GRID_COLOR,
    MINOR_TICK_LENGTH,
    PALETTE,
    PANEL_HEIGHT,
    PANEL_TITLE_SIZE,
    PANEL_WIDTH,
    STYLES,
    TICK_LENGTH,
    TICK_SIZE,
)
from .text import draw_paragraph, draw_text, fit, text_width


@dataclass
class Line:
    """One series of a chart; x and y are lists of numbers of the same length.

    A value that cannot be shown leaves a gap: one that is not finite, not positive on a log axis, or 1e300 or
    more on a linear axis. label is the text in the legend, "" for none. style is "solid", "dashed", "dotted"
    or "points". color is an index into PALETTE; None takes the next color that no line of the panel asks for.
    """

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    style: str = "solid"
    color: int | None = None


@dataclass
class Panel:
    """One pair of axes with its lines, drawn in the given order.

    y_range holds the lowest and the highest value of the y axis; None takes them from the data. The font has
    little more than ASCII. In every text the exponent of a power such as 10^-3 is raised.
    """

    lines: Sequence[Line]
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    y_range: tuple[float, float] | None = None


def _line_coordinates(panel: Panel, line: Line) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Check a line and return its axis coordinates x and y, both NaN where there is a gap."""
    name = f"line {line.label!r} of panel {panel.title!r}"
    if numpy.ndim(line.x) != 1 or numpy.shape(line.x) != numpy.shape(line.y):
        raise ValueError(f"{name}: x has shape {numpy.shape(line.x)} and y has {numpy.shape(line.y)}; "
                         "give two lists of numbers of the same length")
    if line.style not in STYLES:
        raise ValueError(f"{name}: unknown style {line.style!r}; choose one of {', '.join(STYLES)}")
    if line.color is not None and line.color not in range(len(PALETTE)):
        raise ValueError(f"{name}: no color {line.color!r} in the palette; choose 0 to {len(PALETTE) - 1}")
    x, y = coordinates(line.x, panel.log_x), coordinates(line.y, panel.log_y)
    gap = numpy.isnan(x + y)
    return numpy.where(gap, numpy.nan, x), numpy.where(gap, numpy.nan, y)


def line_colors(lines: Sequence[Line]) -> list[str]:
    """The color of each line: its own, or the next one that no line asks for."""
    asked = {line.color for line in lines}
    free = itertools.cycle([i for i in range(len(PALETTE)) if i not in asked] or range(len(PALETTE)))
    return [PALETTE[next(free) if line.color is None else line.color] for line in lines]


def draw_panel(panel: Panel) -> Image.Image:
    """Draw one panel as an image."""
    image = Image.new("RGB", (PANEL_WIDTH, PANEL_HEIGHT), "white")
    data = [_line_coordinates(panel, line) for line in panel.lines]
    x_range = data_range([x for x, _ in data], panel.log_x, 0.02)
    y_range = data_range([y for _, y in data], panel.log_y, 0.06)
    if panel.y_range is not None:
        y_range = tuple(coordinates(panel.y_range, panel.log_y).tolist())
        if len(y_range) != 2 or not is_range(*y_range, panel.log_y):
            raise ValueError(f"panel {panel.title!r}: y_range is {panel.y_range}; give two finite numbers, "
                             "the lower one first, both above zero on a log axis")

    # The plot gets the room that titles, labels and tick numbers leave: first its height, then its width.
    title_size, title = fit(panel.title, PANEL_TITLE_SIZE, PANEL_WIDTH - 2 * MARGIN)
    x_label_size, x_label = fit(panel.x_label, LABEL_SIZE, PANEL_WIDTH - 8 * MARGIN)
    top = round(1.5 * MARGIN + LINE_HEIGHT * title_size * len(title))
    x_label_top = PANEL_HEIGHT - MARGIN / 2 - LINE_HEIGHT * x_label_size * len(x_label)
    bottom = round(x_label_top - MARGIN / 2 - 2 * TICK_SIZE)
    y_label_size, y_label = fit(panel.y_label, LABEL_SIZE, bottom - top)
    y_label_height = math.ceil(LINE_HEIGHT * y_label_size * len(y_label))
    y_axis = Axis(*y_range, panel.log_y, bottom, top)
    y_ticks = ticks(y_axis, upright=True)
    labels_width = max([text_width(label, TICK_SIZE) for _, label in y_ticks] + [2.2 * TICK_SIZE])
    left, right = round(MARGIN + y_label_height + labels_width + 2 * TICK_LENGTH), PANEL_WIDTH - 2 * MARGIN
    x_axis = Axis(*x_range, panel.log_x, left, right)
    # Epochs and counts are integers, and so are their ticks.
    integers = not panel.log_x and all(numpy.all(x[~numpy.isnan(x)] % 1 == 0) for x, _ in data)
    x_ticks = ticks(x_axis, upright=False, integers=integers)

    box, center = (left, top, right, bottom), (left + right) / 2
    empty = all(numpy.isnan(x).all() for x, _ in data)
    if empty:
        draw_text(image, center, (top + bottom) / 2, PANEL_TITLE_SIZE, "no data", 0.5)
    else:
        _draw_grid(image, x_axis, y_axis, x_ticks, y_ticks)
    draw = ImageDraw.Draw(image)
    draw.rectangle((left - 1, top, left, bottom), fill=AXIS_COLOR)
    draw.rectangle((left - 1, bottom - 1, right, bottom), fill=AXIS_COLOR)
    draw_paragraph(image, center, 0.75 * MARGIN, title_size, title)
    draw_paragraph(image, center, x_label_top, x_label_size, x_label)
    if y_label:
        strip = Image.new("RGB", (bottom - top, y_label_height), "white")
        draw_paragraph(strip, strip.width / 2, 0, y_label_size, y_label)
        image.paste(strip.transpose(Image.Transpose.ROTATE_90), (MARGIN // 2, top))

    colors, without_lines = line_colors(panel.lines), image.copy()
    for line, color, (x, y) in zip(panel.lines, colors, data, strict=True):
        points = zip(x_axis.pixels(x), y_axis.pixels(y), strict=True)
        draw_series(image, points, line.style, color, box)
    entries = [(line, color) for line, color in zip(panel.lines, colors, strict=True) if line.label]
    if entries:
        _draw_legend(image, entries, ImageChops.difference(image, without_lines), box)
    return image


def _draw_grid(image: Image.Image, x_axis: Axis, y_axis: Axis, x_ticks: Ticks, y_ticks: Ticks) -> None:
    """Draw grid lines, tick marks and tick labels."""
    draw = ImageDraw.Draw(image)
    left, right, bottom, top = x_axis.start, x_axis.end, y_axis.start, y_axis.end
    for color, length, x_places, y_places in (
        (MINOR_GRID_COLOR, MINOR_TICK_LENGTH, minor_ticks(x_axis), minor_ticks(y_axis)),
        (GRID_COLOR, TICK_LENGTH, [place for place, _ in x_ticks], [place for place, _ in y_ticks]),
    ):
        for x in map(round, x_axis.pixels(x_places)):
            draw.rectangle((x - 1, top, x, bottom), fill=color)
            draw.rectangle((x - 1, bottom, x, bottom + length), fill=AXIS_COLOR)
        for y in map(round, y_axis.pixels(y_places)):
            draw.rectangle((left, y - 1, right, y), fill=color)
            draw.rectangle((left - length, y - 1, left, y), fill=AXIS_COLOR)
    for place, label in x_ticks:
        draw_paragraph(image, x_axis.pixels([place])[0], bottom + 2 * TICK_LENGTH, TICK_SIZE, [label])
    for place, label in y_ticks:
        draw_text(image, left - 1.8 * TICK_LENGTH, y_axis.pixels([place])[0], TICK_SIZE, label, 1)


def _draw_legend(image: Image.Image, entries: list[tuple[Line, str]], lines: Image.Image, box: Box) -> None:
    """Draw the legend where it hides the least of the lines, which an image shows on black: if possible in a
    corner of the box, or halfway between two at the top or bottom, else anywhere."""
    left, top, right, bottom = (box[0] + 16, box[1] + 16, box[2] - 16, box[3] - 16)
    for size in (TICK_SIZE * 0.93**k for k in range(50)):  # as large as fits
        width = 4.8 * size + max(text_width(line.label, size) for line, _ in entries)
        height = size * (0.8 + 1.5 * len(entries))
        if width <= right - left and height <= bottom - top:
            break
    lines = lines.convert("L").point(bool)

    @functools.cache
    def hidden(place: Point) -> float:
        x, y = place
        return ImageStat.Stat(lines.crop((x - 6, y - 6, x + width + 6, y + height + 6))).sum[0]

    corners = [(x, y) for y in (top, bottom - height) for x in (right - width, left)]
    between = [((left + right - width) / 2, y) for y in (top, bottom - height)]
    anywhere = [(left + i / 8 * (right - width - left), top + j / 8 * (bottom - height - top))
                for j in range(9) for i in range(9)]
    places = corners + between + anywhere
    free = next((place for place in places if not hidden(place)), None)  # mostly a corner: no need to look on
    x, y = map(round, free or min(places, key=hidden))
    veil = Image.new("L", (round(width), round(height)), 215)
    image.paste("white", (x, y), veil)
    ImageDraw.Draw(image).rectangle((x, y, x + veil.width, y + veil.height), outline=GRID_COLOR, width=2)
    for index, (line, color) in enumerate(entries):
        middle, start, end = y + size * (1.15 + 1.5 * index), x + 0.8 * size, x + 3.2 * size
        sample = [((start + end) / 2, middle)] if line.style == "points" else [(start, middle), (end, middle)]
        draw_series(image, sample, line.style, color, box)
        draw_text(image, end + 0.6 * size, middle, size, line.label, 0)
