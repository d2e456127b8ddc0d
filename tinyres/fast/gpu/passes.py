"""How images lie in memory between the products of a residual block, and the passes that put them there.

A product wants three pixels for each: of x the ones to the left, here and to the right, of a gradient the
ones below, here and above (gpu_block.py). Of x nothing is stored twice: with a pixel of zeros between its
rows, three pixels lie side by side as they are. Such windows of neighbouring pixels overlap, which the rows
of no matrix may, but those of one column of pixels do not. So a product is a batch of W products, one for
each column, and reads its image from memory about once: what two columns share is still in the cache.

Of a gradient, whose neighbours are in other rows, all three are stored, and others see a view of the middle
ones. It must not be written to: the other two would not know.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy

from ...backend import Array
from . import cuda

THREADS = 256  # of a block

SUMS = {"float16": "float", "float32": "float", "float64": "double"}
TYPES = {"float16": "half", "float32": "float", "float64": "double"}
SOURCE = Path(__file__).with_suffix(".cu")
NAMES = tuple(name for dtype in TYPES for width in (1, 16 // numpy.dtype(dtype).itemsize)
              for stacked in ("false", "true")
              for name in (f"lay_out<{TYPES[dtype]}, {width}, {stacked}>",
                           f"combine<{TYPES[dtype]}, {SUMS[dtype]}, {width}, {stacked}>"))
NOTHING, RELU, ADD, WHERE_POSITIVE = range(4)  # what `combine` does to the sums


class Pixels(NamedTuple):
    """An image (N, H, W, C), a view of memory where each pixel has its neighbours.

    Of x, memory is (1 + N H pitch, C): a pixel of zeros, then rows, each with zeros behind it. Of a gradient
    it is (N, H, W, 3, C), stacked.
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


# the memory that is alive, of images and, stacked, of gradients, by the address of the image's first pixel
_memory: dict[bool, WeakValueDictionary[int, Array]] = {
    False: WeakValueDictionary(), True: WeakValueDictionary()}


def pixels_of(image: Array, stacked: bool) -> Pixels:
    """The memory that an image (N, H, W, C) is a view of, or else a copy of it in such memory."""
    memory = _memory[stacked].get(cuda.address(image))
    if memory is not None and memory.shape == _memory_shape(image.shape, stacked):
        there = _image(memory, image.shape)
        if there.strides == image.strides:
            return Pixels(there, memory)
    return lay_out(image, stacked)


def lay_out(image: Array, stacked: bool, relu: bool = False) -> Pixels:
    """A copy of an image (N, H, W, C), or of its relu."""
    image = cuda.readable(image)
    out = _empty(image.shape, image.dtype, stacked)
    width, units = _width(image, out.memory)
    strides = cuda.strides_of(image, width * image.itemsize)
    if strides is None:
        width, units, strides = 1, image.shape[3], cuda.strides_of(image, image.itemsize)
    _launch(f"lay_out<{TYPES[image.dtype.name]}, {width}, {str(stacked).lower()}>", image.shape[:3],
            (image, out.memory), units, *strides, int(relu))
    return out


def combine(partial: Array, then: int, other: Pixels | Array | None = None, parts: Parts | None = None, *,
            stacked: bool) -> Pixels:
    """The image that partial sums (N, H, W, 3, C) add up to; beside it, `parts` are added up.

    Not stacked, the three are sums of rows, which belong to the pixels above, here and below; stacked, of
    columns, to the right, here and to the left. then: NOTHING, RELU, ADD `other`, or keep it WHERE_POSITIVE.
    """
    N, H, W, _, C = partial.shape
    out = _empty((N, H, W, C), partial.dtype, stacked)
    if isinstance(other, Pixels):
        beside, place = other.memory, (3 * W, 3, 1) if other.stacked else (_pitch(W), 1, 1)
    else:
        beside, place = partial if other is None else cuda.cupy.ascontiguousarray(other), (W, 1, 0)
    width, units = _width(partial, beside, out.memory)
    sums = (*parts, len(parts.parts), parts.total.size) if parts else (partial, partial, 0, 0)
    dtype = partial.dtype.name
    _launch(f"combine<{TYPES[dtype]}, {SUMS[dtype]}, {width}, {str(stacked).lower()}>", (N, H, W),
            (partial, beside, out.memory, *sums[:2]), units, *(units * n for n in place), then, *sums[2:])
    _memory[stacked][cuda.address(out.image)] = out.memory
    return out


def columns(pixels: Pixels) -> Array:
    """The three pixels for each, parted by columns of the image: (W, N H, 3C), a view."""
    (N, H, W, C), memory = pixels.image.shape, pixels.memory
    if pixels.stacked:
        return memory.reshape(N * H, W, 3 * C).swapaxes(0, 1)
    pixel = C * memory.itemsize
    return cuda.cupy.lib.stride_tricks.as_strided(
        memory, (W, N * H, 3 * C), (pixel, _pitch(W) * pixel, memory.itemsize))


def _pitch(W: int) -> int:
    """Pixels from row to row with the zeros between them: a window of three is no longer than that."""
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
    """(numbers in a unit, units in a pixel): units of 16 bytes, if pixels and addresses are multiples of
    that, else of one number."""
    C, itemsize = arrays[0].shape[-1], arrays[0].itemsize
    width = 16 // itemsize
    fits = C % width == 0 and all(cuda.address(array) % 16 == 0 for array in arrays)
    return (width, C // width) if fits else (1, C)


def _launch(name: str, shape: tuple[int, ...], arrays: tuple[Array, ...], units: int, *settings: int) -> None:
    """Run a kernel over the rows of images of that shape, (N, H, W)."""
    N, H, W = shape
    across = min(64, 1 << (units - 1).bit_length())
    values = (numpy.uint32(value) for value in (N * H, H, W, _pitch(W), units, *settings))
    _function(name)((min(N * H, 2**20),), (across, THREADS // across), (*arrays, *values))


@functools.cache
def _function(name: str) -> Callable[..., None]:
    return cuda.compiled(SOURCE, NAMES).get_function(name)
