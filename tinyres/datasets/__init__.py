"""Data sets: CIFAR-10, CIFAR-100 and generated shapes."""
from .cifar import cifar10, cifar100
from .dataset import Dataset, Split
from .shapes import shapes

__all__ = ["Dataset", "Split", "cifar10", "cifar100", "shapes"]
