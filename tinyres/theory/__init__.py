"""The theorems as functions: linear (paper, section 2), expressivity (section 3). README.md says the rest."""
from . import expressivity, linear

__all__ = ["expressivity", "linear"]
