import numpy
import pytest

import tinyres as tr


def test_the_papers_network_has_13538736_trainable_weights():
    net = tr.models.cifar_net()
    assert net.num_parameters() == 13_538_736
    assert len(net.parameters()) == 55 and net.projection.matrix.shape == (256, 10)
    shapes = [parameter.shape for parameter in net.parameters()]
    assert shapes[0] == (3, 3, 3, 16) and shapes[1] == (3, 3, 16, 64) and shapes[-1] == (3, 3, 256, 256)


def test_resolutions_as_in_table_1(xp):
    net = tr.models.cifar_net(blocks=2, widths=(4, 6, 8))
    sizes = [out.shape[1:] for *_, out in net.steps(tr.Tensor(xp.zeros((1, 32, 32, 3), "float32")))]
    assert sizes == [(32, 32, 4)] * 3 + [(16, 16, 6)] * 2 + [(8, 8, 8)] * 2
    assert net(tr.Tensor(xp.zeros((3, 32, 32, 3), "float32"))).shape == (3, 10)


def test_the_same_seed_gives_the_same_network():
    first, same, other = (tr.models.cifar_net(blocks=1, widths=(4,), seed=s).state_dict() for s in (5, 5, 6))
    assert all((first[name] == same[name]).all() for name in first)
    assert not any((first[name] == other[name]).all() for name in first)


def test_the_plain_twin_has_the_same_weights_in_number():
    plain, residual = (tr.models.cifar_net(blocks=1, residual=residual) for residual in (False, True))
    assert plain.num_parameters() == residual.num_parameters()


def test_gradients_of_a_whole_network(xp):
    net = tr.models.cifar_net(num_classes=3, blocks=1, widths=(2, 4))
    rng = numpy.random.default_rng(0)
    for parameter in net.parameters():
        parameter.data = parameter.data.astype("float64")
    net.projection.matrix.data = net.projection.matrix.data.astype("float64")
    x, labels = tr.Tensor(xp.asarray(rng.standard_normal((2, 4, 4, 3)))), xp.array([0, 2])
    error = tr.gradcheck(lambda *_: tr.softmax_cross_entropy(net(x), labels), *net.parameters())
    assert error < 1e-6


@pytest.mark.parametrize("options", [dict(blocks=0), dict(widths=()), dict(widths=(8, 4)), dict(widths=(0,)),
                                     dict(num_classes=1)])
def test_impossible_networks_are_refused(options):
    with pytest.raises(ValueError, match="cifar_net: expected"):
        tr.models.cifar_net(**options)


def test_the_papers_imagenet_network_has_34_layers_and_35708208_trainable_weights():
    net = tr.models.imagenet_net()
    assert net.num_parameters() == 35_708_208
    assert len(net.parameters()) + 1 == 34 and net.projection.matrix.shape == (672, 1000)
    assert [net.parameters()[i].shape for i in (0, 1, -1)] == [(7, 7, 3, 80), (3, 3, 80, 80),
                                                               (3, 3, 672, 672)]


def test_imagenet_stages_run_at_56_28_14_and_7_pixels(xp):
    net = tr.models.imagenet_net(7, blocks=(2, 1, 1, 1), widths=(2, 3, 4, 6))
    sizes = [out.shape[1:] for *_, out in net.steps(tr.Tensor(xp.zeros((1, 224, 224, 3), "float32")))]
    assert sizes == [(112, 112, 2)] + [(56, 56, 2)] * 2 + [(28, 28, 3), (14, 14, 4), (7, 7, 6)]
    assert net(tr.Tensor(xp.zeros((2, 224, 224, 3), "float32"))).shape == (2, 7)


@pytest.mark.parametrize("options", [dict(blocks=(1, 1, 1)), dict(blocks=(1, 1, 1, 0)), dict(num_classes=1),
                                     dict(widths=(8, 8, 8, 4)), dict(blocks=(), widths=())])
def test_impossible_imagenet_networks_are_refused(options):
    with pytest.raises(ValueError, match="imagenet_net: expected"):
        tr.models.imagenet_net(**options)


@pytest.mark.parametrize("residual", [True, False])
def test_a_walk_through_the_network_is_its_forward_pass_block_by_block(xp, residual):
    network = tr.models.cifar_net(blocks=2, widths=(4, 6), residual=residual, initial_scale=1.0)
    images = tr.Tensor(xp.asarray(numpy.random.default_rng(0).standard_normal((3, 8, 8, 3)), "float32"))
    names, blocks, inputs, outputs = zip(*network.steps(images), strict=True)
    assert list(names) == ["stem", *(f"blocks.{i}" for i in range(4))]
    assert list(blocks) == [None, *network.blocks] and list(inputs) == [images, *outputs[:-1]]
    assert (outputs[-1].data == network.features(images).data).all()
    for block, x, out in zip(blocks[1:], inputs[1:], outputs[1:], strict=True):
        expected = block.shortcut(x) + block.h(x) if residual else tr.relu(block.h(x))
        numpy.testing.assert_allclose(out.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)
    network.blocks[0] = None  # a block that is not asked for is not computed
    assert next(network.steps(images))[0] == "stem"


def test_the_residual_ratio_is_zero_for_an_identity_and_one_where_h_copies_x(xp):
    network = tr.models.cifar_net(blocks=2, widths=(4,))
    images = tr.Tensor(abs(xp.asarray(numpy.random.default_rng(0).standard_normal((3, 8, 8, 3)), "float32")))
    network.stem.weight.data[...] = abs(network.stem.weight.data)  # so that relu changes nothing
    first, second = network.blocks
    for conv in first.conv1, first.conv2, second.conv1, second.conv2:
        conv.weight.data[...] = 0
    for conv in second.conv1, second.conv2:
        conv.weight.data[1, 1] = xp.eye(4)
    assert network.residual_ratios(images) == [0, pytest.approx(1)]


class Doubled(tr.nn.ResidualBlock):
    """A block of one's own: h(x) = x where the paper's block starts near 0."""
    def h(self, x):
        return self.shortcut(x) * 2.0


class Twice(tr.nn.ResidualBlock):
    """A block that is not x + h(x)."""
    def __call__(self, x):
        return self.shortcut(x) + self.h(x) + self.h(x)


class Half(tr.nn.Module):
    """A block that derives from no other."""
    def h(self, x):
        return x * 0.5

    def shortcut(self, x):
        return x

    def __call__(self, x):
        return self.shortcut(x) + self.h(x)


class Scaled(tr.nn.Module):
    def __call__(self, x):
        return x * 3.0


def test_residual_ratios_are_those_of_the_network_that_computes(xp):
    """Each block, of whatever class, gets what the one before it really gives."""
    images = tr.Tensor(abs(xp.asarray(numpy.random.default_rng(0).standard_normal((3, 8, 8, 3)), "float32")))
    network = tr.models.cifar_net(blocks=4, widths=(4,), initial_scale=1.0)
    first, last = network.blocks[0], network.blocks[3]
    network.blocks = [Twice(4, 4), Doubled(4, 4), Half(), Scaled(), last]
    for conv in "conv1", "conv2":
        setattr(network.blocks[0], conv, getattr(first, conv))
    x = network.stem(images)
    expected = [norm(first.h(x)) / norm(x), 2, 0.5]
    y = (x + first.h(x) * 2.0) * 13.5
    expected.append(norm(last.h(y)) / norm(y))
    assert network.residual_ratios(images) == pytest.approx(expected, rel=1e-4)
    numpy.testing.assert_allclose(network.features(images).numpy(), (y + last.h(y)).numpy(), rtol=1e-4,
                                  atol=1e-4)


def norm(x):
    return numpy.linalg.norm(x.numpy().ravel())


def test_all_cnn_c_has_1369738_weights_and_the_resolutions_of_its_table(xp):
    net = tr.models.all_convolutional_net()
    assert net.num_parameters() == 1_369_738 and len(net.parameters()) == 2 * 9
    net = tr.models.all_convolutional_net(7, widths=(4, 6))
    images = tr.Tensor(xp.asarray(numpy.random.default_rng(0).standard_normal((2, 32, 32, 3)), "float32"))
    outputs = [out for *_, out in net.steps(images)]
    assert [out.shape[1:] for out in outputs] == [(32, 32, 4)] * 2 + [(16, 16, 4)] + [(16, 16, 6)] * 2 + [
        (8, 8, 6)] + [(6, 6, 6)] * 2 + [(6, 6, 7)]
    assert all(float(out.data.min()) == 0 for out in outputs), "ReLU after each, the last one too"
    zeros = [float((out.data == 0).mean()) for out in outputs]
    assert min(zeros[2], zeros[5]) > 0.6, "half by dropout, and those of ReLU"
    assert net(images).shape == (2, 7) and net.residual_ratios(images) == []
    logits = [net.eval()(images).numpy() for _ in range(2)]
    assert (logits[0] == logits[1]).all() and (net.train()(images).numpy() != logits[0]).any()
    for wrong in dict(widths=(4,)), dict(widths=(0, 4)), dict(num_classes=1):
        with pytest.raises(ValueError, match="all_convolutional_net: expected two widths"):
            tr.models.all_convolutional_net(**wrong)


def test_all_cnn_c_takes_pytorchs_steps(xp):
    """The losses that tests/benchmarks/parity.py prints of the same network and batches in PyTorch 2.13."""
    net = tr.models.all_convolutional_net(widths=(4, 8), seed=3)
    for _, module in net.named_modules():
        if isinstance(module, tr.nn.Dropout):
            module.p = 0.0
    for _, tensor in net.named_tensors():
        tensor.data = tensor.data.astype("float64")
    optimizer, rng, losses = tr.optim.SGD(net.parameters(), 0.05, 0.9, 1e-4), numpy.random.default_rng(0), []
    tints = rng.standard_normal((10, 1, 1, 3))
    for _ in range(8):
        labels = rng.integers(0, 10, 4)
        images = tints[labels] + rng.standard_normal((4, 32, 32, 3))
        loss = tr.softmax_cross_entropy(net(tr.Tensor(xp.asarray(images))), xp.asarray(labels))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    expected = [2.586619524554, 2.395580386433, 2.32413983447, 2.310800228148, 2.304544990596, 2.311209923478,
                2.307724736165, 2.299828146667]
    assert losses == pytest.approx(expected, rel=1e-9)


def test_the_normalized_network_is_normalized_after_each_convolution(xp):
    net = tr.models.named_net("batch-norm", 10, 2, (4, 8))
    convolutions, norms = ([module for _, module in net.named_modules() if isinstance(module, kind)]
                           for kind in (tr.nn.Conv2d, tr.nn.BatchNorm2d))
    assert len(convolutions) == len(norms) == 9
    assert [len(norm.weight) for norm in norms] == [4] + [4] * 4 + [8] * 4
    images = tr.Tensor(xp.asarray(numpy.random.default_rng(0).standard_normal((4, 8, 8, 3)), "float32"))
    _, block, x, out = list(net.steps(images))[3]
    numpy.testing.assert_allclose(out.numpy(), (block.shortcut(x) + block.h(x)).numpy(), rtol=1e-5)
    numpy.testing.assert_allclose(block.h(x).numpy().std((0, 1, 2)), 1, rtol=1e-3)
    plain = tr.models.NormalizedBlock(4, 4, residual=False)
    assert float(plain(x[..., :4]).data.min()) == 0 and tr.models.is_residual(block)
    assert not tr.models.is_residual(plain)
