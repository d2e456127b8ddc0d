"""The theorems as programs that check themselves: linear (paper, section 2) and expressivity (section 3)."""
