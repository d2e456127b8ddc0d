"""From data to axis coordinates (a value, or its base-10 logarithm), ranges and round ticks."""
from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy

from .style import MAX_TICKS, TICK_SIZE
from .text import text_width

Ticks = list[tuple[float, str]]  # axis coordinate and label


def coordinates(values: Sequence[float], log: bool) -> numpy.ndarray:
    """Values, or their base-10 logarithms, as positions on an axis; NaN where nothing can be drawn."""
    values = numpy.asarray(values, dtype=float)
    if log:
        drawable = numpy.isfinite(values) & (values > 0)
        return numpy.log10(values, out=numpy.full_like(values, numpy.nan), where=drawable)
    return numpy.where(numpy.abs(values) < 1e300, values, numpy.nan)  # so that differences do not overflow


def is_range(low: float, high: float, log: bool) -> bool:
    """Whether two axis coordinates are far enough apart for ticks between them; false if one is NaN."""
    return high - low > max(1e-12 * max(-low, high), 1e-12 if log else 1e-280)


def data_range(arrays: Sequence[numpy.ndarray], log: bool, padding: float) -> tuple[float, float]:
    """The ends of an axis that shows all coordinates with some space around; (0, 1) if there are none."""
    values = numpy.concatenate([numpy.empty(0), *arrays])
    values = values[~numpy.isnan(values)]
    if len(values) == 0:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    space = padding * (high - low)
    if not is_range(low, high, log):  # a single value: open a range around it
        size = max(-low, high)
        space = 0.5 if log else 0.5 * size if size > 1e-280 else 1.0
    if not log and 0 <= low < space:  # errors and counts need no room below zero
        return 0.0, high + space
    return low - space, high + space


@dataclass
class Axis:
    """A range of axis coordinates and the pixels of its two ends."""

    low: float
    high: float
    log: bool
    start: float
    end: float

    def pixels(self, coordinates: Sequence[float] | numpy.ndarray) -> list[float]:
        with numpy.errstate(over="ignore"):
            fraction = (numpy.asarray(coordinates, dtype=float) - self.low) / (self.high - self.low)
            # A million pixels away is as good as infinitely far, and stays a number that Pillow can draw to.
            return numpy.clip(self.start + fraction * (self.end - self.start), -1e6, 1e6).tolist()


# Ticks: candidates from fine to coarse; an axis takes the first without overlaps


def _number(mantissa: float, decimals: int, exponent: int) -> str:
    """mantissa * 10^exponent as text, where the mantissa has this many decimals."""
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
    """Decades; where these are few, 1, 2 and 5 times a decade; where these are few too, linear ticks."""

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


def ticks(axis: Axis, upright: bool, integers: bool = False) -> Ticks:
    """The finest ticks whose labels keep clear of each other, at integers only if `integers` is true."""
    ticks: Ticks = []
    for ticks in _log_ticks(axis.low, axis.high) if axis.log else _linear_ticks(axis.low, axis.high):
        if len(ticks) > MAX_TICKS or integers and any(position % 1 for position, _ in ticks):
            continue
        sizes = [TICK_SIZE if upright else text_width(label, TICK_SIZE) for _, label in ticks]
        labels = list(zip(axis.pixels([position for position, _ in ticks]), sizes, strict=True))
        if all(abs(b - a) >= (a_size + b_size) / 2 + TICK_SIZE
               for (a, a_size), (b, b_size) in itertools.pairwise(labels)):
            break
    return ticks


def minor_ticks(axis: Axis) -> list[float]:
    """On a log axis the places of 1 to 9 times each decade, or of the decades only if there are many."""
    if not axis.log or axis.high - axis.low > 40:
        return []
    factors = range(1, 10) if axis.high - axis.low <= 10 else (1,)
    decades = range(math.floor(axis.low), math.ceil(axis.high))
    places = (decade + math.log10(factor) for decade in decades for factor in factors)
    return [place for place in places if axis.low <= place <= axis.high]
