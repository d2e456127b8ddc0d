import numpy
import pytest
from support.checking import check, random

import tinyres as tr
from tinyres.nn import (
    BatchNorm2d,
    Conv2d,
    Dropout,
    Linear,
    Module,
    RandomProjection,
    ResidualBlock,
    Sequential,
)


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


class Normalized(ResidualBlock):
    """Batch normalization within the block, and a third convolution."""
    def __init__(self, in_channels, out_channels, stride=1, **options):
        super().__init__(in_channels, out_channels, stride, **options)
        self.norm, self.conv3 = BatchNorm2d(out_channels), Conv2d(out_channels, out_channels, 3, padding=1)

    def h(self, x):
        return self.conv3(tr.relu(self.norm(super().h(x))))


class Pooled(ResidualBlock):
    """A shortcut of another shape, which is broadcast."""
    def shortcut(self, x):
        return tr.mean(super().shortcut(x), (1, 2), keepdims=True)


def with_own_h(block):
    block.h = lambda x: block.shortcut(x) * 3.0
    return block


def with_layer(block, name, layer):
    setattr(block, name, layer)
    return block


OWN_BLOCKS = [
    Normalized(2, 4, 2, rng=numpy.random.default_rng(0)),
    Normalized(3, 3, residual=False, rng=numpy.random.default_rng(0)),
    Pooled(3, 3, rng=numpy.random.default_rng(0)),
    with_own_h(ResidualBlock(2, 4, 2)),
    with_layer(ResidualBlock(3, 3), "conv1", Sequential(Conv2d(3, 3, 3, padding=1), tr.tanh)),
    with_layer(ResidualBlock(3, 3), "conv2", Conv2d(3, 3, 3, padding=1, bias=True)),
    with_layer(ResidualBlock(3, 3), "conv2", Conv2d(3, 3, 5, padding=2)),
    with_layer(ResidualBlock(3, 3), "conv1", Conv2d(3, 3, 1)),
]


@pytest.mark.parametrize("block", OWN_BLOCKS)
def test_a_block_is_its_shortcut_and_its_h_whatever_they_are(monkeypatch, block):
    """Variants of the paper's block, which look at weights only, get nothing else."""
    monkeypatch.setattr(tr.nn.residual_sum, "variants", [(lambda *operands: True, refuse)])
    channels = block.parameters()[0].shape[2]
    x = tr.Tensor(numpy.random.default_rng(0).standard_normal((2, 4, 4, channels), "float32"))
    expected = block.shortcut(x) + block.h(x) if block.residual else tr.relu(block.h(x))
    numpy.testing.assert_allclose(block(x).numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def refuse(*operands):
    raise AssertionError("not the paper's block")


def test_the_papers_block_is_left_to_variants_until_the_class_changes(monkeypatch):
    monkeypatch.setattr(tr.nn.residual_sum, "variants", [(lambda *operands: True, lambda *operands: "fused")])
    x = tr.Tensor(numpy.ones((1, 4, 4, 3), "float32"))
    assert ResidualBlock(3, 3)(x) == ResidualBlock(3, 5, 2)(x) == "fused"
    monkeypatch.setattr(ResidualBlock, "h", lambda self, x: x * 4.0)
    assert (ResidualBlock(3, 3)(x).data == 5).all()


def test_a_block_refuses_images_that_do_not_fit(xp):
    with pytest.raises(TypeError, match="is float64, .* is float32"):
        ResidualBlock(3, 3)(tr.Tensor(xp.ones((1, 4, 4, 3))))
    for block, shape in (ResidualBlock(3, 3, 2), (1, 5, 4, 3)), (ResidualBlock(3, 3), (1, 4, 4, 4)):
        with pytest.raises(ValueError, match="do not (broadcast|fit)"):
            block(tr.Tensor(xp.ones(shape, "float32")))


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


def test_a_convolution_with_bias(xp):
    layer, x = Conv2d(3, 4, 3, padding=1, bias=True), tr.Tensor(xp.ones((2, 5, 5, 3), "float32"))
    without = layer(x).numpy().copy()
    layer.bias.data[...] = xp.arange(4)
    numpy.testing.assert_allclose(layer(x).numpy(), without + numpy.arange(4), rtol=1e-6)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]


def test_layers_one_after_the_other():
    net = Sequential(Linear(3, 4), tr.relu, Linear(4, 2))
    x = tr.Tensor(numpy.ones((5, 3), "float32"))
    assert (net(x).data == net.layers[2](tr.relu(net.layers[0](x))).data).all()
    assert len(net.parameters()) == 4
    for wrong in [Linear(3, 4)], tr.nn.Linear:
        with pytest.raises(TypeError, match="Sequential: expected modules or functions"):
            Sequential(wrong)


def test_dropout_keeps_the_mean_in_training_and_does_nothing_in_evaluation(xp):
    net = Sequential(Dropout(0.25, rng=numpy.random.default_rng(0)))
    x = tr.Tensor(xp.ones((100, 100), "float32"), requires_grad=True)
    out = net(x)
    assert set(out.numpy().ravel().tolist()) == {0.0, numpy.float32(1 / 0.75)}
    assert abs(out.numpy().mean() - 1) < 0.01 and abs((out.numpy() == 0).mean() - 0.25) < 0.01
    out.sum().backward()
    assert (x.grad == out.data).all()
    assert net.eval()(x) is x
    assert (net.train()(x).data != out.data).any(), "each call must draw anew"
    with pytest.raises(ValueError, match="Dropout: p 1"):
        Dropout(1)


def float64(module):
    for _, tensor in module.named_tensors():
        tensor.data = tensor.data.astype("float64")
    return module


def test_batch_normalization_against_its_formula(xp):
    layer, x = float64(BatchNorm2d(3)), random(xp, 4, 5, 2, 3, seed=1)  # not the cotangent
    layer.weight.data[...], layer.bias.data[...] = xp.array([1.0, 2.0, 3.0]), xp.array([0.5, 0.0, -1.0])
    values = x.numpy()
    mean, variance = values.mean((0, 1, 2)), values.var((0, 1, 2))
    scale, shift = layer.weight.numpy(), layer.bias.numpy()
    check(lambda x, *_: layer(x), (values - mean) / numpy.sqrt(variance + 1e-5) * scale + shift,
          x, layer.weight, layer.bias)
    layer = float64(BatchNorm2d(3))
    layer(x)
    numpy.testing.assert_allclose(layer.running_mean.numpy(), 0.1 * mean, rtol=1e-6)
    numpy.testing.assert_allclose(layer.running_variance.numpy(), 0.9 + 0.1 * variance * 40 / 39, rtol=1e-6)
    before = layer.state_dict()
    expected = (values - before["running_mean"]) / numpy.sqrt(before["running_variance"] + 1e-5)
    check(lambda x: layer.eval()(x), expected, x)
    assert list(before) == ["weight", "bias", "running_mean", "running_variance"]
    assert all((layer.state_dict()[name] == value).all() for name, value in before.items())
    with pytest.raises(ValueError, match=r"^BatchNorm2d: expected \(N, H, W, 3\), got \(2, 1, 1, 4\)"):
        layer(random(xp, 2, 1, 1, 4))
    with pytest.raises(ValueError, match="needs two values or more"):
        layer.train()(random(xp, 1, 1, 1, 3))


def test_a_module_shows_itself_as_a_table():
    net = tr.models.cifar_net(blocks=1, widths=(4, 8))
    assert "known after the first call" in repr(net)
    net(tr.Tensor(numpy.zeros((2, 8, 8, 3), "float32")))
    lines = repr(net).splitlines()
    assert lines[0].split() == ["layer", "output", "shape", "parameters"]
    assert lines[1].split() == ["stem", "Conv2d", "(N,", "8,", "8,", "4)", "108"]
    assert lines[3].split() == ["blocks.0.conv2", "Conv2d", "(N,", "8,", "8,", "4)", "144"]
    assert lines[-2].split() == ["projection", "RandomProjection", "(N,", "10)", "0"]
    assert lines[-1] == f"ResidualNetwork: {net.num_parameters():,} parameters"
    counts = [int(line.split()[-1].replace(",", "")) for line in lines[1:-1]]
    assert sum(counts) == net.num_parameters()
    assert repr(Nested()).splitlines()[-1].startswith("Nested: 43 parameters")


def test_an_error_names_the_layer():
    net = tr.models.cifar_net(blocks=1, widths=(4, 8))
    net.blocks[1].conv1.weight.data = numpy.zeros((3, 3, 5, 8), "float32")
    with pytest.raises(ValueError, match=r"^blocks.1.conv1 \(Conv2d\): conv2d: x \(2, 8, 8, 4\)"):
        net(tr.Tensor(numpy.zeros((2, 8, 8, 3), "float32")))
    with pytest.raises(TypeError, match=r"^Linear: matmul: .* float64"):
        Linear(3, 2)(random(numpy, 4, 3))


@pytest.mark.parametrize("name, value", [("weight", numpy.zeros((3, 2))), ("more", numpy.zeros(3)),
                                         ("weight", [[1.0]]), ("bias", None)])
def test_what_would_not_be_trained_is_not_taken(name, value):
    layer = Linear(3, 2)
    with pytest.raises(TypeError, match=rf"Linear.{name} .*\.data\[...\] = "):
        setattr(layer, name, value)
    assert len(layer.parameters()) == 2


def test_a_module_without_call_says_so():
    with pytest.raises(NotImplementedError, match="must define __call__"):
        Nested()(tr.Tensor(1.0))


def test_a_convolution_with_a_kernel_of_two_sides(xp):
    layer = Conv2d(2, 3, (3, 1), (2, 1), (1, 0), rng=numpy.random.default_rng(0))
    x = tr.Tensor(xp.ones((1, 6, 5, 2), "float32"))
    assert layer.weight.shape == (3, 1, 2, 3) and layer(x).shape == (1, 3, 5, 3)
    assert Conv2d(2, 500, (3, 1)).weight.numpy().std() == pytest.approx(1 / (3 * 500) ** 0.5, rel=0.05)
    for wrong in (3, 0), (3, 1, 1), 1.5:
        with pytest.raises(ValueError, match="Conv2d: kernel_size .* must be an integer >= 1, or a pair"):
            Conv2d(2, 3, wrong)


def test_linear_on_one_sample_and_without_bias(xp):
    layer = Linear(3, 2, rng=numpy.random.default_rng(0))
    x = tr.Tensor(xp.asarray([[1.0, 2.0, 3.0]], "float32"), requires_grad=True)
    assert layer(x[0]).shape == (2,)
    numpy.testing.assert_allclose(layer(x[0]).numpy(), layer(x).numpy()[0], rtol=1e-6)
    assert RandomProjection(3, 2)(x[0]).shape == (2,)
    bare = Linear(3, 2, bias=False, rng=numpy.random.default_rng(0))
    assert [name for name, _ in bare.named_tensors()] == ["weight"]
    assert (bare(x).data == (x @ layer.weight).data).all()


@pytest.mark.parametrize("make", [
    lambda: Conv2d(4, 6, 3, 2, 1, bias=True), lambda: Linear(4, 2), lambda: RandomProjection(4, 2),
    lambda: ResidualBlock(4, 6, 2), lambda: ResidualBlock(4, 4, residual=False), lambda: BatchNorm2d(4),
    lambda: BatchNorm2d(4).eval(), lambda: Dropout(0.5),
    lambda: Sequential(tr.global_avg_pool2d, Linear(4, 2), tr.softmax, tr.log_softmax),
    lambda: Sequential(lambda x: tr.max_pool2d(x, 2), lambda x: tr.avg_pool2d(x, 2)),
    lambda: Sequential(lambda x: tr.flatten(x, 1)),
    lambda: lambda x: tr.avg_pool2d(x, 3), lambda: lambda x: tr.max(x, (1, 2)),
    lambda: lambda x: x.var(3),
    lambda: Sequential(lambda x: x[..., :3], tr.models.cifar_net(blocks=1, widths=(4, 8)))])
def test_an_empty_batch_goes_through_every_layer(xp, make):
    layer, x = make(), tr.Tensor(xp.zeros((0, 8, 8, 4), "float32"), requires_grad=True)
    before = layer.state_dict() if isinstance(layer, Module) else {}
    out = layer(x)
    out.backward(xp.zeros(out.shape, "float32"))
    assert len(out) == 0 and x.grad.shape == x.shape
    full = layer(tr.Tensor(xp.ones((3, 8, 8, 4), "float32")))
    assert out.shape[1:] == full.shape[1:]
    if isinstance(layer, BatchNorm2d) and layer.training:
        assert not any(numpy.isnan(value).any() for value in layer.state_dict().values()) and before


def test_batch_normalization_of_many_pixels_keeps_its_accuracy():
    layer, x = BatchNorm2d(2), tr.Tensor(numpy.full((64, 112, 112, 2), 0.1, "float32"))
    assert abs(layer(x).numpy()).max() < 1e-3
    numpy.testing.assert_allclose(layer.running_mean.numpy(), 0.01, rtol=1e-5)
    half = float64(BatchNorm2d(2))
    for _, tensor in half.named_tensors():
        tensor.data = tensor.data.astype("float16")
    assert half(tr.Tensor(numpy.full((8, 32, 32, 2), 10, "float16"))).numpy().tolist()[0][0][0] == [0, 0]
    assert half.running_mean.numpy().tolist() == [1, 1]
