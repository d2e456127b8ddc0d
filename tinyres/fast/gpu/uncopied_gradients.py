"""Gradients that a leaf keeps without copying them.

`backward` copies what it leaves in `.grad`, since an operation may give one array to several parents, or keep
it. Operations on a GPU that make a new array for one parent, and do not keep it, say so here.

Why it is faster: a copy is one launch and two passes over memory, for each of 55 kernels.
"""
from __future__ import annotations

from weakref import WeakValueDictionary

from ...backend import Array
from ...tensor import leaf_gradient

_unshared: WeakValueDictionary[int, Array] = WeakValueDictionary()  # by id


def unshared(gradient: Array) -> Array:
    """The same gradient, marked as an array that one parent gets and nobody else holds."""
    _unshared[id(gradient)] = gradient
    return gradient


def unshared_on_cupy(gradient: Array) -> bool:
    """gradients on CuPy that nobody else holds"""
    return _unshared.get(id(gradient)) is gradient


@leaf_gradient.variant(unshared_on_cupy)
def keep_without_copy(gradient: Array) -> Array:
    """no copy, since nobody else holds the array"""
    return _unshared.pop(id(gradient), gradient)  # once: of two leaves the second gets a copy
