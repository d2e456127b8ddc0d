"""Charts are read back from the PNG file: what must be where, in which color, and what must not be there."""

import itertools
import math
import os

import numpy
import pytest
from PIL import Image, ImageColor

from tinyres.plot import PALETTE, Drawing, Line, Panel, axes, panel, save, strokes, style, text, tint
from tinyres.plot.style import PANEL_HEIGHT, PANEL_WIDTH


def draw(folder, panels, title=""):
    """Save a chart and return its pixels (H, W, 3)."""
    save(folder / "chart.png", panels, title)
    with Image.open(folder / "chart.png") as image:
        assert image.format == "PNG" and image.mode == "RGB"
        return numpy.asarray(image)


def has_color(pixels, color):
    red, green, blue = ImageColor.getrgb(color)
    return (pixels[..., 0] == red) & (pixels[..., 1] == green) & (pixels[..., 2] == blue)


def rows_and_columns(pixels, color):
    """Middles of the rows and of the columns that contain a color: pixel 0 covers 0 to 1."""
    rows, columns = numpy.nonzero(has_color(pixels, color))
    return numpy.unique(rows) + 0.5, numpy.unique(columns) + 0.5


def plot_box(pixels):
    """Left, top, right and bottom of the plot, from its two axes, the longest runs of the axis color."""
    axis = has_color(pixels, style.AXIS_COLOR)
    column, row = numpy.flatnonzero(axis.sum(0) > 300), numpy.flatnonzero(axis.sum(1) > 300)
    rows, columns = numpy.flatnonzero(axis[:, column[0]]), numpy.flatnonzero(axis[row[0]])
    return column[-1], rows[0], columns[-1], row[-1]


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (4, 2, 2)])
def test_png_of_the_expected_size(tmp_path, count, columns, rows):
    panels = [Panel([Line([0, 1], [0, 1])]) for _ in range(count)]
    assert draw(tmp_path, panels).shape == (rows * PANEL_HEIGHT, columns * PANEL_WIDTH, 3)
    titled = draw(tmp_path, panels, "title").shape
    assert titled[1] == columns * PANEL_WIDTH and titled[0] > rows * PANEL_HEIGHT


def test_one_panel_needs_no_list(tmp_path):
    panel = Panel([Line([0, 1], [0, 1])])
    assert numpy.array_equal(draw(tmp_path, panel), draw(tmp_path, [panel]))


def test_panels_stand_in_reading_order(tmp_path):
    panels = [Panel([Line([0, 1], [0, 1], color=color)]) for color in range(4)]
    pixels = draw(tmp_path, panels)
    quarters = [pixels[y : y + PANEL_HEIGHT, x : x + PANEL_WIDTH]
                for y in (0, PANEL_HEIGHT) for x in (0, PANEL_WIDTH)]
    for (i, quarter), (j, color) in itertools.product(enumerate(quarters), enumerate(PALETTE[:4])):
        assert has_color(quarter, color).any() == (i == j)


def test_horizontal_line_lies_on_its_value(tmp_path):
    lines = [Line([0, 10], [0.5, 0.5], color=5), Line([0, 20], [0.2, 0.2], color=3)]
    pixels = draw(tmp_path, Panel(lines, y_range=(0, 1)))
    left, top, right, bottom = plot_box(pixels)
    rows, columns = rows_and_columns(pixels, PALETTE[5])
    assert rows.mean() == pytest.approx((top + bottom) / 2, abs=1)
    assert rows.size == 4  # the full width of a stroke
    assert columns[0] == pytest.approx(left, abs=3)
    # The axis ends 2 % after the last x, and the line of half the length at half of that.
    assert columns[-1] == pytest.approx(left + (right - left) / 2.04, abs=3)
    # Where the line has ended, the grid goes on in the same rows.
    grid = numpy.flatnonzero(has_color(pixels, style.GRID_COLOR)[:, right - 25]) + 0.5
    assert rows.mean() in (grid[:-1] + grid[1:]) / 2
    # 0.2 is 60 % of the way from 0.5 to 0.
    other, _ = rows_and_columns(pixels, PALETTE[3])
    assert other.mean() - rows.mean() == pytest.approx(0.3 * (bottom - top), abs=1)


def test_log_axes_place_decades_at_equal_distances(tmp_path):
    lines = [Line([1, 1e6], [y, y], color=color) for color, y in ((1, 1e-2), (2, 1), (3, 1e4))]
    pixels = draw(tmp_path, Panel(lines, log_x=True, log_y=True, y_range=(1e-4, 1e4)))
    _, top, _, bottom = plot_box(pixels)
    heights = [rows_and_columns(pixels, PALETTE[color])[0].mean() for color in (1, 2, 3)]
    assert heights == pytest.approx([bottom - (bottom - top) / 4, (top + bottom) / 2, top], abs=1)
    points = [Line([x], [1], "", "points", color) for color, x in ((1, 1e-84), (2, 1e-83), (3, 1e-80))]
    pixels = draw(tmp_path, Panel(points, log_x=True))
    a, b, c = (rows_and_columns(pixels, PALETTE[color])[1].mean() for color in (1, 2, 3))
    assert c - b == pytest.approx(3 * (b - a), abs=2)


@pytest.mark.parametrize(("hole", "log"), [(math.nan, False), (math.inf, False), (-math.inf, True), (0, True),
                                           (-3, True), (None, False), (1e301, False)])
def test_values_that_cannot_be_shown_are_gaps(tmp_path, hole, log):
    y = [2.0] * 9
    y[4] = hole
    pixels = draw(tmp_path, Panel([Line(range(9), y)], log_y=log, y_range=(1, 3)))
    left, _, right, _ = plot_box(pixels)
    _, columns = rows_and_columns(pixels, PALETTE[0])
    step = (right - left) / 8.16
    inside = (columns - left) / step
    assert not ((inside > 3.05) & (inside < 4.95)).any()
    assert ((inside > 2) & (inside < 3)).sum() > 0.9 * step
    assert ((inside > 5) & (inside < 6)).sum() > 0.9 * step


def test_point_between_gaps_and_single_point_are_dots(tmp_path):
    rows, columns = rows_and_columns(draw(tmp_path, Panel([Line([3], [0.7])])), PALETTE[0])
    assert 11 <= rows.size <= 13 and 11 <= columns.size <= 13  # the size of a point
    y = [math.nan, 5.0, math.nan]
    rows, columns = rows_and_columns(draw(tmp_path, Panel([Line([0, 1, 2], y)])), PALETTE[0])
    assert 11 <= rows.size <= 13 and 11 <= columns.size <= 13  # the size of a point


@pytest.mark.parametrize("lines", [[], [Line([], [])], [Line([1, 2], [math.nan, math.inf], "label")],
                                   [Line([0, 1], [1, math.nan]), Line([-1], [5])],
                                   [Line([1, 2], [-1e301, 1e301])]])
def test_no_data_says_so(tmp_path, lines):
    pixels = draw(tmp_path, Panel(lines, log_x=True))
    left, top, right, bottom = plot_box(pixels)
    x, y = (left + right) // 2, (top + bottom) // 2
    assert has_color(pixels, style.TEXT_COLOR)[y - 20 : y + 20, x - 90 : x + 90].any()
    assert not has_color(pixels, style.GRID_COLOR)[y + 50 : bottom, left:x].any()


@pytest.mark.parametrize("value", [0.0, 1.0, -1e-300, 5e-324, 1e299, 0.1 + 0.2, 123456789.0])
def test_constant_y_is_drawn(tmp_path, value):
    pixels = draw(tmp_path, Panel([Line([1, 2, 3], [value] * 3)]))
    rows, columns = rows_and_columns(pixels, PALETTE[0])
    assert rows.size == 4 and numpy.ptp(columns) > 700


def test_lines_are_clipped_to_the_plot(tmp_path):
    line = Line([0, 1, 2, 3], [-1e299, 1e299, 0, -5])
    pixels = draw(tmp_path, Panel([line, Line([0, 3], [0.5, -0.5], color=5)], y_range=(-1, 1)))
    left, top, right, bottom = plot_box(pixels)
    dark = has_color(pixels, PALETTE[0])
    assert not dark[: top - 3].any() and not dark[bottom + 3 :].any()
    # The first segment crosses zero half way, straight up.
    columns = numpy.flatnonzero(dark[(top + bottom) // 2 - 100, : (left + right) // 2])
    assert columns.mean() == pytest.approx(left + 0.5 * (right - left) / 3.06, abs=1)
    # Points outside are left out altogether.
    pixels = draw(tmp_path, Panel([Line([0, 1, 2], [5, 0, -5], style="points")], y_range=(-1, 1)))
    rows, _ = rows_and_columns(pixels, PALETTE[0])
    assert numpy.ptp(rows) < 3 * style.POINT_RADIUS


def test_colors_follow_the_palette_and_leave_out_those_asked_for(tmp_path):
    lines = [Line([0, 1], [k, k], color=color) for k, color in enumerate([None, 1, None, 0, None])]
    pixels = draw(tmp_path, Panel(lines, y_range=(-1, 5)))
    _, top, _, bottom = plot_box(pixels)
    for value, color in enumerate([2, 1, 3, 0, 4]):
        rows, _ = rows_and_columns(pixels, PALETTE[color])
        assert rows.mean() == pytest.approx(bottom - (value + 1) * (bottom - top) / 6, abs=1.5)
    assert len(panel.line_colors([Line([], [])] * 20)) == 20


def test_corners_and_ends_are_round():
    image = Image.new("RGB", (100, 100), "white")
    strokes.draw_strokes(image, [[(20, 50), (50, 50), (50, 80)]], 4, "#000000", (0, 0, 100, 100))
    dark = numpy.asarray(image)[:, :, 0] < 128
    assert dark[47, 52]  # outside both segments, but within the radius of their joint
    assert not dark[46, 53]  # a square corner would cover this too
    assert dark[49, 17] and not dark[46, 17]


def test_stroke_is_softened_at_its_edge():
    image = Image.new("RGB", (40, 40), "white")
    strokes.draw_strokes(image, [[(10, 20.25), (30, 20.25)]], 2, "#000000", (0, 0, 40, 40))
    column = 1 - numpy.asarray(image)[:, 20, 0] / 255
    assert column[18:23] == pytest.approx([0.75, 1, 1, 1, 0.25], abs=0.01)
    assert column.sum() == pytest.approx(4, abs=0.02)
    row = 1 - numpy.asarray(image)[20, :, 0] / 255  # it begins at 8
    assert row[6:10] == pytest.approx([0, 0, 0.98, 1], abs=0.05)


def test_dashes_follow_the_length_of_the_line():
    straight = strokes.dashes([(0, 0), (100, 0)], 16, 12)
    assert [(dash[0][0], dash[-1][0]) for dash in straight] == [(0, 16), (28, 44), (56, 72), (84, 100)]
    pieces = strokes.dashes([(x, 0) for x in numpy.linspace(0, 100, 777)], 16, 12)
    assert [dash[0][0] for dash in pieces] == pytest.approx([0, 28, 56, 84])
    assert [dash[-1][0] for dash in pieces] == pytest.approx([16, 44, 72, 100])
    corner = strokes.dashes([(0, 0), (10, 0), (10, 10)], 16, 12)
    assert corner == [[(0, 0), (10, 0), (10, 6)]]
    dots = strokes.dashes([(0, 0), (25, 0)], 0, 10)
    assert [dot[0] for dot in dots] == [(0, 0), (10, 0), (20, 0)]
    assert len(strokes.dashes([(0, 1e6), (1, -1e6)] * 10**4, 16, 12)) == 1


@pytest.mark.parametrize(("style", "fraction"), [("solid", 1.0), ("dashed", 20 / 28), ("dotted", 4 / 10)])
def test_styles_cover_their_share_of_a_line(tmp_path, style, fraction):
    pixels = draw(tmp_path, Panel([Line([0, 1], [0.5, 0.5], style=style, color=5)], y_range=(0, 1)))
    left, _, right, _ = plot_box(pixels)
    _, columns = rows_and_columns(pixels, PALETTE[5])
    assert columns.size / ((right - left) / 1.02) == pytest.approx(fraction, abs=0.08)


def value_of(label):
    """The number that a tick label says."""
    mantissa, _, power = label.rpartition("·") if "·" in label else ("1", "", label)
    base, _, exponent = power.partition("^")
    return (float(mantissa), int(exponent)) if exponent else (float(base), 0)


def test_every_tick_label_says_its_position_and_none_overlap():
    generator = numpy.random.default_rng(0)
    for _ in range(400):
        log, upright = bool(generator.integers(2)), bool(generator.integers(2))
        if log:
            size, low = 10 ** generator.uniform(-6, 2.5), generator.uniform(-300, 1)
        else:
            size = 10 ** generator.uniform(-100, 100)
            low = size * generator.uniform(-1, 1) * 10 ** generator.uniform(0, 6)
        axis = axes.Axis(low, low + size, log, *((800, 50) if upright else (150, 1216)))
        ticks = axes.ticks(axis, upright)
        assert 2 <= len(ticks) <= style.MAX_TICKS
        for position, label in ticks:
            mantissa, exponent = value_of(label)
            if log:
                assert math.log10(mantissa) + exponent == pytest.approx(position, abs=1e-3 * size)
            else:
                assert mantissa * 10.0**exponent == pytest.approx(position, abs=1e-3 * size)
        places = axis.pixels([position for position, _ in ticks])
        for (a, b), ((_, a_label), (_, b_label)) in zip(
            itertools.pairwise(places), itertools.pairwise(ticks), strict=True
        ):
            widths = text.text_width(a_label, style.TICK_SIZE) + text.text_width(b_label, style.TICK_SIZE)
            assert abs(b - a) > (style.TICK_SIZE if upright else widths / 2)


@pytest.mark.parametrize(("low", "high", "log", "labels"), [
    (0, 1, False, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    (-2.1, 2.1, False, ["-2.0", "-1.5", "-1.0", "-0.5", "0", "0.5", "1.0", "1.5", "2.0"]),
    (0, 3e-9, False, ["0", "0.5·10^-9", "1.0·10^-9", "1.5·10^-9", "2.0·10^-9", "2.5·10^-9", "3.0·10^-9"]),
    (-3, 4, True, ["10^-3", "0.01", "0.1", "1", "10", "100", "10^3", "10^4"]),
    (-84, 1, True, ["10^-80", "10^-70", "10^-60", "10^-50", "10^-40", "10^-30", "10^-20", "10^-10", "1"]),
    (-0.1, 1.1, True, ["1", "2", "5", "10"]),
    (math.log10(2.2), math.log10(2.7), True, ["2.2", "2.3", "2.4", "2.5", "2.6", "2.7"]),
    (-308, 308, True, ["10^-300", "10^-200", "10^-100", "1", "10^100", "10^200", "10^300"]),
])
def test_tick_labels(low, high, log, labels):
    ticks = axes.ticks(axes.Axis(low, high, log, 800, 100), upright=True)
    assert [label for _, label in ticks] == labels


def test_epochs_have_whole_ticks():
    axis = axes.Axis(1, 3, False, 100, 1200)
    assert [label for _, label in axes.ticks(axis, upright=False, integers=True)] == ["1", "2", "3"]
    assert len(axes.ticks(axis, upright=False)) > 3


def test_powers_are_raised():
    parts = list(text.text_parts("2·10^-5 m", 30))
    assert [text for text, _, _ in parts] == ["2·10", "-5", " m"]
    assert parts[1][2] > 0 == parts[0][2] and parts[1][1].size < parts[0][1].size


@pytest.mark.parametrize(("x", "y", "corner"), [
    ([1, 1, 9], [9, 1, 1], (1, 0)), ([1, 9, 9], [9, 9, 1], (0, 1)),
    ([1, 1, 9], [1, 9, 9], (1, 1)), ([1, 9, 9], [1, 1, 9], (0, 0)),
    ([1, 1, 9, 9], [9, 1, 1, 9], (0.5, 0)), ([1, 1, 9, 9], [1, 9, 9, 1], (0.5, 1)),
])
def test_legend_stands_in_the_free_corner_or_between_two(tmp_path, x, y, corner):
    without = draw(tmp_path, Panel([Line(x, y), Line(x, y)]))
    legend = numpy.argwhere((draw(tmp_path, Panel([Line(x, y, "name"), Line(x, y)])) != without).any(axis=-1))
    left, top, right, bottom = plot_box(without)
    y, x = (legend.min(axis=0) + legend.max(axis=0)) / 2
    assert (round(2 * (x - left) / (right - left)) / 2, round((y - top) / (bottom - top))) == corner
    assert legend[:, 0].min() > top and legend[:, 0].max() < bottom
    assert legend[:, 1].min() > left and legend[:, 1].max() < right


def test_legend_hides_no_line_where_only_the_middle_is_free(tmp_path):
    x, y = [0, 10, 10, 0, 0], [0, 0, 10, 10, 0]
    lines = [Line([scale * a + 5 - 5 * scale for a in x], [scale * b + 5 - 5 * scale for b in y], color=4)
             for scale in (1, 0.97, 0.94)]  # three frames, one in another
    without = has_color(draw(tmp_path, Panel(lines)), PALETTE[4]).sum()
    lines.append(Line([], [], "name of a line", color=5))
    assert has_color(draw(tmp_path, Panel(lines)), PALETTE[4]).sum() == without


def test_legend_hides_little_where_no_place_is_free(tmp_path):
    level = [Line([0, 99], [y, y], color=4) for y in range(0, 100, 2)]
    upright = [Line([x, x], [0, 99], color=4) for x in range(50, 100)]
    without = has_color(draw(tmp_path, Panel(level + upright)), PALETTE[4])
    lines = [*level, *upright, Line([], [], "name", color=5)]
    hidden = without & ~has_color(draw(tmp_path, Panel(lines)), PALETTE[4])
    assert hidden.any() and not hidden[:, PANEL_WIDTH // 2 + 40:].any()


@pytest.mark.parametrize("text", ["many words " * 20, "word" * 40, "word"])
def test_no_text_is_cut_at_the_edge(tmp_path, text):
    lines = [Line([100000000.01, 100000000.03], [0, 1], f"{text}{k}") for k in range(12)]
    pixels = draw(tmp_path, [Panel(lines, text, text, text)] * 2, text)
    assert (pixels[:8] == 255).all() and (pixels[-8:] == 255).all()
    for edge in (0, PANEL_WIDTH, 2 * PANEL_WIDTH):  # without the title, which goes across both panels
        assert (pixels[160:, max(edge - 8, 0) : edge + 8] == 255).all()


def test_thousands_of_points_keep_their_peaks(tmp_path):
    y = numpy.random.default_rng(0).uniform(0, 0.5, 5000)
    y[2500] = 1.0
    pixels = draw(tmp_path, Panel([Line(numpy.arange(5000), y)], y_range=(0, 1)))
    left, top, right, _ = plot_box(pixels)
    rows, columns = numpy.nonzero(has_color(pixels, PALETTE[0]))
    assert rows.min() == pytest.approx(top, abs=4)
    assert columns[rows == rows.min()].mean() == pytest.approx(left + (right - left) / 2.04, abs=3)


@pytest.mark.parametrize(("panels", "message"), [
    ([], "not 0"),
    ([Panel([])] * 5, "not 5"),
    (Panel([Line([1, 2, 3], [1, 2], "loss")]), r"'loss'.*\(3,\).*\(2,\)"),
    (Panel([Line([[1, 2]], [[1, 2]])]), r"\(1, 2\)"),
    (Panel([Line([1], [1], style="wavy")]), "'wavy'.*dashed"),
    (Panel([Line([1], [1], color=7)]), "color 7.*0 to 6"),
    (Panel([Line([1], [1], color=-1)]), "color -1"),
    (Panel([Line([1], [1])], y_range=(1, 0)), r"\(1, 0\)"),
    (Panel([Line([1], [1])], y_range=(0, math.inf)), "inf"),
    (Panel([Line([1], [1])], y_range=(0, 1), log_y=True), r"\(0, 1\).*above zero"),
    (Panel([Line([1], [1])], y_range=(0, 1, 2)), r"\(0, 1, 2\)"),
])
def test_errors_name_the_value_and_leave_an_older_file_alone(tmp_path, panels, message):
    path = tmp_path / "chart.png"
    save(path, Panel([Line([0, 1], [0, 1])]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        save(path, panels)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["chart.png"]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*create it first"):
        save(tmp_path / "nowhere" / "chart.png", Panel([]))
    assert os.listdir(tmp_path) == []


def test_older_file_is_replaced_and_not_written_over(tmp_path):
    path, link = tmp_path / "chart.png", tmp_path / "link.png"
    save(path, Panel([]))
    before = path.read_bytes()
    os.link(path, link)  # a second name of the old file, as a reader that has it open
    save(path, Panel([Line([0, 1], [0, 1])]))
    assert link.read_bytes() == before != path.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["chart.png", "link.png"]


def test_nothing_is_left_behind_when_the_file_cannot_be_replaced(tmp_path):
    (tmp_path / "chart.png" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="chart.png"):
        save(tmp_path / "chart.png", Panel([]))
    assert os.listdir(tmp_path) == ["chart.png"]


def test_same_input_gives_the_same_bytes(tmp_path):
    panel = Panel([Line(range(50), numpy.sin(numpy.arange(50)), "sine", "dashed")], "title", "x", "y")
    for name in ("a.png", "b.png"):
        save(str(tmp_path / name), panel, "title")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def pixels_of(page):
    return numpy.asarray(page.image)


def test_a_box_is_tinted_and_its_text_stays_inside():
    page = Drawing(600, 400)
    page.box(300, 200, 200, 100, "a much longer text\nthan the box is wide", color=4)
    pixels = pixels_of(page)
    rows, columns = numpy.nonzero((pixels != 255).any(axis=-1))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (200, 400, 150, 250)
    assert has_color(pixels, tint(4, 0.12))[160, 300] and has_color(pixels, PALETTE[4])[200, 201]
    dark = numpy.nonzero(has_color(pixels, style.TEXT_COLOR))
    assert len(dark[0]) and dark[1].min() > 204 and dark[1].max() < 396


def test_an_arrow_ends_in_its_point_and_is_widest_at_its_neck():
    page = Drawing(300, 100)
    page.arrow((50, 50), (250, 50), color=5)
    rows, columns = rows_and_columns(pixels_of(page), PALETTE[5])
    assert columns.max() == pytest.approx(250, abs=1) and columns.min() == pytest.approx(49, abs=3)
    heights = has_color(pixels_of(page), PALETTE[5]).sum(axis=0)
    assert heights[221:224].max() > 26 and 4 <= heights[100] <= 6 and heights[248] <= 3


def test_cells_and_a_frame_stand_where_they_are_told():
    page = Drawing(300, 300)
    page.cells(50, 50, 100, [["", 1], [2, ""]], [["#FFFFFF", "#000000"], [tint(3, 0.5), "#FFFFFF"]])
    pixels = pixels_of(page)
    assert has_color(pixels, "#000000")[60, 160] and has_color(pixels, tint(3, 0.5))[160, 60]
    assert has_color(pixels, "#FFFFFF")[60:140, 160:240].any()  # white text on black
    assert has_color(pixels, style.TEXT_COLOR)[160:240, 60:140].any()
    page.frame(50, 50, 200, 200, 5)
    rows, columns = rows_and_columns(pixels_of(page), PALETTE[5])
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (46.5, 254.5, 46.5, 254.5)


def test_an_image_is_enlarged_in_its_own_colors(tmp_path):
    image = numpy.zeros((1, 2, 3), numpy.uint8)
    image[0, 1] = 10, 20, 30
    page = Drawing(100, 60)
    page.pixels(10, 20, 40, image)
    page.save(tmp_path / "drawing.png")
    with Image.open(tmp_path / "drawing.png") as file:
        pixels = numpy.asarray(file)
    assert (pixels[20:40, 10:30] == 0).all() and (pixels[20:40, 30:50] == (10, 20, 30)).all()
    assert (pixels[:20] == 255).all() and (pixels[40:] == 255).all()
    with pytest.raises(FileNotFoundError, match="create it first"):
        page.save(tmp_path / "nowhere" / "drawing.png")


def test_lines_of_a_drawings_text_are_aligned():
    for align, edge in (0, 0), (1, -1):
        page = Drawing(600, 200)
        page.text(300, 100, "one\nanother line", 40, align)
        columns = numpy.flatnonzero((pixels_of(page) < 128).any(axis=(0, 2)))
        assert columns[edge] == pytest.approx(300, abs=5)
        rows = numpy.flatnonzero((pixels_of(page) < 128).any(axis=(1, 2)))
        assert (rows[0] + rows[-1]) / 2 == pytest.approx(100, abs=10)


def test_tint_goes_from_white_to_the_color():
    assert (tint(4, 0), tint(4, 1), tint("#000000", 0.5)) == ("#FFFFFF", PALETTE[4], "#808080")
