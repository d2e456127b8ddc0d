"""tinyres: the paper "Identity Matters in Deep Learning" (Hardt and Ma, ICLR 2017) from scratch on arrays.

    import tinyres as tr

Read backend, tensor, ops, conv/im2col, gradcheck, nn, models, optim, datasets, distributed, train, in this
order.
"""
from . import backend, datasets, distributed, models, nn, optim, plot, theory, train
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
from .tensor import Tensor, matmul, no_grad

__all__ = [
    "Tensor", "astype", "avg_pool2d", "backend", "conv2d", "datasets", "distributed", "exp",
    "global_avg_pool2d",
    "gradcheck", "log", "matmul", "mean", "models", "nn", "no_grad", "optim", "pad", "plot", "relu",
    "reshape", "softmax_cross_entropy", "sum", "theory", "train", "transpose",
]
