"""Which files below a folder are pictures, and of which class."""
from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Sequence
from pathlib import Path

SUFFIXES = (".jpeg", ".jpg", ".png")


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
    label_of = {}
    content = (folder / "labels.txt").read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    # as os.scandir has names that are not UTF-8
    for row, line in enumerate(content.decode(encoding, "surrogateescape").splitlines(), 1):
        name, _, label = line.strip().partition(" ")
        if line.strip() and label.strip() not in number:
            raise ValueError(f"{folder / 'labels.txt'}, line {row}: expected a file's name and one of the "
                             f"folder names in train/, got {line!r:.80}")
        label_of[name] = number.get(label.strip())
    names = _pictures(folder)
    missing = [name for name in names if name not in label_of]
    if missing:
        raise ValueError(f"{folder / 'labels.txt'} does not say the class of {len(missing)} of the "
                         f"{len(names)} pictures beside it, such as {missing[0]}")
    return names, [label_of[name] for name in names]
