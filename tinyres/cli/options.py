"""How options are declared, read and shown: as the fields of dataclasses, numbers within bounds.

    @dataclass(frozen=True, kw_only=True)
    class Options:
        lr: float = option(0.05, "learning rate", positive_float)

    options = Options(**Parser("What the script does.", Options).typed())
"""
from __future__ import annotations

import argparse
import dataclasses
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..support.files import user_path


def option(default: Any, help: str, type: Callable[[str], Any] = str, metavar: str | None = None,
           **more: Any) -> Any:
    """A dataclass field that is also an option of the command line; a subclass may restate its default alone.

    default: `dataclasses.MISSING` if only subclasses have one. exclusive: the name of a group of options of
    which only one may be given. alias: one of the choices, which may be given as an option of its own. The
    others are as in argparse's `add_argument`.
    """
    metadata = {"help": help, "type": type, "metavar": metavar, **more}
    return dataclasses.field(default=default, metadata=metadata)


def flag(help: str, default: bool = False, action: Any = "store_true") -> Any:
    """An `option` without a value; with `argparse.BooleanOptionalAction` it is also there as --no-name."""
    return dataclasses.field(default=default, metadata={"help": help, "action": action})


class Parser(argparse.ArgumentParser):
    """Reads the options that the fields of dataclasses declare. Names cannot be abbreviated, and an error
    prints one line of usage, not all of it."""

    def __init__(self, description: str | None, *classes: type, prog: str | None = None) -> None:
        super().__init__(prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                         allow_abbrev=False, argument_default=argparse.SUPPRESS)
        exclusive: defaultdict[str, Any] = defaultdict(self.add_mutually_exclusive_group)
        for cls in classes:
            for field in dataclasses.fields(cls):
                # the class that declared the option has its text, the last one its default
                how = dict(next(found.metadata for above in cls.__mro__
                                if (found := above.__dataclass_fields__[field.name]).metadata))
                if how.get("type") is Path:
                    how["type"] = user_path  # no shell expands the ~ of --data=~/x
                how["help"] += _shown(field.default) * ("default:" not in how["help"])
                group = exclusive[how.pop("exclusive")] if "exclusive" in how else self
                name, alias = "--" + field.name.replace("_", "-"), how.pop("alias", None)
                group.add_argument(name, **how)
                if alias:
                    group.add_argument(f"--{alias}", action="store_const", dest=field.name, const=alias,
                                       help=f"the same as {name} {alias}")

    def typed(self, words: Sequence[str] | None = None) -> dict[str, Any]:
        """The options among the words, by default those of the command line, and no others; lists as
        tuples."""
        return {name: tuple(value) if isinstance(value, list) else value
                for name, value in vars(self.parse_args(words)).items()}

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"usage: {self.prog} [options], which --help lists\n{self.prog}: error: {message}\n")


def _shown(default: Any) -> str:
    if default is None or default is False or default is dataclasses.MISSING:
        return ""
    return f"; default: {' '.join(map(str, default)) if isinstance(default, tuple) else default}"


def positive_int(text: str) -> int:
    """An option's integer >= 1; argparse puts the option's name before the error."""
    return _number(text, int, "an integer from 1 to 2147483647", lambda value: 1 <= value < 2**31)


def non_negative_int(text: str) -> int:
    """An option's integer >= 0."""
    return _number(text, int, "an integer from 0 to 2147483647", lambda value: 0 <= value < 2**31)


def positive_float(text: str) -> float:
    """An option's finite number > 0."""
    return _number(text, float, "a number above 0", lambda value: 0 < value < float("inf"))


def fraction(text: str) -> float:
    """An option's number from 0 to less than 1."""
    return _number(text, float, "a number from 0 to less than 1", lambda value: 0 <= value < 1)


def _number(text: str, kind: type, expected: str, admitted: Callable[[Any], bool]) -> Any:
    try:
        if admitted(value := kind(text)):
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
