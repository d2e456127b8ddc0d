"""What several files of the core share: values that hold within a context, such as no_grad(), and a table of
operations by name."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

Operation = Callable[..., Any]

recording: ContextVar[bool] = ContextVar("recording", default=True)  # False under no_grad()


class Operations:
    """What the operators and methods of Tensor call: functions that return Tensors, and so are defined after
    Tensor. Each file named below fills in its own, at its end."""

    add: Operation  # arithmetic.py
    subtract: Operation
    multiply: Operation
    divide: Operation
    power: Operation
    matmul: Operation
    sum: Operation  # ops.py
    mean: Operation
    reshape: Operation
    transpose: Operation
    max: Operation  # extras/functions.py
    min: Operation
    var: Operation
    std: Operation
    clip: Operation
    abs: Operation
    astype: Operation
    getitem: Operation  # extras/shaping.py
    squeeze: Operation
    unsqueeze: Operation
    flatten: Operation
    split: Operation


operations = Operations()


@contextlib.contextmanager
def temporarily(variable: ContextVar[bool], value: bool) -> Iterator[None]:
    """Within this context, and in this thread, the variable has that value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def no_grad(function: Callable[..., Any] | None = None) -> Any:
    """Within this context operations record no graph: for evaluation, where no gradient is needed.

    Also a decorator of functions: @tr.no_grad() or @tr.no_grad.
    """
    context = temporarily(recording, False)
    return context(function) if function else context
