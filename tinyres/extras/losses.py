"""Losses that the paper does without, and the error rate."""
from __future__ import annotations

from ..backend import Array, xp_of
from ..kernel import kernel
from ..ops import mean
from ..support import extra_checks
from ..support.numerics import total
from ..tensor import Formula, Tensor, operation


def mse_loss(prediction: Tensor, target: object) -> Tensor:
    """The mean of (prediction - target) ** 2 over all values, a scalar; target: a tensor or array.

    Raises ValueError unless both have one shape: broadcasting would compare each value with many.
    """
    prediction, target = extra_checks.one_shape("mse_loss", prediction, target)
    difference = prediction - target
    return mean(difference * difference)


@operation
def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0,
                  ignore_index: int = -100) -> Formula:
    """`softmax_cross_entropy` with options, as in PyTorch: the mean over the batch of -sum(target *
    log softmax(logits)), a scalar.

    logits: (N, classes). labels: (N,) integer array. The target is 1 - label_smoothing at the label, plus
    label_smoothing / classes everywhere. Images labeled ignore_index do not count; if no other is left, the
    mean is nan. Raises TypeError and ValueError as `softmax_cross_entropy`, and ValueError for
    label_smoothing outside [0, 1].
    """
    labels, counted = extra_checks.labels_but("cross_entropy", labels, logits, ignore_index)
    smoothing = extra_checks.share("cross_entropy: label_smoothing", label_smoothing)
    xp, (N, classes) = xp_of(logits), logits.shape
    weights = (counted / counted.sum()).astype(logits.dtype)[:, None]  # of each image in the mean
    targets = xp.full(logits.shape, smoothing / classes, logits.dtype)
    targets[xp.arange(N), labels] += 1 - smoothing
    targets *= weights
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_softmax = shifted - xp.log(total(xp.exp(shifted), 1))
    terms = xp.where(targets == 0, targets, targets * -log_softmax)  # no 0 * inf
    return total(terms).reshape(()), lambda g: (xp.exp(log_softmax) * weights - targets) * g


@kernel
def error_rate(logits: Array, labels: Array) -> Array:
    """The fraction of rows (N, classes) whose largest logit is not that of the label."""
    return (logits.argmax(axis=1) != labels).mean()
