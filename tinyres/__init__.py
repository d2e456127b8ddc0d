"""tinyres: the paper "Identity Matters in Deep Learning" (Hardt and Ma, ICLR 2017) from scratch on arrays.

    import tinyres as tr

Read backend, tensor, arithmetic, ops, conv, gradcheck, nn, models, optim, in this order: with what is beside
them (checks, more_ops, methods, layer_checks, module, more_layers) they are the core, and import nothing
else. Then fast, datasets, distributed, training, cli, theory, plot, as you like.
"""
from . import backend, methods, models, nn, optim
from .arithmetic import matmul
from .conv import conv2d
from .gradcheck import gradcheck
from .more_ops import (
    abs,  # noqa: F401
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
from .ops import (
    astype,
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
from .tensor import Tensor, no_grad

# isort: split
from . import datasets, distributed, fast, plot, pretrained, theory, training
from .training import accuracy, predict

models.pretrained = pretrained.pretrained  # beside the networks, though the core reads no files

# `from tinyres import *` leaves Python's own sum, max and abs alone
__all__ = [
    "Tensor", "accuracy", "astype", "avg_pool2d", "backend", "clip", "concatenate", "conv2d", "datasets",
    "distributed", "exp", "fast", "global_avg_pool2d", "gradcheck", "log", "log_softmax", "matmul",
    "max_pool2d", "maximum", "mean", "methods", "models", "nn", "no_grad", "optim", "pad", "plot",
    "predict", "relu", "reshape", "sigmoid", "softmax", "softmax_cross_entropy", "sqrt", "stack", "tanh",
    "theory", "training", "transpose",
]
