"""Predicted classes, and how many of them are correct."""
from __future__ import annotations

from collections.abc import Callable

import numpy

from .. import backend
from ..backend import Array, to_numpy
from ..module import evaluating
from ..tensor import Tensor, no_grad


def predict(model: Callable[[Tensor], Tensor], inputs: Array | Tensor,
            batch_size: int = 250) -> numpy.ndarray:
    """The likeliest class of each input: (N,) integers, a NumPy array.

    inputs: (N, ...) floats as the model takes them, in the library that is in use. batch_size: how many are
    computed at a time, without a graph and with the model in evaluation mode.
    """
    values = inputs.data if isinstance(inputs, Tensor) else inputs
    with no_grad(), evaluating(model):
        logits = [to_numpy(model(Tensor(values[i:i + batch_size])).data)
                  for i in range(0, len(values), batch_size)]
    return numpy.concatenate(logits).argmax(axis=1) if logits else numpy.zeros(0, int)


def accuracy(predicted: Array | Tensor, labels: Array) -> float:
    """The fraction of correct predictions, 0 to 1.

    predicted: classes (N,), or logits (N, classes). labels: (N,).
    Raises ValueError for other shapes or N = 0.
    """
    predicted = predicted.data if isinstance(predicted, Tensor) else predicted
    predicted, labels = (to_numpy(x) if backend.is_array(x) else numpy.asarray(x)
                         for x in (predicted, labels))
    classes = predicted.argmax(axis=1) if predicted.ndim == 2 else predicted
    if classes.shape != labels.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(f"accuracy: expected classes (N,) or logits (N, classes), and labels (N,) with N >= "
                         f"1, got {predicted.shape} and {labels.shape}")
    return float((classes == labels).mean())
