"""The float16 network: that it computes what the float32 one does, to float16, and scales gradients back."""
from __future__ import annotations

import numpy
import pytest

import tinyres as tr
from tinyres.fast import precision


def gradients(xp, wrap):
    """Logits and gradients of a small network, computed in float16 if wrapped."""
    network = tr.models.cifar_net(3, blocks=1, widths=(8, 16), seed=1)
    for block in network.blocks:  # larger than the paper's, so that what the blocks add is seen
        for layer in block.conv1, block.conv2:
            layer.weight.data *= 5
    model = precision.Float16(network) if wrap else network
    images = numpy.random.default_rng(0).standard_normal((4, 16, 16, 3), dtype="float32")
    logits = model(tr.Tensor(xp.asarray(images)))
    tr.softmax_cross_entropy(logits, xp.arange(4) % 3).backward()
    assert logits.dtype == "float32" and all(p.dtype == p.grad.dtype == "float32" for p in model.parameters())
    return model, logits.numpy(), [tr.backend.to_numpy(p.grad) for p in model.parameters()]


def test_float16_agrees_with_float32(xp):
    (half, logits, ours), (full, expected_logits, expected) = (gradients(xp, wrap) for wrap in (True, False))
    assert 0 < abs(logits - expected_logits).max() < 5e-3 * abs(expected_logits).max()
    for gradient, other in zip(ours, expected, strict=True):
        assert numpy.linalg.norm(gradient - other) < 2e-2 * numpy.linalg.norm(other)
    assert list(half.state_dict()) == list(full.state_dict()), "checkpoints are the same"


def test_gradients_too_small_for_float16_survive(xp):
    w = tr.Tensor(xp.full(3, 1.0, "float32"), requires_grad=True)
    inside = precision._to_float16(w)
    out = precision._to_float32(inside)
    out.backward(xp.full(3, 2.0**-26, "float32"))  # float16 rounds it to 0
    assert w.grad.tolist() == [2.0**-26] * 3


def test_weights_are_float32_again_after_an_error(xp):
    network = tr.models.cifar_net(3, blocks=1, widths=(8,))
    with pytest.raises(ValueError, match="do not fit"):
        precision.Float16(network)(tr.Tensor(xp.zeros((1, 8, 8, 4), "float32")))
    assert all(p.dtype == "float32" for p in network.parameters())


def test_precision_is_checked():
    with pytest.raises(ValueError, match="'bfloat16' is unknown: expected one of float32, tf32, float16"):
        precision.use("bfloat16")
    with pytest.raises(ValueError, match="'tf32' needs a GPU"):
        precision.use("tf32")
    assert not precision.tf32()
