"""How images lie in memory between the products of a residual block, and the passes that put them there.

A product needs three pixels for each one: of x those to the left, here and to the right, of a gradient those
below, here and above (block.py). Of x nothing is stored twice: with a pixel of zeros between its rows, any
three pixels already lie side by side. Such windows around neighboring pixels overlap, which the rows of a
matrix must not, but the windows in one column of pixels do not, nor does every third window. So a product is
a batch of W products, one for each column, or of three, and reads its image from memory about once: what two
windows share is still in the cache.

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

SOURCE = Path(__file__).with_suffix(".cu")
NOTHING, RELU, ADD, WHERE_POSITIVE = range(4)  # what `combine` does to the sums


def _name(kernel: str, dtype: str, width: int, stacked: bool) -> str:
    sums = f", {cuda.SUMS[dtype]}" * (kernel == "combine")
    return f"{kernel}<{cuda.NUMBERS[dtype]}{sums}, {width}, {str(stacked).lower()}>"


NAMES = tuple(_name(kernel, dtype, width, stacked) for kernel in ("lay_out", "combine")
              for dtype in cuda.NUMBERS for width in (1, 16 // numpy.dtype(dtype).itemsize)
              for stacked in (False, True))


class Pixels(NamedTuple):
    """An image (N, H, W, C) as a view of memory in which each pixel has its neighbors.

    The memory of x is (pixels, C): a pixel of zeros, the rows, each with zeros after it, and what the last
    windows reach beyond. That of a gradient is (N, H, W, 3, C), stacked.
    """

    image: Array
    memory: Array

    @property
    def stacked(self) -> bool:
        return self.memory.ndim == 5


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
    out = _empty(image.shape, image.dtype, stacked)
    whole = cuda.strides_of(image, 16) is not None
    name, units = _kernel("lay_out", image.dtype, image.shape[3], stacked, whole)
    strides = cuda.strides_of(image, image.shape[3] * image.itemsize // units)
    _launch(name, image.shape[:3], (image, out.memory), units, *strides, int(relu))
    return out


def combine(partial: Array, then: int, other: Pixels | Array | None = None, parts: Parts | None = None, *,
            stacked: bool) -> Pixels:
    """The image that partial sums (N, H, W, 3, C) add up to; the same launch adds up `parts`.

    Unless stacked, the three are sums of rows and belong to the pixels above, here and below; if stacked,
    they are sums of columns and belong to the pixels to the right, here and to the left. then: what is done
    to the image: NOTHING, RELU, ADD `other`, or keep its values WHERE `other` is POSITIVE.
    """
    N, H, W, _, C = partial.shape
    out = _empty((N, H, W, C), partial.dtype, stacked)
    memory = (out.memory if other is None else other.memory if isinstance(other, Pixels) else
              cuda.cupy.ascontiguousarray(other))
    name, settings = _combination(partial.shape, partial.strides, partial.dtype, memory.ndim,
                                  cuda.address(memory) % 16 == 0, then, stacked)
    sums = (*parts, len(parts.parts), parts.total.size) if parts else (out.memory, out.memory, 0, 0)
    _launch(name, (N, H, W), (partial, memory, out.memory, *sums[:2]), *settings, *sums[2:])
    _memory[stacked][cuda.address(out.image)] = out.memory
    return out


@functools.cache
def _combination(shape: tuple[int, ...], strides: tuple[int, ...], dtype: numpy.dtype, other_axes: int,
                 aligned: bool, then: int, stacked: bool) -> tuple[str, tuple[int, ...]]:
    """The CUDA kernel for `combine`, and its arguments from the units in a pixel to `then`."""
    _, _, W, _, C = shape
    name, units = _kernel("combine", dtype, C, stacked, aligned)
    partial = (stride * units // strides[3] for stride in strides[1:3])
    other = {5: (3 * W, 3, 1), 2: (_pitch(W), 1, 1), 4: (W, 1, 0)}[other_axes]  # stacked, padded, neither
    return name, (units, *partial, *(units * number for number in other), then)


@functools.cache
def windows(image: tuple[int, ...], dtype: numpy.dtype, stacked: bool, form: str) -> Layout:
    """The layout (batch, rows, 3C) of the three pixels of each one, in the memory of an image (N, H, W, C).

    form: "columns", those of the image, (W, N H, 3C); "matrix", all of a stacked image, (1, N H W, 3C);
    "thirds", of an image that is not: those that begin at pixels 0, 3, 6, ..., at 1, 4, 7, ... and at 2, 5,
    8, ... of its memory, also those that cross a border.
    """
    N, H, W, C = image
    pitch, pixel = (W, 3 * C * dtype.itemsize) if stacked else (_pitch(W), C * dtype.itemsize)
    batch, rows, apart = {"columns": (W, N * H, pitch), "matrix": (1, N * H * W, 1),
                          "thirds": (3, -(-N * H * pitch // 3), 3)}[form]
    return Layout((batch, rows, 3 * C), (pixel, apart * pixel, dtype.itemsize), dtype)


def of_windows(sums: Array, shape: tuple[int, ...]) -> Array:
    """(N, H, W, 3, C), a view of the sums (rows, batch, 3C) for all `windows` of a shape (N, H, W, _)."""
    (N, H, W, _), C = shape, sums.shape[2] // 3
    if len(sums) * sums.shape[1] == N * H * W:
        return sums.reshape(N, H, W, 3, C)
    return sums.reshape(-1, 3, C)[:N * H * _pitch(W)].reshape(N, H, -1, 3, C)[:, :, :W]


def _pitch(W: int) -> int:
    """Pixels from row to row, with the zeros between them; at least the three of a window."""
    return max(W + 1, 3)


@functools.cache
def _layout(shape: tuple[int, ...], itemsize: int, stacked: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of the memory of an image, and the image's strides in it."""
    N, H, W, C = shape
    row, pixel = (3 * W * C, 3 * C) if stacked else (_pitch(W) * C, C)
    memory = (N, H, W, 3, C) if stacked else (-(-N * H * _pitch(W) // 3) * 3 + 2, C)
    return memory, tuple(itemsize * stride for stride in (H * row, row, pixel, 1))


def _empty(shape: tuple[int, ...], dtype: numpy.dtype, stacked: bool) -> Pixels:
    N, H, W, C = shape
    memory = cuda.cupy.empty(_layout(shape, dtype.itemsize, stacked)[0], dtype)
    if stacked:
        return Pixels(memory[:, :, :, 1], memory)
    return Pixels(memory[1:N * H * _pitch(W) + 1].reshape(N, H, -1, C)[:, :, :W], memory)


@functools.cache
def _kernel(kernel: str, dtype: numpy.dtype, C: int, stacked: bool, aligned: bool) -> tuple[str, int]:
    """The name of a CUDA kernel, and the units in a pixel: units of 16 bytes if pixels and addresses are
    multiples of that, else of one number."""
    width = 16 // dtype.itemsize if aligned and C * dtype.itemsize % 16 == 0 else 1
    return _name(kernel, dtype.name, width, stacked), C // width


def _launch(name: str, shape: tuple[int, ...], arrays: tuple[Array, ...], units: int, *settings: int) -> None:
    """Run a CUDA kernel over the rows of images of a shape (N, H, W)."""
    function, grid, block, values = _prepared(name, shape, units, settings)
    function(grid, block, (*arrays, *values))


@functools.lru_cache(maxsize=4096)
def _prepared(name: str, shape: tuple[int, ...], units: int, settings: tuple[int, ...]) -> tuple[Any, ...]:
    """A CUDA kernel, its grid and blocks, and its arguments after the arrays."""
    N, H, W = shape
    across = min(64, 1 << (units - 1).bit_length())
    values = tuple(numpy.uint32(value) for value in (N * H, H, W, _pitch(W), units, *settings))
    return cuda.function(SOURCE, NAMES, name), (min(N * H, 2**20),), (across, THREADS // across), values
