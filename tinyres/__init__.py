"""tinyres: the paper "Identity Matters in Deep Learning" (Hardt and Ma, ICLR 2017) from scratch on arrays.

    import tinyres as tr

Read backend, tensor, arithmetic, ops, conv, gradcheck, nn, models, optim, in this order: they are the core,
and import nothing else. Then fast, datasets, distributed, training, cli, theory, plot, as you like.
"""
from . import backend, models, nn, optim
from .arithmetic import matmul
from .conv import conv2d
from .gradcheck import gradcheck
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
    sum,
    transpose,
)
from .tensor import Tensor, no_grad

# isort: split
from . import datasets, distributed, fast, plot, pretrained, theory, training

models.pretrained = pretrained.pretrained  # beside the networks, though the core reads no files

__all__ = [
    "Tensor", "astype", "avg_pool2d", "backend", "conv2d", "datasets", "distributed", "exp", "fast",
    "global_avg_pool2d", "gradcheck", "log", "matmul", "mean", "models", "nn", "no_grad", "optim", "pad",
    "plot", "relu", "reshape", "softmax_cross_entropy", "sum", "theory", "training", "transpose",
]
