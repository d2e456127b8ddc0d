"""Print which lessons there are."""
from .. import lessons

print(lessons.__doc__)
