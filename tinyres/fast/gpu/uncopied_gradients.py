"""Gradients that a leaf may keep without a copy.

`backward` copies what it leaves in `.grad`, since an operation may hand one array to several parents, or keep
it. Operations on a GPU that make a new array for one parent and forget it say so here.

Why it is faster: a kernel's gradient is copied in one launch and two passes over its memory, for 55 kernels.
"""
from __future__ import annotations

from weakref import WeakValueDictionary

from ...backend import Array
from ...tensor import leaf_gradient

_new: WeakValueDictionary[int, Array] = WeakValueDictionary()  # by id


def new(gradient: Array) -> Array:
    """The same gradient, which from here on is only handed to one parent."""
    _new[id(gradient)] = gradient
    return gradient


def new_on_cupy(gradient: Array) -> bool:
    """gradients on CuPy that nobody else has"""
    return _new.get(id(gradient)) is gradient


@leaf_gradient.variant(new_on_cupy)
def handed_over(gradient: Array) -> Array:
    """no copy where nobody else has the array"""
    return _new.pop(id(gradient), gradient)  # once: of two leaves the second gets a copy
