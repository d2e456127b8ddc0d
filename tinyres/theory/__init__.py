"""The theorems: linear (paper, section 2), expressivity (section 3). The reports print and draw what they give."""
from . import expressivity, linear

__all__ = ["expressivity", "linear"]
