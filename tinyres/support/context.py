"""What several files of the core share: values that hold within a context, such as no_grad(), and a table of
operations by name."""
from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

recording: ContextVar[bool] = ContextVar("recording", default=True)  # False under no_grad()


# What the operators of Tensor call: functions that return Tensors, and so are defined after it. The files in
# which they are fill this in at their ends; those in extras put wider ones in place of power and matmul.
operations = SimpleNamespace()


class temporarily:
    """Within this context, and in this thread, the variable has that value.

    One object may be entered again, also within itself. As a decorator of a function, generator or coroutine
    it holds while their own code runs.
    """

    def __init__(self, variable: ContextVar[bool], value: bool) -> None:
        self.variable, self.value = variable, value

    def __enter__(self) -> None:
        _entered.set((*_entered.get(), (self.variable, self.variable.get())))
        self.variable.set(self.value)

    def __exit__(self, *error: object) -> None:
        entered = _entered.get()
        last = max(i for i, (variable, _) in enumerate(entered) if variable is self.variable)
        self.variable.set(entered[last][1])
        _entered.set(entered[:last] + entered[last + 1:])

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(function):
            raise TypeError(f"cannot decorate the asynchronous generator {function.__name__!r}: write "
                            "`with` in it")

        def called(*arguments: Any, **named: Any) -> Any:
            with self:
                return function(*arguments, **named)

        def stepped(*arguments: Any, **named: Any) -> Any:
            return (yield from _steps(self, function(*arguments, **named)))

        async def awaited(*arguments: Any, **named: Any) -> Any:
            with self:
                return await function(*arguments, **named)

        within = (stepped if inspect.isgeneratorfunction(function) else
                  awaited if inspect.iscoroutinefunction(function) else called)
        return functools.wraps(function)(within)


# for each context that was entered and not yet left, the last one last, its variable and the value before it
_entered: ContextVar[tuple[tuple[ContextVar[bool], bool], ...]] = ContextVar("entered", default=())


def _steps(context: temporarily, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """What the generator yields; each of its steps is taken within the context, and its user's are not."""
    step, argument = generator.send, None
    while True:
        try:
            with context:
                result = step(argument)
        except StopIteration as end:
            return end.value
        try:
            step, argument = generator.send, (yield result)
        except GeneratorExit:
            with context:
                generator.close()
            raise
        except BaseException as error:
            step, argument = generator.throw, error


def no_grad(function: Callable[..., Any] | None = None) -> Any:
    """Within this context operations record no graph: for evaluation, where no gradient is needed.

    Also a decorator of functions, generators and coroutines: @tr.no_grad() or @tr.no_grad.
    Raises TypeError for anything else, and for asynchronous generators.
    """
    context = temporarily(recording, False)
    if function is not None and not callable(function):
        raise TypeError(f"no_grad() decorates a function, not a {type(function).__name__}")
    return context if function is None else context(function)
