"""What the files of this folder share: where arrays lie in a GPU's memory, and kernels that CuPy compiles.

It can be imported without CuPy; calling anything in this folder needs a GPU.
"""
from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy

from ... import backend
from ...backend import Array

cupy = backend.cupy


def address(array: Array) -> int:
    """Of an array's first number."""
    return array.data.ptr


def cupy_arrays(*arrays: object) -> bool:
    """CuPy arrays"""
    return backend.xp_of(arrays[0]) is not numpy


def readable(image: Array) -> Array:
    """An image (N, H, W, C), or a copy of one that a kernel cannot read by its three strides in 32 bits."""
    reach = sum((size - 1) * stride for size, stride in zip(image.shape, image.strides, strict=True))
    side_by_side = image.shape[3] == 1 or image.strides[3] == image.itemsize
    fits = side_by_side and min(image.strides) >= 0 and reach < 2**32 * image.itemsize
    return image if fits else cupy.ascontiguousarray(image)


def strides_of(image: Array, size: int) -> tuple[int, int, int] | None:
    """From image to image, row to row and pixel to pixel of (N, H, W, C) in words of so many bytes, if pixels
    and all of these are multiples of a word."""
    strides = image.strides[:3]
    whole = not any(number % size for number in (*strides, image.shape[3] * image.itemsize, address(image)))
    return tuple(stride // size for stride in strides) if whole else None


@functools.cache
def elementwise_kernel(inputs: str, outputs: str, operation: str, name: str) -> Any:
    return cupy.ElementwiseKernel(inputs, outputs, operation, name)


@functools.cache
def compiled(source: str | Path, names: tuple[str, ...]) -> Any:
    """The module of CUDA kernels in a file, or a text, with these instances of its templates."""
    code = source if isinstance(source, str) else source.read_text()
    return cupy.RawModule(code=code, options=("--std=c++14",), name_expressions=list(names))
