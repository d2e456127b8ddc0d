"""Kernels: the few functions on arrays that take nearly all of the time.

(Not those of a convolution, which are called w here.) What the core says of one, as plainly as can be and
marked `@kernel`, is its definition. Files in `fast/` may register variants, with the condition under which
each applies; calling the kernel calls the variant that applies, or else the definition. The core neither
knows nor needs them.
"""
from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

_plain: ContextVar[bool] = ContextVar("plain", default=False)


class Kernel:
    """A function on arrays, given by its definition, for which faster variants may stand in.

    It takes positional arguments only.
    """

    def __init__(self, definition: Callable[..., Any]) -> None:
        self.definition = definition
        self.variants: list[tuple[Callable[..., bool], Callable[..., Any]]] = []
        functools.update_wrapper(self, definition)

    def variant(self, applies: Callable[..., bool]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the decorated function for all arguments of which `applies` says so.

        The variant registered last is tried first. The docstring of `applies` says for which arrays, with
        the library's name, and that of the variant why it pays: `python -m tinyres.fast` prints them.
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


KERNELS: list[Kernel] = []


def kernel(definition: Callable[..., Any]) -> Kernel:
    """Declare a function on arrays a kernel: others may register variants of it."""
    KERNELS.append(Kernel(definition))
    return KERNELS[-1]


@contextlib.contextmanager
def setting(variable: ContextVar[bool], value: bool) -> Iterator[None]:
    """Within this context, and in this thread, the variable has that value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def plain() -> contextlib.AbstractContextManager[None]:
    """Within this context, and in this thread, every kernel computes by its definition: the textbook."""
    return setting(_plain, True)
