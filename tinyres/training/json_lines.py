"""Files that grow by lines, each a JSON object: the metrics of a run, the results of an experiment."""
from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..support.files import read_regular, user_path

MAX_BYTES = 2**28  # of such a file; a line of metrics has about a thousand


def read_lines(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each line, from 1, and its object: none if the file is absent, and without a last line
    that was cut off. Raises ValueError that names the file and the line for any other damage."""
    if not (path := user_path(path)).exists():
        return
    *lines, last = read_regular(path, MAX_BYTES).split(b"\n")
    for number, text in enumerate([*lines, last] if _object(last) else lines, 1):
        if (line := _object(text)) is None:
            raise ValueError(f"{path}, line {number} is damaged: expected a JSON object, got {text[:40]!r}; "
                             "delete the line, or restore the file")
        yield number, line


def append_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Add lines to a file, all or none, after what is whole in it. Raises OSError if it cannot be written."""
    with open(path, "a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read() not in (b"", b"\n"):  # an editor left no newline, or the last line was cut off
            last = path.read_bytes().rpartition(b"\n")[2]
            if _object(last) is None:
                size = file.truncate(size - len(last))
            else:
                size += file.write(b"\n")
    try:
        with open(path, "ab") as file:
            file.writelines(map(json_line, lines))
    except OSError:
        os.truncate(path, size)  # or the next line would join a torn one
        raise


def json_line(line: Mapping[str, Any]) -> bytes:
    """The bytes of a line. Raises ValueError for a number that is not finite."""
    return json.dumps(dict(line), allow_nan=False).encode() + b"\n"


def are_numbers(values: Any, low: float = -1e300, high: float = 1e300) -> bool:
    """Whether these are a list of numbers within bounds, one or more."""
    return isinstance(values, list) and values != [] and all(
        isinstance(value, (int, float)) and low <= value <= high for value in values)


def _object(text: bytes) -> dict[str, Any] | None:
    """The object in a line of JSON, None if it is none. NaN and infinity are no JSON."""
    try:
        line = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(constant)
