"""How options are read and shown: numbers within bounds, a default with each, errors of two lines."""
from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Its errors show one line of usage, not all of it, and options are not to be abbreviated."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"usage: {self.prog} [options], which --help lists\n{self.prog}: error: {message}\n")


class Help(argparse.RawDescriptionHelpFormatter):
    """Adds its default to the text of every option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        value, text = action.default, action.help or ""
        if value is None or isinstance(value, bool) or value == argparse.SUPPRESS or "default:" in text:
            return text
        return f"{text}; default: {' '.join(map(str, value)) if isinstance(value, list) else value}"


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
