"""Convolution: one matrix product, and its gradient is a convolution again.

A 3 x 3 kernel w slides over a 5 x 5 image x. At each of 3 x 3 places it multiplies the 9 pixels below it, a
window, by its 9 weights and adds up the products.

    im2col     copy each window into one row of a matrix, columns: 9 windows, 9 numbers each.
               Then out = columns @ w: all windows at once, in the operation that computers do best.

    gradient   of w: columns^T @ g, by the rule for a matrix product.
               of x: pixel x_p lies in up to 9 windows. In the window at place q it is multiplied by
               w_(p - q), so dL/dx_p = sum over q of g_q w_(p - q). As q grows, the index of w falls: this is
               a convolution of g, padded with 2 zeros on each side, with w rotated by 180 degrees. With the
               padding, the 3 x 3 gradients of out give 5 x 5, one for each pixel.
"""
from __future__ import annotations

from pathlib import Path

import numpy

from .. import plot
from ..conv import conv2d
from ..support.pipes import end_with_reader
from ..tensor import Tensor
from . import PICTURES, picture


def im2col(image: numpy.ndarray, side: int) -> numpy.ndarray:
    """The side x side windows of an image (H, W), one a row: (windows, side^2)."""
    places = [(i, j) for i in range(image.shape[0] - side + 1) for j in range(image.shape[1] - side + 1)]
    return numpy.stack([image[i:i + side, j:j + side].ravel() for i, j in places])


def main(out: Path = PICTURES) -> None:
    """Compute out and both gradients, compare them with `conv2d`, print and draw."""
    print(__doc__)
    rng = numpy.random.default_rng(1)
    image, kernel, g = (rng.integers(0, 10, (5, 5)), rng.integers(-2, 3, (3, 3)), rng.integers(-2, 3, (3, 3)))
    columns = im2col(image, 3)
    result = (columns @ kernel.ravel()).reshape(3, 3)
    kernel_gradient = (columns.T @ g.ravel()).reshape(3, 3)
    padded, rotated = numpy.pad(g, 2), kernel[::-1, ::-1]
    image_gradient = (im2col(padded, 3) @ rotated.ravel()).reshape(5, 5)

    x = Tensor(image[None, :, :, None].astype(float), requires_grad=True)
    w = Tensor(kernel[:, :, None, None].astype(float), requires_grad=True)
    y = conv2d(x, w)
    y.backward(g[None, :, :, None].astype(float))
    for name, ours, engine in (("out", result, y.data), ("gradient of w", kernel_gradient, w.grad),
                               ("gradient of x", image_gradient, x.grad)):
        same = numpy.array_equal(ours, engine.reshape(ours.shape))
        print(f"{name:14} {'the same as' if same else 'DIFFERENT FROM'} tr.conv2d:", *ours.tolist())
    draw_forward(image, kernel, columns, result).save(picture(out, "convolution.png"))
    draw_backward(padded, rotated, image_gradient).save(picture(out, "convolution_gradient.png"))


def matrix(page: plot.Drawing, x: float, y: float, side: float, title: str, values: numpy.ndarray,
           color: int = 4) -> None:
    """A table below its title: the larger a number's absolute value, the stronger the color, up to half."""
    page.text(x + values.shape[1] * side / 2, y - 50, title)
    strength = 0.5 * abs(values) / max(abs(values).max(), 1)
    page.cells(x, y, side, values, [[plot.tint(color, float(s)) for s in row] for row in strength])


def draw_forward(image: numpy.ndarray, kernel: numpy.ndarray, columns: numpy.ndarray,
                 result: numpy.ndarray) -> plot.Drawing:
    """Image and kernel on the left, columns @ kernel = out on the right; one window is framed throughout."""
    page, shown = plot.Drawing(2560, 1220), 4  # the window in the middle
    page.text(1280, 70, "im2col: a convolution is one matrix product", 60)
    matrix(page, 100, 250, 100, "image x, 5 x 5", image)
    page.frame(200, 350, 300, 300, 5)
    matrix(page, 200, 850, 100, "kernel w, 3 x 3", kernel, 3)
    page.arrow((620, 500), (780, 500), color=5)
    matrix(page, 830, 250, 80, "columns: one row for each window, 9 x 9", columns)
    page.frame(830, 250 + shown * 80, 720, 80, 5)
    page.text(1620, 610, "@", 60)
    matrix(page, 1700, 250, 80, "w, 9 x 1", kernel.reshape(9, 1), 3)
    page.text(1850, 610, "=", 60)
    matrix(page, 1930, 250, 80, "out, 9 x 1", result.reshape(9, 1), 1)
    page.frame(1930, 250 + shown * 80, 80, 80, 5)
    page.arrow((2050, 610), (2150, 610))
    matrix(page, 2180, 460, 100, "as an image, 3 x 3", result, 1)
    page.frame(2280, 560, 100, 100, 5)
    return page


def draw_backward(padded: numpy.ndarray, rotated: numpy.ndarray,
                  image_gradient: numpy.ndarray) -> plot.Drawing:
    """Padded g, the rotated kernel, and the image's gradient; one window is framed."""
    page = plot.Drawing(2560, 1160)
    page.text(1280, 70, "The gradient of the image: a convolution again", 60)
    matrix(page, 150, 250, 100, "gradient g of out, padded with 2 zeros", padded, 1)
    page.frame(350, 450, 300, 300, 1)
    page.frame(350, 250, 300, 300, 5)
    matrix(page, 1050, 400, 100, "w rotated by 180 degrees", rotated, 3)
    page.text(950, 550, "*", 90)
    page.text(1480, 550, "=", 60)
    matrix(page, 1650, 300, 100, "gradient of x, 5 x 5", image_gradient)
    page.frame(1850, 300, 100, 100, 5)
    page.text(1280, 1050, "x_p lies in up to 9 windows q, each time under w_(p - q):  "
                          "dL/dx_p = sum over q of g_q w_(p - q)", 48)
    return page


if __name__ == "__main__":
    end_with_reader()
    main()
