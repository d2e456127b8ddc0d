"""What the files of this folder share: where arrays lie in a GPU's memory, and CUDA kernels compiled by CuPy.

All of them can be imported without CuPy; calling anything in them needs a GPU.
"""
from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy

from ... import backend
from ...backend import Array

cupy = backend.cupy
NUMBERS = {"float16": "half", "float32": "float", "float64": "double"}  # CUDA's name of a dtype
SUMS = {"float16": "float", "float32": "float", "float64": "double"}  # and of the one it is added up in


def address(array: Array) -> int:
    """The address of an array's first number."""
    return array.data.ptr


def cupy_arrays(*arrays: object) -> bool:
    """CuPy arrays"""
    return backend.xp_of(arrays[0]) is not numpy


def readable(image: Array) -> Array:
    """An image (N, H, W, C), or a copy if a CUDA kernel cannot read it by three strides in 32 bits."""
    reach = sum((size - 1) * stride for size, stride in zip(image.shape, image.strides, strict=True))
    channels_contiguous = image.shape[3] == 1 or image.strides[3] == image.itemsize
    fits = channels_contiguous and min(image.strides) >= 0 and reach < 2**32 * image.itemsize
    return image if fits else cupy.ascontiguousarray(image)


def strides_of(image: Array, size: int) -> tuple[int, int, int] | None:
    """The strides from image to image, row to row and pixel to pixel of (N, H, W, C), in words of `size`
    bytes; None unless they, the pixels and the address are multiples of a word."""
    strides = image.strides[:3]
    whole = not any(number % size for number in (*strides, image.shape[3] * image.itemsize, address(image)))
    return tuple(stride // size for stride in strides) if whole else None


@functools.cache
def elementwise_kernel(inputs: str, outputs: str, operation: str, name: str) -> Any:
    return cupy.ElementwiseKernel(inputs, outputs, operation, name)


@functools.cache
def compiled(source: Path, names: tuple[str, ...]) -> Any:
    """The module of the CUDA kernels in a file, with these instances of its templates."""
    return cupy.RawModule(code=source.read_text(), options=("--std=c++14",), name_expressions=list(names))


@functools.cache
def function(source: Path, names: tuple[str, ...], name: str) -> Any:
    """One of the functions of `compiled(source, names)`."""
    return compiled(source, names).get_function(name)
