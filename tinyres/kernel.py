"""Kernels: the few functions, nearly all of them on arrays, for which another file may know a faster way.

What the core writes as plainly as can be and marks `@kernel` is a kernel's definition. Files in fast/ may
register variants, each with the condition under which it applies; a call takes the variant that applies, or
else the definition. The core neither knows nor needs them.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

from .support.context import temporarily

KERNELS: list[Kernel] = []
_plain: ContextVar[bool] = ContextVar("plain", default=False)


class Kernel:
    """A function on arrays, with positional arguments only, for which faster variants may stand in."""

    __name__: str

    def __init__(self, definition: Callable[..., Any]) -> None:
        self.definition = definition
        self.variants: list[tuple[Callable[..., bool], Callable[..., Any]]] = []
        functools.update_wrapper(self, definition)

    def variant(self, applies: Callable[..., bool]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the decorated function for all arguments for which `applies` returns True.

        The variant registered last is tried first. The docstring of `applies` names the arrays and their
        library, the variant's says why it pays; `python -m tinyres.fast` prints both.
        """
        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.variants.insert(0, (applies, function))
            return function
        return register

    def choose(self, *arguments: Any) -> Callable[..., Any]:
        """The first variant that applies to the arguments, else the definition."""
        if not _plain.get():
            for applies, function in self.variants:
                if applies(*arguments):
                    return function
        return self.definition

    def __call__(self, *arguments: Any) -> Any:
        return self.choose(*arguments)(*arguments)


def kernel(definition: Callable[..., Any]) -> Kernel:
    """Declare a function on arrays a kernel: others may register variants of it."""
    KERNELS.append(Kernel(definition))
    return KERNELS[-1]


def plain() -> AbstractContextManager[None]:
    """Within this context and thread, every kernel computes by its definition."""
    return temporarily(_plain, True)
