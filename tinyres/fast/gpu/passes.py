"""How images lie in memory between the products of a residual block, and the passes that put them there.

A product needs three pixels for each one: of x those to the left, here and to the right, of a gradient those
below, here and above (block.py). Of x nothing is stored twice: with a pixel of zeros between its rows, any
three pixels already lie side by side. Such windows around neighboring pixels overlap, which the rows of a
matrix must not, but the windows in one column of pixels do not. So a product is a batch of W products, one
for each column, and reads its image from memory about once: what two columns share is still in the cache.

Of a gradient, whose neighbors are in other rows, all three pixels are stored, and the rest of the program
sees a view of the middle ones. It must not write to that view: the other two would not change.
"""
from __future__ import annotations

from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy

from ...backend import Array
from . import cuda

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

    The memory of x is (1 + N H pitch, C): a pixel of zeros, then the rows, each with zeros after it. That of
    a gradient is (N, H, W, 3, C), stacked.
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
    if memory is not None and memory.shape == _memory_shape(image.shape, stacked):
        whole = _image(memory, image.shape)
        if whole.strides == image.strides:
            return Pixels(whole, memory)
    return lay_out(image, stacked)


def lay_out(image: Array, stacked: bool, relu: bool = False) -> Pixels:
    """A copy of an image (N, H, W, C), or of its relu, in memory where each pixel has its neighbors."""
    image = cuda.readable(image)
    out = _empty(image.shape, image.dtype, stacked)
    width, units = _width(image, out.memory)
    strides = cuda.strides_of(image, width * image.itemsize)
    if strides is None:
        width, units, strides = 1, image.shape[3], cuda.strides_of(image, image.itemsize)
    _launch(_name("lay_out", image.dtype.name, width, stacked), image.shape[:3], (image, out.memory), units,
            *strides, int(relu))
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
    if isinstance(other, Pixels):
        memory, place = other.memory, (3 * W, 3, 1) if other.stacked else (_pitch(W), 1, 1)
    else:
        memory, place = partial if other is None else cuda.cupy.ascontiguousarray(other), (W, 1, 0)
    width, units = _width(partial, memory, out.memory)
    sums = (*parts, len(parts.parts), parts.total.size) if parts else (partial, partial, 0, 0)
    _launch(_name("combine", partial.dtype.name, width, stacked), (N, H, W),
            (partial, memory, out.memory, *sums[:2]), units, *(units * n for n in place), then, *sums[2:])
    _memory[stacked][cuda.address(out.image)] = out.memory
    return out


def columns(pixels: Pixels) -> Array:
    """The three pixels of each one, grouped by columns of the image: (W, N H, 3C), a view."""
    (N, H, W, C), memory = pixels.image.shape, pixels.memory
    if pixels.stacked:
        return memory.reshape(N * H, W, 3 * C).swapaxes(0, 1)
    pixel = C * memory.itemsize
    return cuda.cupy.lib.stride_tricks.as_strided(
        memory, (W, N * H, 3 * C), (pixel, _pitch(W) * pixel, memory.itemsize))


def _pitch(W: int) -> int:
    """Pixels from row to row, with the zeros between them; at least the three of a window."""
    return max(W + 1, 3)


def _memory_shape(shape: tuple[int, ...], stacked: bool) -> tuple[int, ...]:
    N, H, W, C = shape
    return (N, H, W, 3, C) if stacked else (1 + N * H * _pitch(W), C)


def _empty(shape: tuple[int, ...], dtype: numpy.dtype, stacked: bool) -> Pixels:
    memory = cuda.cupy.empty(_memory_shape(shape, stacked), dtype)
    return Pixels(_image(memory, shape), memory)


def _image(memory: Array, shape: tuple[int, ...]) -> Array:
    N, H, W, C = shape
    return memory[:, :, :, 1] if memory.ndim == 5 else memory[1:].reshape(N, H, -1, C)[:, :, :W]


def _width(*arrays: Array) -> tuple[int, int]:
    """(numbers in a unit, units in a pixel): units of 16 bytes if pixels and addresses are multiples of that,
    else of one number."""
    C, itemsize = arrays[0].shape[-1], arrays[0].itemsize
    width = 16 // itemsize
    fits = C % width == 0 and all(cuda.address(array) % 16 == 0 for array in arrays)
    return (width, C // width) if fits else (1, C)


def _launch(name: str, shape: tuple[int, ...], arrays: tuple[Array, ...], units: int, *settings: int) -> None:
    """Run a CUDA kernel over the rows of images of a shape (N, H, W)."""
    N, H, W = shape
    across = min(64, 1 << (units - 1).bit_length())
    values = (numpy.uint32(value) for value in (N * H, H, W, _pitch(W), units, *settings))
    cuda.function(SOURCE, NAMES, name)((min(N * H, 2**20),), (across, THREADS // across), (*arrays, *values))
