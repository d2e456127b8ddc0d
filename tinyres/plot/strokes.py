"""Lines and points as pixels: Pillow draws them larger, and what is reduced has smooth edges."""
from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy
from PIL import Image, ImageDraw

from .style import POINT_RADIUS, STROKE_RADIUS, STYLES

FINE = 4  # times the size of the image, at which strokes are drawn
LONGEST = 4e6  # pixels of a line that is cut into dashes

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


def dashes(points: Sequence[Point], stroke: float, gap: float) -> list[list[Point]]:
    """Cut a polyline by the distance traveled along it, so that corners do not disturb the pattern; not one
    so long that it lies mostly outside the picture."""
    x, y = numpy.array(points, float).T
    traveled = numpy.append(0, numpy.hypot(numpy.diff(x), numpy.diff(y)).cumsum())
    if traveled[-1] > LONGEST:
        return [list(points)]
    found = []
    for start in numpy.arange(0, traveled[-1], stroke + gap):
        end = min(start + stroke, traveled[-1])
        corners = slice(*numpy.searchsorted(traveled, (start, end), "right"))
        places = [start, *traveled[corners], end]
        found.append(list(zip(numpy.interp(places, traveled, x), numpy.interp(places, traveled, y),
                              strict=True)))
    return found


def draw_strokes(image: Image.Image, strokes: Sequence[Sequence[Point]], radius: float, color: str,
                 box: Box) -> None:
    """Color the pixels within a radius of polylines, with round corners and ends, as far as they lie in a box
    or on its edge."""
    if not strokes:
        return
    xs, ys = zip(*itertools.chain.from_iterable(strokes), strict=True)
    left, top = math.floor(max(min(xs), box[0]) - radius), math.floor(max(min(ys), box[1]) - radius)
    right, bottom = math.ceil(min(max(xs), box[2]) + radius), math.ceil(min(max(ys), box[3]) + radius)
    if left >= right or top >= bottom:
        return
    mask = Image.new("L", (FINE * (right - left), FINE * (bottom - top)))
    draw = ImageDraw.Draw(mask)
    for stroke in strokes:  # the middle of a pixel has whole numbers in Pillow
        points = [(FINE * (x - left) - 0.5, FINE * (y - top) - 0.5) for x, y in stroke]
        draw.line(points, 255, 2 * round(FINE * radius), "curve")
        for x, y in points[0], points[-1]:
            draw.ellipse((x - FINE * radius, y - FINE * radius, x + FINE * radius, y + FINE * radius), 255)
    image.paste(color, (left, top), mask.reduce(FINE))


def draw_series(image: Image.Image, points: Iterable[Point], style: str, color: str, box: Box) -> None:
    """Draw a line inside a box in a style; NaN is a gap, and a lone point between two gaps becomes a dot."""
    dots, lines = [], []
    for gap, group in itertools.groupby(points, lambda point: math.isnan(point[0])):
        part = list(group)
        if not gap and (style == "points" or len(set(part)) == 1):
            dots += [[point, point] for point in part]
        elif not gap:
            lines += dashes(part, *STYLES[style])
    draw_strokes(image, dots, POINT_RADIUS, color, box)
    draw_strokes(image, lines, STROKE_RADIUS, color, box)
