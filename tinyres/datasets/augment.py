"""The augmentation that the paper calls standard, vectorized over the batch, for both backends.

The code that the paper starts from (the residual network in the TensorFlow models repository) pads the image
by two pixels a side, cuts out a random window of the old size, mirrors half of the images, and standardizes
each one.
"""
from __future__ import annotations

import math

import numpy

from ..backend import Array, xp_of


def standardize(images: Array) -> Array:
    """Each image minus its mean, over its standard deviation: (N, H, W, C) uint8 -> float32.

    The deviation is taken as at least 1 / sqrt(H W C), so that an image of one colour becomes zeros.
    """
    values = images.astype(numpy.float32)
    values -= values.mean(axis=(1, 2, 3), keepdims=True)
    std = xp_of(images).sqrt((values * values).mean(axis=(1, 2, 3), keepdims=True))
    values /= xp_of(images).maximum(std, math.prod(values.shape[1:]) ** -0.5)
    return values


def random_crop_flip(images: Array, rng: numpy.random.Generator, padding: int = 2) -> Array:
    """Each image shifted by up to `padding` pixels, zeros moving in, and mirrored left to right half of the
    time.

    (N, H, W, C) -> the same shape and dtype. The draws are made with NumPy, so that both backends see the
    same ones.
    """
    xp = xp_of(images)
    N, H, W, _ = images.shape
    padded = xp.pad(images, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    shifts = rng.integers(0, 2 * padding + 1, (2, N, 1))
    top, left, flip = xp.asarray(numpy.concatenate([shifts, rng.integers(0, 2, (1, N, 1))]))
    rows = top + xp.arange(H)
    columns = left + xp.where(flip == 1, xp.arange(W)[::-1], xp.arange(W))
    return padded[xp.arange(N)[:, None, None], rows[:, :, None], columns[:, None, :]]
