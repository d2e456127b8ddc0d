"""tinyres: the paper "Identity Matters in Deep Learning" (Hardt and Ma, ICLR 2017) from scratch on arrays.

    import tinyres as tr

README.md beside this file says in which order to read, and what lies in each folder.
"""
from .support import requirements  # noqa: F401  it comes first: it checks what all others need

# isort: split
from . import backend, kernel, models, nn, optim
from .arithmetic import matmul
from .conv import conv2d
from .extras.functions import (
    abs,  # noqa: F401
    astype,
    clip,
    concatenate,
    log_softmax,
    max,  # noqa: F401
    max_pool2d,
    maximum,
    sigmoid,
    softmax,
    sqrt,
    stack,
    tanh,
)
from .gradcheck import gradcheck
from .ops import (
    avg_pool2d,
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
from .tensor import Tensor, no_grad, operation

# isort: split
from . import datasets, distributed, fast, plot, pretrained, theory, training
from .training import accuracy, predict

__version__ = "0.2.0"

# names that a module cannot import from those that come after it
backend.plain = kernel.plain  # type: ignore[attr-defined]
models.pretrained = pretrained.pretrained  # type: ignore[attr-defined]

# `from tinyres import *` leaves Python's own sum, max and abs alone
__all__ = [
    "Tensor", "accuracy", "astype", "avg_pool2d", "backend", "clip", "concatenate", "conv2d", "datasets",
    "distributed", "exp", "fast", "global_avg_pool2d", "gradcheck", "kernel", "log", "log_softmax", "matmul",
    "max_pool2d", "maximum", "mean", "models", "nn", "no_grad", "operation", "optim",
    "pad", "plot", "predict", "relu", "reshape", "sigmoid", "softmax", "softmax_cross_entropy", "sqrt",
    "stack", "tanh", "theory", "training", "transpose",
]
