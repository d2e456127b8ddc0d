"""What files of the core share, whichever comes first: settings that hold within a context, and operations by
name."""
from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from types import SimpleNamespace

recording: ContextVar[bool] = ContextVar("recording", default=True)  # False under no_grad()

# Methods of Tensor are operations, which return Tensors and so are defined after it: here they are found.
operations = SimpleNamespace()


@contextlib.contextmanager
def setting(variable: ContextVar[bool], value: bool) -> Iterator[None]:
    """Within this context, and in this thread, the variable has that value."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
