import numpy
import pytest

import tinyres as tr
from tinyres.nn import Conv2d, Linear, Module, RandomProjection, ResidualBlock


class Nested(Module):
    def __init__(self):
        self.layers = [Linear(2, 3), {"inner": Linear(3, 4)}]
        self.pair = (Conv2d(1, 2, 3), tr.Tensor([1.0]))
        self.shared = self.layers[0]
        self.number = 5


def test_parameters_are_found_once_in_order_in_lists_dicts_and_tuples():
    names = [name for name, _ in Nested().named_parameters()]
    assert names == ["layers.0.weight", "layers.0.bias", "layers.1.inner.weight", "layers.1.inner.bias",
                     "pair.0.weight"]
    assert list(Nested().state_dict()) == [*names, "pair.1"]
    assert Nested().num_parameters() == 6 + 3 + 12 + 4 + 18


def test_linear_against_its_formula(xp):
    layer = Linear(3, 2, rng=numpy.random.default_rng(0))
    layer.bias.data[...] = 1
    x = tr.Tensor(xp.ones((4, 3), "float32"))
    numpy.testing.assert_allclose(layer(x).numpy(), x.numpy() @ layer.weight.numpy() + 1, rtol=1e-6)


def test_the_random_projection_is_saved_but_not_trained(xp):
    layer = RandomProjection(4, 3)
    assert layer.parameters() == [] and list(layer.state_dict()) == ["matrix"]
    x = tr.Tensor(xp.ones((2, 4), "float32"))
    numpy.testing.assert_allclose(layer(x).numpy(), x.numpy() @ layer.matrix.numpy(), rtol=1e-6)


def test_a_residual_block_of_zero_weights_is_the_identity(xp):
    block = ResidualBlock(4, 4)
    for parameter in block.parameters():
        parameter.data[...] = 0
    x = xp.asarray(numpy.random.default_rng(0).standard_normal((2, 6, 6, 4), "float32"))
    assert (block(tr.Tensor(x)).data == x).all()


def test_the_shortcut_pools_pixels_and_pads_channels_evenly(xp):
    x = xp.asarray(numpy.random.default_rng(0).standard_normal((1, 4, 4, 2), "float32"))
    out = ResidualBlock(2, 5, stride=2).shortcut(tr.Tensor(x)).numpy()
    assert out.shape == (1, 2, 2, 5) and not out[..., :1].any() and not out[..., 3:].any()
    pooled = tr.backend.to_numpy(x).reshape(1, 2, 2, 2, 2, 2).mean(axis=(2, 4))
    numpy.testing.assert_allclose(out[..., 1:3], pooled, rtol=1e-6)


@pytest.mark.parametrize("options, std1, std2", [
    ({}, 1 / (9 * 64), 1 / (9 * 64)),
    ({"initial_scale": 0.3}, (2 / (9 * 32)) ** 0.5, 0.3 * (2 / (9 * 64)) ** 0.5),
    ({"residual": False}, (2 / (9 * 32)) ** 0.5, (2 / (9 * 64)) ** 0.5),
    ({"residual": False, "initial_scale": 0.3}, (2 / (9 * 32)) ** 0.5, (2 / (9 * 64)) ** 0.5)])
def test_the_size_of_a_blocks_initial_weights(options, std1, std2):
    block = ResidualBlock(32, 64, rng=numpy.random.default_rng(0), **options)
    assert block.conv1.weight.numpy().std() == pytest.approx(std1, rel=0.02)
    assert block.conv2.weight.numpy().std() == pytest.approx(std2, rel=0.02)


def test_the_plain_twin_has_no_shortcut(xp):
    block = ResidualBlock(3, 3, residual=False)
    for parameter in block.parameters():
        parameter.data[...] = 0
    assert not block(tr.Tensor(xp.ones((1, 4, 4, 3), "float32"))).numpy().any()


@pytest.mark.parametrize("stride, widths", [(1, (3, 3)), (2, (2, 5))])
@pytest.mark.parametrize("residual", [True, False])
def test_gradients_of_a_block(xp, stride, widths, residual):
    block = ResidualBlock(*widths, stride, residual=residual, rng=numpy.random.default_rng(1))
    for parameter in block.parameters():
        parameter.data = parameter.data.astype("float64")
    values = numpy.random.default_rng(0).standard_normal((2, 4, 4, widths[0]))
    x = tr.Tensor(xp.asarray(values), requires_grad=True)
    assert tr.gradcheck(lambda x, *_: block(x), x, *block.parameters()) < 1e-6


def test_initial_weights_as_in_the_paper():
    block = ResidualBlock(64, 128, rng=numpy.random.default_rng(0))
    stem = Conv2d(3, 64, 3, rng=numpy.random.default_rng(0))
    for weight, sigma in ((block.conv1.weight, 1 / (9 * 128)), (block.conv2.weight, 1 / (9 * 128)),
                          (stem.weight, 1 / (3 * 8))):
        assert abs(weight.numpy().std() / sigma - 1) < 0.05 and abs(weight.numpy().mean()) < sigma / 10


def test_a_block_cannot_narrow():
    with pytest.raises(ValueError, match="out_channels 2 must be >= in_channels 4"):
        ResidualBlock(4, 2)


def test_state_goes_around(xp):
    first, second = (tr.models.cifar_net(blocks=1, widths=(4, 8), seed=seed) for seed in (0, 1))
    second.load_state_dict(first.state_dict())
    x = tr.Tensor(xp.ones((1, 8, 8, 3), "float32"))
    assert (first(x).data == second(x).data).all()
    first.stem.weight.data[...] = 0
    assert second.stem.weight.data.any(), "a state must not share memory with the network"


def test_loading_is_strict_and_changes_nothing_when_it_fails():
    net = tr.models.cifar_net(blocks=1, widths=(4, 8))
    before = net.state_dict()
    good = {name: value + 1 for name, value in before.items()}
    last = list(good)[-1]
    wrong = [{name: good[name] for name in list(good)[:-1]}, {**good, "more": good[last]},
             {**good, last: good[last][:1]}, {**good, last: good[last].astype(object)}]
    for state in wrong:
        with pytest.raises(ValueError, match="build the same network"):
            net.load_state_dict(state)
        assert all((value == before[name]).all() for name, value in net.state_dict().items())
