"""Colors and sizes of a chart."""
from __future__ import annotations

# Okabe and Ito, "Color Universal Design" (2008), in their order without yellow, which is too faint on white.
PALETTE = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7")
TEXT_COLOR, AXIS_COLOR, GRID_COLOR, MINOR_GRID_COLOR = "#24292F", "#8C959F", "#E1E4E8", "#F1F3F5"

# All sizes are in pixels of the file. A panel is meant to be shown at half its size, sharp on any screen.
PANEL_WIDTH, PANEL_HEIGHT, MARGIN = 1280, 880, 32
TITLE_SIZE, PANEL_TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 40, 34, 28, 26
TICK_LENGTH, MINOR_TICK_LENGTH, MAX_TICKS = 10, 6, 9
LINE_HEIGHT = 1.3  # from one line of text to the next, in font sizes
STROKE_RADIUS, POINT_RADIUS = 2.2, 6.0
# Lengths of stroke and gap; a solid line is one stroke.
STYLES = {"solid": (1e12, 0), "dashed": (16, 12), "dotted": (0, 10), "points": (0, 0)}
