"""Line charts drawn with Pillow and saved as PNG: learning curves and theory pictures.

Data become axis coordinates (a value, or its base-10 logarithm), each axis chooses round tick numbers, and
the lines become strokes of pixels. Pillow draws the text and the grid; the strokes are computed here from the
distance of each pixel to the line, which gives smooth edges and round joints at positions finer than a pixel.
"""

import functools
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .files import write_atomically

# Okabe and Ito, "Color Universal Design" (2008), in their order without yellow, which is too faint on white.
PALETTE = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
TEXT_COLOR, AXIS_COLOR, GRID_COLOR, MINOR_GRID_COLOR = "#24292F", "#8C959F", "#E1E4E8", "#F1F3F5"

# All sizes are in pixels of the file. A panel is meant to be shown half as large, sharp on any screen.
PANEL_WIDTH, PANEL_HEIGHT, MARGIN = 1280, 880, 32
TITLE_SIZE, PANEL_TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 40, 34, 28, 26
TICK_LENGTH, MINOR_TICK_LENGTH, MOST_TICKS = 10, 6, 9
LINE_HEIGHT = 1.3  # from one line of text to the next, in font sizes
STROKE_RADIUS, POINT_RADIUS = 2.2, 6.0
# Lengths of stroke and gap. A solid line is cut too, without gaps, because short pieces are faster to draw.
STYLES = {"solid": (64, 0), "dashed": (16, 12), "dotted": (0, 10), "points": (0, 0)}

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom
Ticks = list[tuple[float, str]]  # axis coordinate and label


@dataclass
class Line:
    """One series of a chart; x and y are equally many numbers.

    A value that cannot be shown leaves a gap: not finite, not positive on a log axis, or 1e300 and more on a
    linear one. label is the text in the legend, "" for none. style is "solid", "dashed", "dotted" or
    "points". color is an index into PALETTE; None takes the next color that no line of the panel asks for.
    """

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""
    style: str = "solid"
    color: int | None = None


@dataclass
class Panel:
    """One pair of axes with its lines, drawn in the order given.

    y_range is the lowest and highest value of the y axis; None takes them from the data. The font has little
    more than ASCII; a power such as 10^-3 is drawn raised in every text.
    """

    lines: Sequence[Line]
    title: str = ""
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    y_range: tuple[float, float] | None = None


def save(path: str | os.PathLike, panels: Panel | Sequence[Panel], title: str = "") -> None:
    """Draw one to four panels, 1280 x 880 pixels each, and save them as a PNG file.

    Two panels stand side by side, three or four in a grid of two by two; a title adds a strip on top.
    The file appears complete or not at all: an older file at `path` stays as it was if anything fails.

    Raises ValueError for x and y that differ in length, an unknown style, a color outside the palette, an
    impossible y_range, or a number of panels other than 1 to 4; FileNotFoundError if there is no such folder.
    """
    panels = [panels] if isinstance(panels, Panel) else list(panels)
    if not 1 <= len(panels) <= 4:
        raise ValueError(f"a chart has 1 to 4 panels, not {len(panels)}; put further ones in another file")
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot save {path}: there is no folder {path.parent}; create it first")

    columns, rows = min(len(panels), 2), (len(panels) + 1) // 2
    size, text = _fit(title, TITLE_SIZE, columns * PANEL_WIDTH - 2 * MARGIN)
    top = math.ceil(LINE_HEIGHT * size * len(text)) + MARGIN if text else 0
    image = Image.new("RGB", (columns * PANEL_WIDTH, top + rows * PANEL_HEIGHT), "white")
    _draw_paragraph(image, image.width / 2, MARGIN, size, text)
    for index, panel in enumerate(panels):
        image.paste(_draw_panel(panel), (index % 2 * PANEL_WIDTH, top + index // 2 * PANEL_HEIGHT))

    write_atomically(path, lambda file: image.save(file, format="PNG"))


# ---- From data to axis coordinates ----


def _coordinates(values: Sequence[float], log: bool) -> np.ndarray:
    """Values, or their base-10 logarithms, as positions on an axis; NaN where nothing can be drawn."""
    values = np.asarray(values, dtype=float)
    if log:
        drawable = np.isfinite(values) & (values > 0)
        return np.log10(values, out=np.full_like(values, np.nan), where=drawable)
    return np.where(np.abs(values) < 1e300, values, np.nan)  # so that differences do not overflow


def _line_coordinates(panel: Panel, line: Line) -> tuple[np.ndarray, np.ndarray]:
    """Check a line and return its axis coordinates x and y, NaN in both where there is a gap."""
    name = f"line {line.label!r} of panel {panel.title!r}"
    if np.ndim(line.x) != 1 or np.shape(line.x) != np.shape(line.y):
        raise ValueError(f"{name}: x has shape {np.shape(line.x)} and y has {np.shape(line.y)}; "
                         "give two lists of numbers of the same length")
    if line.style not in STYLES:
        raise ValueError(f"{name}: unknown style {line.style!r}; choose one of {', '.join(STYLES)}")
    if line.color is not None and line.color not in range(len(PALETTE)):
        raise ValueError(f"{name}: no color {line.color!r} in the palette; choose 0 to {len(PALETTE) - 1}")
    x, y = _coordinates(line.x, panel.log_x), _coordinates(line.y, panel.log_y)
    gap = np.isnan(x + y)
    return np.where(gap, np.nan, x), np.where(gap, np.nan, y)


def _is_range(low: float, high: float, log: bool) -> bool:
    """Whether two axis coordinates are far enough apart for ticks between them; no if one is NaN."""
    return high - low > max(1e-12 * max(-low, high), 1e-12 if log else 1e-280)


def _data_range(arrays: Sequence[np.ndarray], log: bool, padding: float) -> tuple[float, float]:
    """Ends of an axis that shows all the coordinates and some space around them; (0, 1) if there are none."""
    values = np.concatenate([np.empty(0), *arrays])
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    space = padding * (high - low)
    if not _is_range(low, high, log):  # a single value: open a range around it
        size = max(-low, high)
        space = 0.5 if log else 0.5 * size if size > 1e-280 else 1.0
    if not log and 0 <= low < space:  # errors and counts need no room below zero
        return 0.0, high + space
    return low - space, high + space


@dataclass
class _Axis:
    """A range of axis coordinates and the pixels of its two ends."""

    low: float
    high: float
    log: bool
    start: float
    end: float

    def pixels(self, coordinates: Sequence[float] | np.ndarray) -> list[float]:
        with np.errstate(over="ignore"):
            share = (np.asarray(coordinates, dtype=float) - self.low) / (self.high - self.low)
            # A billion pixels away is as good as infinitely far, and stays a number that _clip can use.
            return np.clip(self.start + share * (self.end - self.start), -1e9, 1e9).tolist()


# ---- Ticks: candidates from fine to coarse, of which an axis takes the first without overlaps ----


def _number(mantissa: float, decimals: int, exponent: int) -> str:
    """Text of mantissa * 10^exponent, where the mantissa has this many decimals."""
    if mantissa == 0:
        return "0"
    if -4 <= exponent <= 5:
        return f"{mantissa * 10.0**exponent:.{max(decimals - exponent, 0)}f}"
    text = f"{mantissa:.{max(decimals, 0)}f}"
    return f"10^{exponent}" if text == "1" else f"{text}·10^{exponent}"


def _linear_ticks(low: float, high: float, shift: int = 0) -> Iterator[Ticks]:
    """Multiples of 1, 2 or 5 times a power of ten; the labels show the value times 10^shift."""
    largest = math.floor(math.log10(max(-low, high)))
    finest = math.floor(math.log10((high - low) / 20))
    for power, factor in itertools.product(range(finest, finest + 3), (1, 2, 5)):
        step = factor * 10.0**power
        values = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        yield [(value, _number(value / 10.0**largest, largest - power, largest + shift)) for value in values]


def _log_ticks(low: float, high: float) -> Iterator[Ticks]:
    """Decades; 1, 2 and 5 times a decade where there are few; linear ticks where that is too little too."""

    def label(exponent: int, factor: int = 1) -> str:
        return f"10^{exponent}" if factor == 1 and abs(exponent) > 2 else _number(factor, 0, exponent)

    decades = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    if len(decades) >= 3:
        for step in (1, 2, 5, 10, 20, 50, 100):
            yield [(exponent, label(exponent)) for exponent in decades if exponent % step == 0]
        return
    base = math.floor(low)
    few = [(exponent + math.log10(factor), label(exponent, factor))
           for exponent in range(base, base + 4) for factor in (1, 2, 5)]
    few = [tick for tick in few if low - 1e-9 <= tick[0] <= high + 1e-9]
    if len(few) >= 3:
        yield few
    # As multiples of the decade below, so that numbers near 1e-300 are as easy as those near 1.
    for ticks in _linear_ticks(10.0 ** (low - base), 10.0 ** (high - base), shift=base):
        yield [(base + math.log10(value), text) for value, text in ticks]


def _ticks(axis: _Axis, upright: bool, whole: bool = False) -> Ticks:
    """The finest ticks whose labels keep clear of each other; whole allows whole numbers only."""
    ticks: Ticks = []
    for ticks in _log_ticks(axis.low, axis.high) if axis.log else _linear_ticks(axis.low, axis.high):
        if len(ticks) > MOST_TICKS or whole and any(position % 1 for position, _ in ticks):
            continue
        sizes = [TICK_SIZE if upright else _text_width(label, TICK_SIZE) for _, label in ticks]
        labels = list(zip(axis.pixels([position for position, _ in ticks]), sizes, strict=True))
        if all(abs(b - a) >= (a_size + b_size) / 2 + TICK_SIZE
               for (a, a_size), (b, b_size) in itertools.pairwise(labels)):
            break
    return ticks


def _minor_ticks(axis: _Axis) -> list[float]:
    """On a log axis the places of 1 to 9 times each decade, or of the decades alone if there are many."""
    if not axis.log or axis.high - axis.low > 40:
        return []
    factors = range(1, 10) if axis.high - axis.low <= 10 else (1,)
    decades = range(math.floor(axis.low), math.ceil(axis.high))
    places = (decade + math.log10(factor) for decade in decades for factor in factors)
    return [place for place in places if axis.low <= place <= axis.high]


# ---- Text ----


@functools.lru_cache(maxsize=64)
def _font(size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def _text_parts(text: str, size: float) -> Iterator[tuple[str, ImageFont.FreeTypeFont, float]]:
    """Parts of a text, their font and how far they are raised: the -3 of 10^-3 is small and high."""
    for index, part in enumerate(re.split(r"\^(-?\d+)", text)):
        yield (part, _font(0.72 * size), 0.38 * size) if index % 2 else (part, _font(size), 0.0)


def _text_width(text: str, size: float) -> float:
    return sum(font.getlength(part) for part, font, _ in _text_parts(text, size))


def _draw_text(image: Image.Image, x: float, middle: float, size: float, text: str, align: float) -> None:
    """Draw text around the height `middle`; x is its left end (align 0), middle (0.5) or right end (1)."""
    x -= align * _text_width(text, size)
    for part, font, raised in _text_parts(text, size):
        baseline = middle + 0.36 * size - raised
        ImageDraw.Draw(image).text((x, baseline), part, fill=TEXT_COLOR, font=font, anchor="ls")
        x += font.getlength(part)


def _draw_paragraph(image: Image.Image, center: float, top: float, size: float, lines: Sequence[str]) -> None:
    """Draw centered lines of text, moved left where they would come too near the right edge of the image."""
    for index, line in enumerate(lines):
        line_center = min(center, image.width - (MARGIN + _text_width(line, size)) / 2)
        _draw_text(image, line_center, top + LINE_HEIGHT * size * (index + 0.5), size, line, 0.5)


def _wrap(text: str, size: float, width: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and _text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _fit(text: str, size: float, width: float) -> tuple[float, list[str]]:
    """Font size and lines that show a text within a width: a little smaller, or else on up to three lines."""
    lines: list[str] = []
    for most_lines, scale in [(1, 1.0), (1, 0.9), (1, 0.8), *((3, 0.93**k) for k in range(50))]:
        lines = _wrap(text, scale * size, width)
        if len(lines) <= most_lines and all(_text_width(line, scale * size) <= width for line in lines):
            break
    # The narrowest width that gives as many lines makes them about equally long.
    choices = (_wrap(text, scale * size, share * width) for share in (0.55, 0.7, 0.85, 1.0))
    return scale * size, next(choice for choice in choices if len(choice) == len(lines))


# ---- Strokes ----


def _clip(start: Point, end: Point, box: Box) -> tuple[Point, Point] | None:
    """The part of a segment inside a box, None if there is none (Liang and Barsky, 1984)."""
    (x, y), dx, dy = start, end[0] - start[0], end[1] - start[1]
    enter, leave = 0.0, 1.0
    for speed, room in ((-dx, x - box[0]), (dx, box[2] - x), (-dy, y - box[1]), (dy, box[3] - y)):
        if speed < 0:
            enter = max(enter, room / speed)
        elif speed > 0:
            leave = min(leave, room / speed)
        elif room < 0:
            return None
    if enter > leave:
        return None
    # An end that is not cut stays exactly as it was: _polylines sees by that which segments are joined.
    return (start if enter == 0 else (x + enter * dx, y + enter * dy),
            end if leave == 1 else (x + leave * dx, y + leave * dy))


def _polylines(points: Iterable[Point], box: Box) -> list[list[Point]]:
    """The connected parts of a line inside a box; a point alone between two gaps is a part of length 0."""
    parts: list[list[Point]] = []
    for gap, group in itertools.groupby(points, key=lambda point: math.isnan(point[0])):
        run, part = [] if gap else list(group), []
        for start, end in zip(run, run[1:] or run, strict=False):
            piece = _clip(start, end, box)
            if piece and part and part[-1] == piece[0]:
                part.append(piece[1])
            elif piece:
                part = list(piece)
                parts.append(part)
    return parts


def _dashes(points: Sequence[Point], stroke: float, gap: float) -> list[list[Point]]:
    """Cut a polyline by the distance travelled along it, so that corners do not disturb the pattern."""
    dashes, dash, drawing, left = [], [points[0]], True, stroke
    for (x, y), (end_x, end_y) in itertools.pairwise(points):
        length, done = math.hypot(end_x - x, end_y - y), 0.0
        while length - done > left:
            done += left
            here = (x + (end_x - x) * done / length, y + (end_y - y) * done / length)
            if drawing:
                dashes.append([*dash, here])
            dash, drawing, left = [here], not drawing, gap if drawing else stroke
        left -= length - done
        dash.append((end_x, end_y))
    return [*dashes, dash] if drawing else dashes


def _draw_strokes(image: Image.Image, strokes: Sequence[list[Point]], radius: float, color: str) -> None:
    """Color the pixels within a radius of polylines, softened over one pixel at the edge."""
    if not strokes:
        return
    cover = np.zeros((image.height, image.width), dtype=np.float32)
    reach = radius + 1
    for (x, y), (end_x, end_y) in itertools.chain.from_iterable(map(itertools.pairwise, strokes)):
        left, right = int(min(x, end_x) - reach), int(max(x, end_x) + reach) + 1
        top, bottom = int(min(y, end_y) - reach), int(max(y, end_y) + reach) + 1
        # From the start of the segment to the middle of each pixel, and to the nearest point of the segment.
        to_x, to_y = np.arange(left, right) + (0.5 - x), np.arange(top, bottom)[:, None] + (0.5 - y)
        dx, dy = end_x - x, end_y - y
        along = np.clip((to_x * dx + to_y * dy) / (dx * dx + dy * dy or 1.0), 0, 1)
        distance = np.hypot(to_x - along * dx, to_y - along * dy)
        window = cover[top:bottom, left:right]
        np.maximum(window, radius + 0.5 - distance, out=window)
    mask = Image.fromarray((np.minimum(cover, 1) * 255 + 0.5).astype(np.uint8))
    image.paste(color, (0, 0), mask)


def _draw_series(image: Image.Image, parts: Sequence[list[Point]], style: str, color: str) -> None:
    """Draw polylines in a style, and those of length 0 as points."""
    points, strokes = [], []
    for part in parts:
        if len(part) == 2 and part[0] == part[1]:
            points.append(part)
        else:
            strokes += _dashes(part, *STYLES[style])
    _draw_strokes(image, points, POINT_RADIUS, color)
    _draw_strokes(image, strokes, STROKE_RADIUS, color)


# ---- Panels ----


def _colors(lines: Sequence[Line]) -> list[str]:
    """The color of each line: its own, or the next of those that no line asks for."""
    asked = {line.color for line in lines}
    free = itertools.cycle([i for i in range(len(PALETTE)) if i not in asked] or range(len(PALETTE)))
    return [PALETTE[next(free) if line.color is None else line.color] for line in lines]


def _draw_panel(panel: Panel) -> Image.Image:
    """Draw one panel as an image of its own."""
    image = Image.new("RGB", (PANEL_WIDTH, PANEL_HEIGHT), "white")
    data = [_line_coordinates(panel, line) for line in panel.lines]
    x_range = _data_range([x for x, _ in data], panel.log_x, 0.02)
    y_range = _data_range([y for _, y in data], panel.log_y, 0.06)
    if panel.y_range is not None:
        y_range = tuple(_coordinates(panel.y_range, panel.log_y).tolist())
        if len(y_range) != 2 or not _is_range(*y_range, panel.log_y):
            raise ValueError(f"panel {panel.title!r}: y_range is {panel.y_range}; give two finite numbers, "
                             "the lower one first, both above zero on a log axis")

    # The plot gets the room that titles, labels and tick numbers leave: its height first, then its width.
    title_size, title = _fit(panel.title, PANEL_TITLE_SIZE, PANEL_WIDTH - 2 * MARGIN)
    x_label_size, x_label = _fit(panel.x_label, LABEL_SIZE, PANEL_WIDTH - 8 * MARGIN)
    top = round(1.5 * MARGIN + LINE_HEIGHT * title_size * len(title))
    x_label_top = PANEL_HEIGHT - MARGIN / 2 - LINE_HEIGHT * x_label_size * len(x_label)
    bottom = round(x_label_top - MARGIN / 2 - 2 * TICK_SIZE)
    y_label_size, y_label = _fit(panel.y_label, LABEL_SIZE, bottom - top)
    y_label_height = math.ceil(LINE_HEIGHT * y_label_size * len(y_label))
    y_axis = _Axis(*y_range, panel.log_y, bottom, top)
    y_ticks = _ticks(y_axis, upright=True)
    labels_width = max([_text_width(label, TICK_SIZE) for _, label in y_ticks] + [2.2 * TICK_SIZE])
    left, right = round(MARGIN + y_label_height + labels_width + 2 * TICK_LENGTH), PANEL_WIDTH - 2 * MARGIN
    x_axis = _Axis(*x_range, panel.log_x, left, right)
    # Epochs and counts are whole numbers, and so are their ticks.
    whole = not panel.log_x and all(np.all(x[~np.isnan(x)] % 1 == 0) for x, _ in data)
    x_ticks = _ticks(x_axis, upright=False, whole=whole)

    box, center = (left, top, right, bottom), (left + right) / 2
    empty = all(np.isnan(x).all() for x, _ in data)
    if empty:
        _draw_text(image, center, (top + bottom) / 2, PANEL_TITLE_SIZE, "no data", 0.5)
    else:
        _draw_grid(image, x_axis, y_axis, x_ticks, y_ticks)
    draw = ImageDraw.Draw(image)
    draw.rectangle((left - 1, top, left, bottom), fill=AXIS_COLOR)
    draw.rectangle((left - 1, bottom - 1, right, bottom), fill=AXIS_COLOR)
    _draw_paragraph(image, center, 0.75 * MARGIN, title_size, title)
    _draw_paragraph(image, center, x_label_top, x_label_size, x_label)
    if y_label:
        strip = Image.new("RGB", (bottom - top, y_label_height), "white")
        _draw_paragraph(strip, strip.width / 2, 0, y_label_size, y_label)
        image.paste(strip.transpose(Image.Transpose.ROTATE_90), (MARGIN // 2, top))

    colors, drawn = _colors(panel.lines), []
    for line, color, (x, y) in zip(panel.lines, colors, data, strict=True):
        points = list(zip(x_axis.pixels(x), y_axis.pixels(y), strict=True))
        if line.style == "points":
            parts = [[p, p] for p in points if not math.isnan(p[0]) and _clip(p, p, box)]
        else:
            parts = _polylines(points, box)
        _draw_series(image, parts, line.style, color)
        drawn += parts
    entries = [(line, color) for line, color in zip(panel.lines, colors, strict=True) if line.label]
    if entries:
        _draw_legend(image, entries, drawn, box)
    return image


def _draw_grid(image: Image.Image, x_axis: _Axis, y_axis: _Axis, x_ticks: Ticks, y_ticks: Ticks) -> None:
    """Draw grid lines, tick marks and tick labels."""
    draw = ImageDraw.Draw(image)
    left, right, bottom, top = x_axis.start, x_axis.end, y_axis.start, y_axis.end
    for color, length, x_places, y_places in (
        (MINOR_GRID_COLOR, MINOR_TICK_LENGTH, _minor_ticks(x_axis), _minor_ticks(y_axis)),
        (GRID_COLOR, TICK_LENGTH, [place for place, _ in x_ticks], [place for place, _ in y_ticks]),
    ):
        for x in map(round, x_axis.pixels(x_places)):
            draw.rectangle((x - 1, top, x, bottom), fill=color)
            draw.rectangle((x - 1, bottom, x, bottom + length), fill=AXIS_COLOR)
        for y in map(round, y_axis.pixels(y_places)):
            draw.rectangle((left, y - 1, right, y), fill=color)
            draw.rectangle((left - length, y - 1, left, y), fill=AXIS_COLOR)
    for place, label in x_ticks:
        _draw_paragraph(image, x_axis.pixels([place])[0], bottom + 2 * TICK_LENGTH, TICK_SIZE, [label])
    for place, label in y_ticks:
        _draw_text(image, left - 1.8 * TICK_LENGTH, y_axis.pixels([place])[0], TICK_SIZE, label, 1)


def _draw_legend(
    image: Image.Image, entries: list[tuple[Line, str]], drawn: list[list[Point]], box: Box
) -> None:
    """Draw the legend in the corner of the box where it hides the shortest length of line."""
    left, top, right, bottom = (box[0] + 16, box[1] + 16, box[2] - 16, box[3] - 16)
    for size in (TICK_SIZE * 0.93**k for k in range(50)):  # as large as fits
        width = 4.8 * size + max(_text_width(line.label, size) for line, _ in entries)
        height = size * (0.8 + 1.5 * len(entries))
        if width <= right - left and height <= bottom - top:
            break

    def hidden(corner: Point) -> float:
        x, y = corner
        around = (x - 8, y - 8, x + width + 8, y + height + 8)
        pieces = (_clip(start, end, around) for part in drawn for start, end in itertools.pairwise(part))
        return sum(math.dist(*piece) + 1 for piece in pieces if piece)  # + 1: a lone point counts as well

    corners = [(x, y) for y in (top, bottom - height) for x in (right - width, left)]
    x, y = map(round, min(corners, key=hidden))
    veil = Image.new("L", (round(width), round(height)), 215)
    image.paste("white", (x, y), veil)
    ImageDraw.Draw(image).rectangle((x, y, x + veil.width, y + veil.height), outline=GRID_COLOR, width=2)
    for index, (line, color) in enumerate(entries):
        middle, start, end = y + size * (1.15 + 1.5 * index), x + 0.8 * size, x + 3.2 * size
        middle_point = ((start + end) / 2, middle)
        sample = [middle_point, middle_point] if line.style == "points" else [(start, middle), (end, middle)]
        _draw_series(image, [sample], line.style, color)
        _draw_text(image, end + 0.6 * size, middle, size, line.label, 0)
