"""The float16 network: that it computes what the float32 one does, to float16, and scales gradients back."""
from __future__ import annotations

import numpy
import pytest

import tinyres as tr
from tinyres.fast.gpu import loss_scale, precision
from tinyres.support.diverged import Diverged
from tinyres.training.progress import Progress


def gradients(xp, name, wrap):
    """Logits and gradients of a small network, computed in float16 if wrapped."""
    network = tr.models.named_net(name, 3, 1, (8, 16), seed=1)
    for block in network.blocks if name == "residual" else ():  # so large that what the blocks add is seen
        for layer in block.conv1, block.conv2:
            layer.weight.data *= 5
    if name == "batch-norm":  # so large that the squares do not fit into float16
        network.stem.layers[0].weight.data *= 1000
    model = precision.Float16(network) if wrap else network
    images = numpy.random.default_rng(0).standard_normal((32, 16, 16, 3), dtype="float32")
    logits = model(tr.Tensor(xp.asarray(images)))
    tr.softmax_cross_entropy(logits, xp.arange(32) % 3).backward()
    assert logits.dtype == "float32" and all(p.dtype == p.grad.dtype == "float32" for p in model.parameters())
    return model, logits.numpy(), [tr.backend.to_numpy(p.grad) for p in model.parameters()]


@pytest.mark.parametrize("name", tr.models.NETWORKS)
def test_float16_agrees_with_float32(xp, name):
    (half, logits, ours), (full, expected_logits, expected) = (gradients(xp, name, wrap)
                                                               for wrap in (True, False))
    assert 0 < abs(logits - expected_logits).max() < 5e-3 * abs(expected_logits).max()
    for gradient, other in zip(ours, expected, strict=True):
        assert numpy.linalg.norm(gradient - other) < 0.1 * numpy.linalg.norm(other), "a few ReLUs may differ"
    assert list(half.state_dict()) == list(full.state_dict()), "checkpoints are the same"


def test_gradients_too_small_for_float16_survive(xp):
    w = tr.Tensor(xp.full(3, 1.0, "float32"), requires_grad=True)
    scale = tr.Tensor(xp.full((), precision.LOSS_SCALE, "float32"))
    out = precision._to_float32(precision._to_float16(w, scale), scale)
    out.backward(xp.full(3, 2.0**-26, "float32"))  # float16 rounds it to 0
    assert w.grad.tolist() == [2.0**-26] * 3


def test_weights_are_float32_again_after_an_error(xp):
    network = tr.models.cifar_net(3, blocks=1, widths=(8,))
    with pytest.raises(ValueError, match="do not fit"):
        precision.Float16(network)(tr.Tensor(xp.zeros((1, 8, 8, 4), "float32")))
    assert all(p.dtype == "float32" for p in network.parameters())


class Third(tr.nn.ResidualBlock):
    """A block of one's own, of three convolutions."""
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.conv3 = tr.nn.Conv2d(8, 8, 3, padding=1)

    def h(self, x):
        return self.conv3(tr.relu(super().h(x)))


def test_a_network_with_other_blocks(xp):
    network = tr.models.cifar_net(3, blocks=2, widths=(8,))
    network.blocks[1] = Third(8, 8)
    model = precision.Float16(network)
    images = tr.Tensor(xp.asarray(numpy.random.default_rng(0).standard_normal((2, 8, 8, 3), "float32")))
    numpy.testing.assert_allclose(model(images).numpy(), network(images).numpy(), atol=5e-3)
    assert model.overflowing_layer() is None
    network.blocks[1].conv3.weight.data[...] = 3e38
    with numpy.errstate(all="ignore"):
        model(images)
        assert model.overflowing_layer() == "blocks.1"


def test_a_block_in_two_places_and_a_layer_that_nobody_calls(xp):
    def gradients_of(wrap):
        network = tr.models.cifar_net(3, blocks=2, widths=(8,), seed=1)
        network.blocks[1] = network.blocks[0]
        network.unused = tr.nn.Conv2d(8, 8, 3)
        images = numpy.random.default_rng(0).standard_normal((8, 8, 8, 3), "float32")
        logits = (precision.Float16(network) if wrap else network)(tr.Tensor(xp.asarray(images)))
        tr.softmax_cross_entropy(logits, xp.arange(8) % 3).backward()
        return {name: p.grad for name, p in network.named_parameters()}

    half, full = gradients_of(True), gradients_of(False)
    assert full.pop("unused.weight") is None and not half.pop("unused.weight").any()
    for name, gradient in full.items():
        assert xp.linalg.norm(half[name] - gradient) < 0.1 * xp.linalg.norm(gradient)


def test_the_images_to_look_at_are_the_last_trained_on(xp, scaled):
    model, _ = scaled
    trained_on = model.last_images
    with tr.no_grad():
        model(tr.Tensor(xp.zeros((1, 8, 8, 3), "float32")))
    assert model.last_images is trained_on


@pytest.fixture
def scaled(xp):
    """A float16 network that has seen a batch, and its optimizer."""
    model = precision.Float16(tr.models.cifar_net(3, blocks=1, widths=(4, 8), seed=1))
    model(tr.Tensor(xp.asarray(numpy.random.default_rng(0).standard_normal((2, 8, 8, 3), dtype="float32"))))
    return model, loss_scale.ScaledOptimizer(tr.optim.SGD(model.parameters(), 0.1, 0.9, 1e-4), model)


def step(model, optimizer, gradient=1.0):
    """A step with all gradients 1, but for one number of one of them. Returns the scale after it."""
    for parameter in model.parameters():
        parameter.grad = tr.backend.xp_of(parameter.data).ones_like(parameter.data)
    model.parameters()[1].grad[0, 0, 0, 0] = gradient
    with numpy.errstate(all="ignore"):
        optimizer.step()
    return float(model.loss_scale)


def bytes_of(model, optimizer):
    return [array.tobytes() for name, array in {**model.state_dict(), **optimizer.state_dict()}.items()
            if name not in loss_scale.SCALE_STATE]


@pytest.mark.parametrize("gradient", [numpy.inf, -numpy.inf, numpy.nan])
def test_an_overflow_halves_the_scale_and_skips_the_step(scaled, gradient):
    step(*scaled)
    before = bytes_of(*scaled)
    assert step(*scaled, gradient) == precision.LOSS_SCALE / 2
    assert bytes_of(*scaled) == before and float(scaled[1].good_steps) == 0
    assert step(*scaled) == precision.LOSS_SCALE / 2
    assert bytes_of(*scaled) != before and float(scaled[1].good_steps) == 1


def test_good_steps_double_the_scale_up_to_a_limit(scaled, monkeypatch):
    assert loss_scale.GROWTH_STEPS == 2000
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", 3)
    monkeypatch.setattr(loss_scale, "MAX_LOSS_SCALE", precision.LOSS_SCALE * 2)
    step(*scaled), step(*scaled, numpy.inf)  # the count begins again
    scales = [step(*scaled) / precision.LOSS_SCALE for _ in range(9)]
    assert scales == [0.5, 0.5, 1, 1, 1, 2, 2, 2, 2]


def test_activations_that_overflow_are_reported_with_the_layers_name(scaled):
    model, optimizer = scaled
    before = bytes_of(model, optimizer)
    model.network.blocks[1].conv1.weight.data[...] = 6e4
    with numpy.errstate(all="ignore"):
        model.network.blocks[0].conv2.weight.data[...] = 0.1
        with pytest.raises(Diverged, match="output of blocks.1.conv1, in float16, is not finite"):
            step(model, optimizer, numpy.nan)
    assert float(model.loss_scale) == precision.LOSS_SCALE and len(before) == len(bytes_of(model, optimizer))


def test_python_looks_at_the_first_step_and_at_every_hundredth(scaled, monkeypatch):
    looks = []
    monkeypatch.setattr(loss_scale, "LOOK_EVERY", 3)
    monkeypatch.setattr(loss_scale.lists, "can_skip", lambda optimizer: True)
    monkeypatch.setattr(scaled[1], "look", lambda overflowed: looks.append(scaled[1].steps))
    for _ in range(7):
        step(*scaled)
    assert looks == [1, 3, 6]


def test_whoever_fetches_losses_learns_what_has_overflowed_since_the_last_look(scaled):
    """Within LOOK_EVERY steps, and at the end of a run: the layer's name, or that no scale helps."""
    model, optimizer = scaled
    progress = Progress(0, 9, 2, optimizer.look)
    progress.add(1, numpy.float32(1), numpy.float32(0))
    progress.fetch()
    model.network.blocks[1].conv1.weight.data[...] = 6e4
    model.network.blocks[0].conv2.weight.data[...] = 0.1
    progress.add(2, numpy.float32(numpy.nan), numpy.float32(0))
    with numpy.errstate(all="ignore"), pytest.raises(Diverged, match="blocks.1.conv1, in float16, .* step 2"):
        progress.fetch()
    model.loss_scale.data.fill(0.5)
    last = Progress(0, 9, 2, optimizer.look)
    last.add(3, numpy.float32(1), numpy.float32(0))
    with pytest.raises(Diverged, match="a gradient, in float16 and unscaled, is not finite at step 3"):
        last.fetch()


def test_a_scale_of_one_is_not_halved(scaled):
    scaled[0].loss_scale.data.fill(1)
    with pytest.raises(Diverged, match="a gradient, in float16 and unscaled, is not finite"):
        step(*scaled, numpy.inf)


def test_the_scale_is_saved_and_other_precisions_have_none(scaled):
    model, optimizer = scaled
    step(model, optimizer, numpy.inf), step(model, optimizer)
    state = optimizer.state_dict()
    step(model, optimizer, numpy.inf)
    optimizer.load_state_dict(state)
    assert float(model.loss_scale) == precision.LOSS_SCALE / 2 and float(optimizer.good_steps) == 1
    optimizer.load_state_dict({name: value for name, value in state.items() if "velocity" in name})
    assert float(model.loss_scale) == precision.LOSS_SCALE / 2
    with pytest.raises(ValueError, match="does not fit"):
        optimizer.load_state_dict({})


def test_precision_is_checked():
    with pytest.raises(ValueError, match="'bfloat16' is unknown: expected one of float32, tf32, float16"):
        precision.use("bfloat16")
    with pytest.raises(ValueError, match="'tf32' needs a GPU"):
        precision.use("tf32")
    assert not precision.tf32()
