"""The theorems as programs that check themselves: linear (paper, section 2) and expressivity (section 3)."""
from __future__ import annotations

import importlib
from types import ModuleType


def __getattr__(name: str) -> ModuleType:
    """Import linear and expressivity when they are first used: `python -m` wants to be the first."""
    if name in ("expressivity", "linear"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
