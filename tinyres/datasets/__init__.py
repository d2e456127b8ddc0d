"""Data sets: CIFAR-10, CIFAR-100, generated shapes, and pictures in folders such as ImageNet."""
from .cifar import CIFAR10_CLASSES, cifar10, cifar100
from .dataset import Dataset, Split
from .decoding import read_square
from .image_folder import image_folder, save_as_folder
from .shapes import shapes

__all__ = ["CIFAR10_CLASSES", "Dataset", "Split", "cifar10", "cifar100", "image_folder", "read_square",
           "save_as_folder", "shapes"]
