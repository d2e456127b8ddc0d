"""The augmentation that the paper calls standard, for a whole batch at once, on both backends.

The code that the paper starts from (the residual network in the TensorFlow models repository) pads each image
by two pixels on every side, cuts out a random window of the old size, mirrors half of the images, and
standardizes each one.
"""
from __future__ import annotations

import math

import numpy

from ..backend import Array, xp_of

PADDING = 2  # pixels on every side; He et al. have 4


def standardize(images: Array) -> Array:
    """Each image minus its mean, over its standard deviation: (N, H, W, C) uint8 -> float32.

    The deviation is taken as at least 1 / sqrt(H W C), so that an image of one color becomes zeros.
    """
    values = images.astype(numpy.float32)
    values -= values.mean(axis=(1, 2, 3), keepdims=True)
    std = xp_of(images).sqrt((values * values).mean(axis=(1, 2, 3), keepdims=True))
    values /= xp_of(images).maximum(std, math.prod(values.shape[1:]) ** -0.5)
    return values


def draw_crops(count: int, rng: numpy.random.Generator, padding: int = PADDING) -> numpy.ndarray:
    """Random numbers for `crop_flip`, drawn with NumPy so that both backends see the same ones: (count, 3)
    integers, how far down and right a window lies, 0 to 2 padding, and 1 where it is mirrored."""
    shifts = rng.integers(0, 2 * padding + 1, (2, count))
    return numpy.stack([*shifts, rng.integers(0, 2, count)], axis=1)


def crop_flip(images: Array, crops: numpy.ndarray, padding: int = PADDING) -> Array:
    """Each image shifted by up to padding pixels, zeros moving in, and mirrored left to right if drawn.

    (N, H, W, C) -> the same shape and dtype. crops: (N, 3), from `draw_crops` with this padding.
    """
    xp = xp_of(images)
    N, H, W, _ = images.shape
    padded = xp.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    top, left, flip = xp.asarray(crops.T)[..., None]
    rows = top + xp.arange(H)
    columns = left + xp.where(flip == 1, xp.arange(W)[::-1], xp.arange(W))
    return padded[xp.arange(N)[:, None, None], rows[:, :, None], columns[:, None, :]]
