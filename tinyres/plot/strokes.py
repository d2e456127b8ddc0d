"""Lines as pixels: clipped to a box, cut into dashes, with smooth edges.

Strokes are computed from each pixel's distance to the line, which gives smooth edges and round joints at
positions finer than a pixel.
"""
from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import numpy
from PIL import Image

from .style import POINT_RADIUS, STROKE_RADIUS, STYLES

Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, right, bottom


def clip(start: Point, end: Point, box: Box) -> tuple[Point, Point] | None:
    """The part of a segment inside a box, or None if it is all outside (Liang and Barsky, 1984)."""
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
    # An end that is not cut stays exactly as it was: that tells polylines which segments are joined.
    return (start if enter == 0 else (x + enter * dx, y + enter * dy),
            end if leave == 1 else (x + leave * dx, y + leave * dy))


def polylines(points: Iterable[Point], box: Box) -> list[list[Point]]:
    """The connected parts of a line inside a box; a lone point between two gaps is a part of length 0."""
    parts: list[list[Point]] = []
    for gap, group in itertools.groupby(points, key=lambda point: math.isnan(point[0])):
        run, part = [] if gap else list(group), []
        for start, end in zip(run, run[1:] or run, strict=False):
            piece = clip(start, end, box)
            if piece and part and part[-1] == piece[0]:
                part.append(piece[1])
            elif piece:
                part = list(piece)
                parts.append(part)
    return parts


def dashes(points: Sequence[Point], stroke: float, gap: float) -> list[list[Point]]:
    """Cut a polyline by the distance traveled along it, so that corners do not disturb the pattern."""
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


def draw_strokes(image: Image.Image, strokes: Sequence[list[Point]], radius: float, color: str) -> None:
    """Color the pixels within a radius of polylines, softened over one pixel at the edge."""
    if not strokes:
        return
    reach = radius + 1
    xs, ys = zip(*itertools.chain.from_iterable(strokes), strict=True)
    origin_x, origin_y = int(min(xs) - reach), int(min(ys) - reach)  # of the part of the image with strokes
    size = int(max(ys) + reach) + 1 - origin_y, int(max(xs) + reach) + 1 - origin_x
    cover = numpy.zeros(size, dtype=numpy.float32)
    for (x, y), (end_x, end_y) in itertools.chain.from_iterable(map(itertools.pairwise, strokes)):
        left, right = int(min(x, end_x) - reach), int(max(x, end_x) + reach) + 1
        top, bottom = int(min(y, end_y) - reach), int(max(y, end_y) + reach) + 1
        # From the start of the segment to the middle of each pixel, and to the nearest point of the segment.
        to_x, to_y = numpy.arange(left, right) + (0.5 - x), numpy.arange(top, bottom)[:, None] + (0.5 - y)
        dx, dy = end_x - x, end_y - y
        along = numpy.clip((to_x * dx + to_y * dy) / (dx * dx + dy * dy or 1.0), 0, 1)
        distance = numpy.hypot(to_x - along * dx, to_y - along * dy)
        window = cover[top - origin_y:bottom - origin_y, left - origin_x:right - origin_x]
        numpy.maximum(window, radius + 0.5 - distance, out=window)
    mask = Image.fromarray((numpy.minimum(cover, 1) * 255 + 0.5).astype(numpy.uint8))
    image.paste(color, (origin_x, origin_y), mask)


def draw_series(image: Image.Image, parts: Sequence[list[Point]], style: str, color: str) -> None:
    """Draw polylines in a style; those of length 0 become points."""
    points, strokes = [], []
    for part in parts:
        if len(part) == 2 and part[0] == part[1]:
            points.append(part)
        else:
            strokes += dashes(part, *STYLES[style])
    draw_strokes(image, points, POINT_RADIUS, color)
    draw_strokes(image, strokes, STROKE_RADIUS, color)
