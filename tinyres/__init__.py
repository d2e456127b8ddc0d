"""tinyres: the paper "Identity Matters in Deep Learning" (Hardt and Ma, ICLR 2017) from scratch on arrays.

    import tinyres as tr

README.md beside this file says in which order to read, and what lies in each folder.
"""
from .support import requirements  # noqa: F401  it comes first: it checks what all others need

# isort: split
from . import backend, kernel, models, nn, optim
from .conv import conv2d
from .extras.functions import (
    abs,  # noqa: F401
    astype,
    clip,
    log_softmax,
    matmul,
    max,  # noqa: F401
    maximum,
    min,  # noqa: F401
    minimum,
    sigmoid,
    softmax,
    sqrt,
    std,
    tanh,
    var,
    where,
)
from .extras.losses import cross_entropy, mse_loss
from .extras.pooling import avg_pool2d, max_pool2d
from .extras.shaping import concatenate, flatten, split, squeeze, stack, unsqueeze
from .gradcheck import gradcheck
from .ops import (
    exp,
    global_avg_pool2d,
    log,
    mean,
    pad,
    relu,
    reshape,
    softmax_cross_entropy,
    sum,  # noqa: F401
    transpose,
)
from .support import names
from .tensor import Tensor, no_grad, operation

# isort: split
from . import datasets, distributed, fast, plot, pretrained, theory, training
from .training import accuracy, load, predict, save

__version__ = "0.2.0"

# names that a module cannot import from those that come after it
backend.plain = kernel.plain  # type: ignore[attr-defined]
models.pretrained = pretrained.pretrained  # type: ignore[attr-defined]

# `from tinyres import *` leaves Python's own sum, max, min and abs alone
__all__ = [
    "Tensor", "accuracy", "astype", "avg_pool2d", "backend", "clip", "concatenate", "conv2d",
    "cross_entropy", "datasets", "distributed", "exp", "fast", "flatten", "global_avg_pool2d", "gradcheck",
    "kernel", "load", "log", "log_softmax", "matmul", "max_pool2d", "maximum", "mean", "minimum", "models",
    "mse_loss", "nn", "no_grad", "operation", "optim", "pad", "plot", "predict", "relu", "reshape", "save",
    "sigmoid", "softmax", "softmax_cross_entropy", "split", "sqrt", "squeeze", "stack", "std", "tanh",
    "theory", "training", "transpose", "unsqueeze", "var", "where",
]

__getattr__, __dir__ = names.of_module("tinyres", [*__all__, "abs", "max", "min", "sum"])
