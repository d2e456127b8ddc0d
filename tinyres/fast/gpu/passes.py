"""How images lie in memory between the products of a residual block, and the passes that put them there.

A product needs three pixels for each one: of x those to the left, here and to the right, of a gradient those
below, here and above (block.py). Of x nothing is stored twice: with a pixel of zeros between its rows, any
three pixels already lie side by side. Such windows around neighboring pixels overlap, which the rows of a
matrix must not, but the windows in one column of pixels do not. So a product is a batch of W products, one
for each column, and reads its image from memory about once: what two windows share is still in the cache.

Of a gradient, whose neighbors are in other rows, all three pixels are stored, one matrix, and the rest of the
program sees a view of the middle ones. It must not write to that view: the other two would not change.
"""
from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy

from ...backend import Array
from . import cuda
from .cublas import Layout

THREADS = 256  # of a block
MIN_BLOCKS = 64  # which add up the parts of a gradient, however few rows there are

SOURCE = Path(__file__).with_suffix(".cu")
ADD, RELU, WHERE_POSITIVE = range(3)  # what `combine` does to the sums


def _name(kernel: str, dtype: str, width: int, stacked: bool) -> str:
    sums = f", {cuda.SUMS[dtype]}" * (kernel in ("combine", "gather"))
    return f"{kernel}<{cuda.NUMBERS[dtype]}{sums}, {width}, {str(stacked).lower()}>"


NAMES = tuple(_name(kernel, dtype, width, stacked) for kernel in ("lay_out", "combine", "cut", "gather")
              for dtype in cuda.NUMBERS for width in (1, 16 // numpy.dtype(dtype).itemsize)
              for stacked in (False, True))


class Pixels(NamedTuple):
    """An image (N, H, W, C) as a view of memory in which each pixel has its neighbors.

    The memory of x is (pixels, C): a pixel of zeros and the rows, each with zeros after it. That of a
    gradient is (N, H, W, 3, C), stacked.
    """

    image: Array
    memory: Array

    @property
    def stacked(self) -> bool:
        return self.memory.ndim == 5

    def images(self, part: slice) -> Pixels:
        """Some images of a batch that is stacked."""
        return Pixels(self.image[part], self.memory[part])


class Beside(NamedTuple):
    """What a pass adds to its image, or compares it with: the shortcut of a block, or its gradient.

    pool: `combine` takes the mean over pool x pool of these pixels, `gather` its share of such a mean. shift:
    added to the place of a channel; where no channel is there is 0.
    """

    pixels: Pixels
    pool: int = 1
    shift: int = 0


class Parts(NamedTuple):
    """A kernel's gradient before it is added up, (number, 3C, 3O), and where the sum goes, (3C, 3O)."""

    parts: Array
    total: Array


# the memory in use, of images and, if stacked, of gradients, by the address of the image's first pixel
_memory: dict[bool, WeakValueDictionary[int, Array]] = {
    False: WeakValueDictionary(), True: WeakValueDictionary()}


def pixels_of(image: Array, stacked: bool) -> Pixels:
    """An image (N, H, W, C) with the memory of which it is a view, or a copy of it in such memory."""
    memory = _memory[stacked].get(cuda.address(image))
    if memory is not None and (memory.shape, image.strides) == _layout(image.shape, image.itemsize, stacked):
        return Pixels(image, memory)
    return lay_out(image, stacked)


def lay_out(image: Array, stacked: bool, relu: bool = False) -> Pixels:
    """A copy of an image (N, H, W, C), or of its relu, in memory where each pixel has its neighbors."""
    image = cuda.readable(image)
    out = empty(image.shape, image.dtype, stacked)
    name, width, strides = _reading("lay_out", image, stacked)
    _launch(name, image.shape[:3], (image, out.memory), image.shape[3] // width, *strides, int(relu))
    return out


def cut(image: Array, window: tuple[int, ...]) -> Array:
    """The matrix of columns of tinyres/conv.py, (N, H, W, C) -> (N OH OW, KH KW C).

    window: KH, KW, OH, OW, and stride and padding, vertical and horizontal.
    """
    (N, H, W, C), (KH, KW, OH, OW, *places) = image.shape, window
    out = cuda.cupy.empty((N * OH * OW, KH * KW * C), image.dtype)
    name, width, strides = _reading("cut", image, False)
    _launch(name, (N, OH, OW), (image, out), KH * KW * C // width, *strides, H, W, C // width, KW, *places)
    return out


def _reading(kernel: str, image: Array, stacked: bool) -> tuple[str, int, tuple[int, ...]]:
    """The name of a CUDA kernel that reads an image, the numbers in its units, and the image's strides."""
    width = _width(image.dtype, cuda.strides_of(image, 16) is not None, image.shape[3])
    strides = cuda.strides_of(image, width * image.itemsize)
    return _name(kernel, image.dtype.name, width, stacked), width, strides


def combine(partial: Array, then: int, stacked: bool, beside: Beside | None = None,
            parts: Parts | None = None) -> Pixels:
    """The image that partial sums (N, H, W, 3, C) add up to; the same launch adds up `parts`.

    Unless stacked, the three are sums of rows and belong to the pixels above, here and below; if stacked,
    they are sums of columns and belong to the pixels to the right, here and to the left. then: what is done
    to the image: ADD what is beside, if anything is, RELU, or keep its values WHERE that is POSITIVE.
    """
    N, H, W, _, C = partial.shape
    out = empty((N, H, W, C), partial.dtype, stacked)
    _run("combine", (N, H, W, C), partial, out.memory, stacked, beside, parts, then)
    return out


def gather(columns: Array, out: Array, window: tuple[int, ...], beside: Beside | None = None,
           parts: Parts | None = None) -> None:
    """The transpose of `cut`, written into `out`: sums of what columns, (n OH OW, KH KW C), hold of a pixel.

    out: memory of n images, (n, H, W, C), or (n, H, W, 3, C) for stacked ones. The others are those of `cut`
    and of `combine`, of which ADD is done.
    """
    _run("gather", (*out.shape[:3], out.shape[-1]), columns, out, out.ndim == 5, beside, parts, *window)


def add_up(parts: Parts) -> None:
    """Add up the parts of a kernel's gradient for which no other pass is there."""
    _run("combine", (0, 1, 1, 1), parts.total, parts.total, False, None, parts, ADD)


def _run(kernel: str, shape: tuple[int, ...], source: Array, out: Array, stacked: bool,
         beside: Beside | None, parts: Parts | None, *settings: int) -> None:
    """Run a CUDA kernel that makes images of a shape, adds what is beside, and adds up parts."""
    other = beside.pixels.memory if beside else out
    aligned = not any(cuda.address(array) % 16 for array in (source, other, out))
    name, units, geometry = _prepared(kernel, source.dtype, shape[3], stacked, aligned, beside and (
        beside.pixels.image.shape, beside.pixels.stacked, beside.pool, beside.shift))
    sums = (*parts, len(parts.parts), parts.total.size) if parts else (out, out, 0, 0)
    _launch(name, shape[:3], (source, other, out, *sums[:2]), units, *geometry, *sums[2:], *settings)


@functools.cache
def _prepared(kernel: str, dtype: numpy.dtype, C: int, stacked: bool, aligned: bool,
              beside: tuple[Any, ...] | None) -> tuple[str, int, tuple[int, ...]]:
    """The name of a CUDA kernel, the units in its pixels, and its arguments about what is beside."""
    (*_, W, channels), beside_stacked, pool, shift = beside or ((1, 0), False, 0, 0)
    width = _width(dtype, aligned, C, channels, shift)
    row, step = (3 * W, 3) if beside_stacked else (_pitch(W), 1)
    return (_name(kernel, dtype.name, width, stacked), C // width,
            (row, step, channels // width, shift // width % 2**32, pool))


@functools.cache
def windows(image: tuple[int, ...], dtype: numpy.dtype, stacked: bool, whole: bool = False) -> Layout:
    """The layout of the three pixels of each one, in the memory of an image (N, H, W, C): column by column,
    (W, N H, 3C), or, for one that is stacked, as a whole matrix, (1, N H W, 3C)."""
    N, H, W, C = image
    pitch, pixel = (W, 3 * C * dtype.itemsize) if stacked else (_pitch(W), C * dtype.itemsize)
    batch, rows, apart = (1, N * H * W, 1) if whole else (W, N * H, pitch)
    return Layout((batch, rows, 3 * C), (pixel, apart * pixel, dtype.itemsize), dtype)


def _pitch(W: int) -> int:
    """Pixels from row to row, with the zeros between them; at least the three of a window."""
    return max(W + 1, 3)


@functools.cache
def _layout(shape: tuple[int, ...], itemsize: int, stacked: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of the memory of an image, and the image's strides in it."""
    N, H, W, C = shape
    row, pixel = (3 * W * C, 3 * C) if stacked else (_pitch(W) * C, C)
    memory = (N, H, W, 3, C) if stacked else (1 + N * H * _pitch(W), C)
    return memory, tuple(itemsize * stride for stride in (H * row, row, pixel, 1))


def empty(shape: tuple[int, ...], dtype: numpy.dtype, stacked: bool) -> Pixels:
    """Memory for an image (N, H, W, C), which `pixels_of` finds."""
    N, H, W, C = shape
    memory = cuda.cupy.empty(_layout(shape, dtype.itemsize, stacked)[0], dtype)
    image = memory[:, :, :, 1] if stacked else memory[1:N * H * _pitch(W) + 1].reshape(N, H, -1, C)[:, :, :W]
    _memory[stacked][cuda.address(image)] = memory
    return Pixels(image, memory)


def _width(dtype: numpy.dtype, aligned: bool, *channels: int) -> int:
    """The numbers in a unit: 16 bytes if addresses and all these channels are multiples of that, else one."""
    whole = aligned and not any(count * dtype.itemsize % 16 for count in channels)
    return 16 // dtype.itemsize if whole else 1


def _launch(name: str, shape: tuple[int, ...], arrays: tuple[Array, ...], units: int, *settings: int) -> None:
    """Run a CUDA kernel over the rows of images of a shape (N, H, W)."""
    function, grid, block, values = _launchable(name, shape, units, settings)
    function(grid, block, (*arrays, *values))


@functools.lru_cache(maxsize=4096)
def _launchable(name: str, shape: tuple[int, ...], units: int, settings: tuple[int, ...]) -> tuple[Any, ...]:
    """A CUDA kernel, its grid and blocks, and its arguments after the arrays."""
    N, H, W = shape
    across = min(64, 1 << (units - 1).bit_length())
    values = tuple(numpy.uint32(value) for value in (N * H, H, W, _pitch(W), units, *settings))
    grid = min(max(N * H, MIN_BLOCKS), 2**20)
    return cuda.function(SOURCE, NAMES, name), (grid,), (across, THREADS // across), values
