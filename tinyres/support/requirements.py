"""What must be installed. Importing this, before anything that needs it, checks that it is."""
from __future__ import annotations

import importlib
import re
import sys

NEEDED = (("numpy", "NumPy", "2.0"), ("PIL", "Pillow", "10.1"))  # as in pyproject.toml


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def missing() -> str:
    """What is missing or too old, with the remedy; "" if nothing is."""
    if sys.version_info < (3, 10):  # noqa: UP036  to say so
        return "tinyres needs Python 3.10 or newer, and this is Python {}.{}.{}".format(*sys.version_info)
    for module, name, needed in NEEDED:
        try:
            found = importlib.import_module(module).__version__
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            found = ""
        if _numbers(found) < _numbers(needed):
            state = f"and this is {name} {found}" if found else "which is not installed"
            return (f"tinyres needs {name} {needed} or newer, {state}: python -m pip install --upgrade "
                    f"'{name.lower()}>={needed}', in a virtual environment if the system's Python refuses")
    return ""


if message := missing():
    if sys.argv[:1] == ["-m"]:  # Python is about to run a program of this package: no traceback
        sys.exit(message)
    raise ImportError(message)
