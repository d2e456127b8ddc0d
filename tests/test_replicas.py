"""What a network holds beside its weights, random numbers and running means: in several processes, in
checkpoints, and where a network is only looked at."""
from __future__ import annotations

import itertools
import os
import sys
import types
from contextlib import contextmanager

import numpy
import pytest

import tinyres as tr
from tinyres.distributed import MPIGroup, replicas
from tinyres.distributed.forked import forked
from tinyres.fast.gpu import capture, precision
from tinyres.module import unchanged
from tinyres.nn import BatchNorm2d, Conv2d, Dropout, Linear, Module, Sequential
from tinyres.training import (
    Run,
    evaluate,
    load_checkpoint,
    loss_and_error,
    save_checkpoint,
    train,
    training_step,
)
from tinyres.training.pictures import draw_path

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork processes")


def network(seed=0, generator=numpy.random.default_rng):
    """Convolution, batch normalization, two dropouts with generators of their own."""
    rng = numpy.random.default_rng(seed)
    return Sequential(Conv2d(3, 4, 3, 2, 1, rng=rng), BatchNorm2d(4), tr.relu, Dropout(0.3, rng=generator(5)),
                      tr.global_avg_pool2d, Linear(4, 10, rng=rng), Dropout(0.2, rng=generator(7)))


def sgd(net):
    return tr.optim.SGD(net.parameters(), 0.1)


def run(folder, steps, group=None, first_step=0, **options):
    """The state of a network that was trained on shapes, from the checkpoint in `folder` if first_step."""
    net = network()
    optimizer = sgd(net)
    if first_step:
        net = network(seed=1, generator=lambda seed: numpy.random.default_rng())
        optimizer = sgd(net)
        checkpoint = load_checkpoint(folder / "checkpoint.npz")
        net.load_state_dict(checkpoint.model)
        optimizer.load_state_dict(checkpoint.optimizer)
    group = {"group": group} if group else {}
    metrics = train(net, optimizer, lambda step: 0.1, tr.datasets.shapes(48, 30),
                    Run(folder, {}, step=first_step, metrics_every=1, **options, **group), steps=steps,
                    batch_size=12)
    return net, metrics


def same(one, other):
    assert one.keys() == other.keys()
    return all(value.tobytes() == other[name].tobytes() for name, value in one.items())


def agree(group, state):
    """Whether all processes hold the same bytes."""
    import zlib
    number = zlib.crc32(b"".join(value.tobytes() for value in state.values())) % 10**6
    return group.all_reduce_sum(number, number**2) == [group.size * number, group.size * number**2]


@forks
@pytest.mark.parametrize("count", [2, 3])
def test_masks_differ_by_process_and_by_step_and_the_generators_stay_equal(count):
    model = Sequential(Linear(3, 2), Dropout(0.5, rng=numpy.random.default_rng(0)))
    masks = []
    with forked(count) as group:
        for _ in range(2):
            with replicas(model, model.parameters(), group):
                mask = model.layers[1](tr.Tensor(numpy.ones((1, 40 + group.rank)))).numpy()[0, :40] > 0
                model.layers[0].weight.grad = numpy.zeros((3, 2), "float32")
            masks += [group.all_reduce_sum(*(mask * float(group.rank == r))) for r in range(count)]
        assert agree(group, model.state_dict()), "though process 1 has drawn more"
    assert len({tuple(mask) for mask in masks}) == 2 * count
    assert 0.3 < numpy.mean(masks) < 0.7


@forks
def test_two_processes_repeat_and_resume_bit_for_bit_and_save_the_mean_of_their_statistics(tmp_path):
    def shared(name, steps, first_step=0):
        with forked(2) as group:
            net, metrics = run(tmp_path / name, steps, group, first_step)
            equal = agree(group, net.state_dict())
        assert equal, "running means differ by process"
        return net.state_dict(), metrics

    straight, metrics = shared("straight", 6)
    again, _ = shared("again", 6)
    assert same(straight, again)
    shared("parts", 3)
    resumed, _ = shared("parts", 6, first_step=3)
    assert same(straight, resumed)
    assert same(straight, load_checkpoint(tmp_path / "parts" / "checkpoint.npz").model)
    saved = network()
    saved.load_state_dict(straight)
    assert evaluate(saved, tr.datasets.shapes(48, 30).test)["loss"] == pytest.approx(metrics[-1]["test_loss"],
                                                                                    abs=1e-6)


@forks
def test_running_statistics_are_the_mean_over_the_processes():
    net = BatchNorm2d(2)
    means = [numpy.array([1.0, 5.0]), numpy.array([3.0, -1.0])]
    with forked(2) as group:
        values = numpy.random.default_rng(group.rank).standard_normal((4, 3, 3, 2))
        values += means[group.rank] - values.mean((0, 1, 2))
        with replicas(net, net.parameters(), group):
            net(tr.Tensor(values.astype("float32"))).sum().backward()
        assert agree(group, net.state_dict())
    numpy.testing.assert_allclose(net.running_mean.numpy(), 0.1 * numpy.mean(means, axis=0), rtol=1e-5)


@pytest.mark.parametrize("bits", ["PCG64", "MT19937", "Philox", "SFC64", "PCG64DXSM"])
def test_a_resumed_run_draws_the_numbers_of_the_undisturbed_one(tmp_path, bits):
    def generator(seed):
        return numpy.random.Generator(getattr(numpy.random, bits)(seed))

    def steps(net, optimizer, first, last):
        for step in range(first, last):
            rng = numpy.random.default_rng(step)
            images, labels = rng.standard_normal((6, 8, 8, 3), "float32"), rng.integers(0, 10, 6)
            training_step(net, optimizer, images, labels)

    net = network(generator=generator)
    optimizer = sgd(net)
    steps(net, optimizer, 0, 3)
    net.layers[3].rng.integers(0, 2, dtype=numpy.int32)  # half of a number remains in the generator
    save_checkpoint(tmp_path / "c.npz", net, optimizer, 3, {})
    steps(net, optimizer, 3, 6)
    other = network(1, lambda seed: generator(99))
    checkpoint = load_checkpoint(tmp_path / "c.npz")
    other.load_state_dict(checkpoint.model)
    optimizer = sgd(other)
    optimizer.load_state_dict(checkpoint.optimizer)
    steps(other, optimizer, 3, 6)
    assert same(net.state_dict(), other.state_dict())


def test_train_resumes_with_dropout_bit_for_bit(tmp_path):
    straight, _ = run(tmp_path / "straight", 6)
    run(tmp_path / "parts", 3)
    resumed, _ = run(tmp_path / "parts", 6, first_step=3)
    assert same(straight.state_dict(), resumed.state_dict())


def test_states_of_generators_fit_or_are_refused_and_are_absent_from_older_checkpoints():
    net = network()
    state = net.state_dict()
    assert list(state)[-2:] == ["layers.3.rng", "layers.6.rng"]
    assert state["layers.3.rng"].dtype == numpy.uint64
    net.load_state_dict({name: value for name, value in state.items() if not name.endswith("rng")})
    assert same(net.state_dict(), state)
    twister = network(generator=lambda seed: numpy.random.Generator(numpy.random.MT19937(seed)))
    beyond = {**twister.state_dict()}
    beyond["layers.3.rng"] = beyond["layers.3.rng"].copy()
    beyond["layers.3.rng"][-1] = 10**6  # the position, from where memory of others would be read
    for module, wrong in ((twister, state), (twister, beyond),
                          (net, {**state, "layers.6.rng": numpy.ones(12)}),
                          (net, {**state, "layers.6.rng": numpy.full(12, 2**64 - 1, numpy.uint64)})):
        before = module.state_dict()
        with pytest.raises(ValueError, match=r"rng' is not the state of a .*: build the same network"):
            module.load_state_dict({name: value + (value.dtype != numpy.uint64)
                                    for name, value in wrong.items()})
        assert same(module.state_dict(), before)
    paper = tr.models.cifar_net(blocks=1, widths=(4, 8))
    assert all(value.dtype == numpy.float32 for value in paper.state_dict().values())


class Normalized(Module):
    """A residual block with batch normalization and dropout."""
    residual = True

    def __init__(self):
        self.conv1, self.conv2 = Conv2d(4, 4, 3, padding=1), Conv2d(4, 4, 3, padding=1)
        self.norm, self.dropout = BatchNorm2d(4), Dropout(0.5)

    def h(self, x):
        return self.dropout(self.norm(self.conv1(x)))

    def shortcut(self, x):
        return x

    def __call__(self, x):
        return x + self.h(x)


def test_nothing_that_only_looks_at_a_network_changes_it(tmp_path):
    net = tr.models.cifar_net(blocks=1, widths=(4,))
    net.blocks[0] = Normalized()
    data = tr.datasets.shapes(12, 12)
    images = tr.Tensor(data.test.evaluation_batch(numpy.arange(5))[0])
    before = net.state_dict()
    assert len({net.residual_ratios(images)[0] for _ in range(2)}) == 1
    draw_path(tmp_path / "path.png", net, data.test.images[0], data.classes)
    with unchanged(net):
        net(images)
        assert not same(net.state_dict(), before)
    assert same(net.state_dict(), before) and net.blocks[0].norm.training
    wrapped = precision.Float16(net)
    before, wrapped.last_images = wrapped.state_dict(), tr.Tensor(numpy.ones((2, 8, 8, 3), "float32"))
    assert wrapped.overflowing_layer() is None and same(wrapped.state_dict(), before)
    assert "blocks.0.dropout.rng" in before


def test_train_keeps_test_images_out_of_running_means(tmp_path):
    """A rate of almost 0, and an evaluation after each step: the same statistics as with training steps."""
    def statistics(evaluate_every, looked_at):
        net = tr.models.cifar_net(blocks=1, widths=(4,), seed=3)
        net.blocks[0] = Normalized()
        for parameter in net.blocks[0].parameters():
            parameter.data[...] = 0.1
        net.blocks[0].dropout = Dropout(0.0)
        if not looked_at:
            net.residual_ratios = lambda images: []
        train(net, sgd(net), lambda step: 1e-9, tr.datasets.shapes(24, 24),
              Run(tmp_path / f"{evaluate_every}{looked_at}", {}, evaluate_every=evaluate_every), steps=3,
              batch_size=8)
        return net.blocks[0].norm.running_mean.numpy()

    assert (statistics(1, True) == statistics(9, False)).all()


def two_losses(group):
    """Gradients of a in both processes, of b in process 0 alone, of c in none; spent ones everywhere."""
    a, b, c = parameters = [tr.Tensor(numpy.full(2, 1.0), requires_grad=True) for _ in range(3)]
    model = Module()
    model.all = parameters
    (a.sum() + b.sum() * 7 + c.sum() * 7).backward()
    for parameter in parameters:
        parameter.version += 1  # as after a step
    with replicas(model, parameters, group):
        (a * (1 + group.rank) + (b * 3 if group.rank == 0 else 0)).sum().backward()
    return a, b, c


@forks
def test_a_gradient_that_some_processes_lack_counts_as_zero_there():
    with forked(2) as group:
        a, b, c = two_losses(group)
        assert agree(group, {"a": a.grad, "b": b.grad})
    assert a.grad.tolist() == [1.5, 1.5] and b.grad.tolist() == [1.5, 1.5] and c.is_spent()


@forks
def test_a_step_of_two_processes_whose_losses_use_different_layers():
    net = Module()
    net.layers = [Linear(2, 2, rng=numpy.random.default_rng(i)) for i in range(3)]
    optimizer = sgd(net)

    def compute(model, images, labels):
        used = model.layers[0](tr.Tensor(images))
        if group.rank == 0 and not images[0, 0]:
            used = model.layers[1](used)
        return loss_and_error(lambda x: used, images, labels)

    unused = net.layers[2].state_dict()
    with forked(2) as group:
        for i in range(2):
            images, labels = numpy.full((4, 2), i, "float32"), numpy.arange(4) % 2
            training_step(net, optimizer, images, labels, group, compute)
        assert agree(group, net.state_dict())
    assert same(net.layers[2].state_dict(), unused)


class Communicator:
    """What mpi4py's would do, in the processes of `forked`."""

    def __init__(self, group):
        self.group = group

    def Get_rank(self):
        return self.group.rank

    def Get_size(self):
        return self.group.size

    def Allreduce(self, in_place, array):
        array[...] = numpy.reshape(self.group.all_reduce_sum(*array.ravel().tolist()), array.shape)


@contextmanager
def mpi(count):
    with forked(count) as group:
        yield MPIGroup(Communicator(group))


@forks
@pytest.mark.parametrize("processes", [forked, mpi])
def test_flat_buffers_of_different_lengths_are_refused(processes, monkeypatch):
    library = types.SimpleNamespace(MPI=types.SimpleNamespace(IN_PLACE=None))
    monkeypatch.setitem(sys.modules, "mpi4py", library)
    with pytest.raises(ValueError, match="averages 4 numbers, all 2 together 6: every process"), \
            processes(2) as group:
        group.all_reduce_mean([numpy.ones(2)] * (2 - group.rank))
    with processes(2) as group:
        assert two_losses(group)[1].grad.tolist() == [1.5, 1.5]
        mixed = [numpy.ones(1, "float32"), numpy.full(1, 1 + 1e-12)]
        group.all_reduce_mean(mixed)
        group.all_reduce_mean([])
    assert mixed[0].dtype == "float32" and mixed[1][0] == 1 + 1e-12


@pytest.mark.skipif(not tr.backend.gpu_available(), reason=f"no GPU here: {tr.backend.why_no_gpu()}")
def test_a_captured_step_repeats_no_random_numbers_and_replaces_running_means(capsys):
    xp = tr.backend.use("cupy")
    try:
        images, labels = xp.ones((4, 8, 8, 3), "float32"), xp.arange(4)
        net = network()
        step, generators = capture.captured(loss_and_error), [g for _, g in net.named_generators()]
        states = []
        for _ in range(capture.WARM_UP_CALLS + 3):
            step(net, images, labels)
            states.append([str(generator.bit_generator.state) for generator in generators])
        assert all(one != other for one, other in itertools.pairwise(states))
        assert capsys.readouterr().err.count("the model draws random numbers") == 1
        net.layers[3].p = net.layers[6].p = 0.0
        step = capture.captured(loss_and_error)
        for _ in range(capture.WARM_UP_CALLS + 3):
            before = net.layers[1].running_mean.version
            step(net, images, labels)
            assert net.layers[1].running_mean.version > before and not net.layers[0].weight.is_spent()
    finally:
        tr.backend.use("numpy")

