"""Which files below a folder are pictures, and of which class."""
from __future__ import annotations

import codecs
import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..support.files import read_regular

SUFFIXES = (".jpeg", ".jpg", ".png")
LIST_LIMIT = 2**24  # bytes of a labels.txt; that of ImageNet takes two million


def _entries(folder: Path, kind: Callable[[os.DirEntry[str]], bool]) -> list[str]:
    """The sorted names of a kind, without what programs leave beside data: .git, ._x.jpg, __MACOSX."""
    return sorted(entry.name for entry in os.scandir(folder)
                  if not entry.name.startswith(".") and entry.name != "__MACOSX" and kind(entry))


def class_folders(folder: Path) -> tuple[str, ...]:
    """The sorted names of the folders in a folder: the classes."""
    return tuple(_entries(folder, os.DirEntry.is_dir))


def _pictures(folder: Path) -> list[str]:
    return _entries(folder, lambda entry: entry.name.lower().endswith(SUFFIXES) and entry.is_file())


def files_by_class(folder: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """Names relative to the folder, and the numbers of their classes, from FOLDER/CLASS/NAME."""
    unknown = sorted(set(class_folders(folder)) - set(classes))
    if unknown:
        raise ValueError(f"{folder} has {len(unknown)} classes that train/ does not have, such as "
                         f"{unknown[0]!r}")
    files = [(f"{name}/{picture}", label) for label, name in enumerate(classes)
             if (folder / name).is_dir() for picture in _pictures(folder / name)]
    return [name for name, _ in files], [label for _, label in files]


def files_by_list(folder: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """The same as `files_by_class`, from FOLDER/NAME and FOLDER/labels.txt."""
    number = {name: label for label, name in enumerate(classes)}
    names, path = _pictures(folder), folder / "labels.txt"
    label_of = dict.fromkeys(names, -1)
    content = read_regular(path, LIST_LIMIT)
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:  # as os.scandir has names that are not UTF-8
        text = content.decode(encoding, "surrogateescape")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a list of names and classes: {error}") from None
    for row, line in enumerate(io.StringIO(text, newline=None), 1):
        name, _, label = line.strip().partition(" ")
        if line.strip() and label.strip() not in number:
            raise ValueError(f"{path}, line {row}: expected a file's name and one of the folder names in "
                             f"train/, got {line.strip()!r:.80}")
        if name in label_of:
            label_of[name] = number[label.strip()]
    missing = [name for name in names if label_of[name] < 0]
    if missing:
        raise ValueError(f"{path} does not say the class of {len(missing)} of the {len(names)} pictures "
                         f"beside it, such as {missing[0]}")
    return names, [label_of[name] for name in names]
