"""The theorems: linear (paper, section 2), expressivity (section 3); *_report.py prints and draws them."""
from . import expressivity, linear

__all__ = ["expressivity", "linear"]
