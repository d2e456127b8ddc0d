"""What only a GPU can show: that a step agrees with NumPy's, that it is repeatable, what precision costs."""
from __future__ import annotations

import numpy
import pytest
from support.checking import block_of

import tinyres as tr
from tinyres import nn
from tinyres.cli.launch import in_precision
from tinyres.fast.gpu import capture, cublas, loss_scale, precision
from tinyres.training import loss_and_error, training_step

pytestmark = pytest.mark.skipif(not tr.backend.gpu_available(),
                                reason=f"no GPU here: {tr.backend.why_no_gpu()}")


@pytest.fixture(autouse=True)
def numpy_afterwards():
    yield
    tr.backend.use("numpy")
    precision.use("float32")


def weights_after(backend: str, products: str = "float32", steps: int = 3, captured: bool = False):
    """Losses and flat weights of a small network after some steps on noise."""
    xp = tr.backend.use(backend)
    precision.use(products)
    network = in_precision(products, tr.models.cifar_net(blocks=2, widths=(16, 32, 64)))
    optimizer = tr.optim.SGD(network.parameters(), 0.05, 0.9, 1e-4)
    rng = numpy.random.default_rng(0)
    images = xp.asarray(rng.standard_normal((32, 32, 32, 3), dtype="float32"))
    labels = xp.asarray(rng.integers(0, 10, 32))

    compute = capture.captured(loss_and_error) if captured else loss_and_error
    losses = []
    for i in range(steps):
        optimizer.lr = 0.05 / (1 + i)
        loss, _ = training_step(network, optimizer, images + 0.1 * i, (labels + i) % 10, compute=compute)
        losses.append(float(tr.backend.to_numpy(loss)))
    return losses, numpy.concatenate([p.numpy().ravel() for p in network.parameters()])


def difference(a, b):
    return numpy.linalg.norm(a - b) / numpy.linalg.norm(b)


def test_a_training_step_agrees_with_numpy():
    (losses, weights), (expected_losses, expected) = weights_after("cupy"), weights_after("numpy")
    numpy.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert difference(weights, expected) < 1e-5


@pytest.mark.parametrize("products", precision.PRECISIONS)
def test_the_same_seed_gives_the_same_bytes(products):
    assert weights_after("cupy", products)[1].tobytes() == weights_after("cupy", products)[1].tobytes()


@pytest.mark.parametrize("products", precision.PRECISIONS)
def test_a_captured_step_gives_the_bytes_of_the_step(products):
    steps = capture.WARM_UP_CALLS + 4
    losses, weights = weights_after("cupy", products, steps, captured=True)
    expected_losses, expected = weights_after("cupy", products, steps)
    assert losses == expected_losses and weights.tobytes() == expected.tobytes()


def test_a_replay_leaves_the_gradients_of_its_batch_whatever_was_there():
    """They belong to the present values, replace others, and move the weights once."""
    xp = tr.backend.use("cupy")
    network = in_precision("float32", tr.models.cifar_net(blocks=1, widths=(16,)))
    optimizer = tr.optim.SGD(network.parameters(), 0.05)
    images, labels = xp.ones((4, 8, 8, 3), "float32"), xp.zeros(4, int)
    compute = capture.captured(loss_and_error)
    for call in range(capture.WARM_UP_CALLS + 3):
        for _ in range(2):  # the second one adds nothing
            compute(network, images, labels)
        gradients = [p.grad.copy() for p in network.parameters()]
        assert not any(p.is_spent() for p in network.parameters())
        for p in network.parameters():
            p.grad = None
        loss_and_error(network, images, labels)
        assert all((p.grad == gradient).all()
                   for p, gradient in zip(network.parameters(), gradients, strict=True)), f"call {call}"
        optimizer.step()
        assert all(p.is_spent() for p in network.parameters())


def test_a_step_that_no_graph_holds_is_computed_as_usual(capsys):
    xp = tr.backend.use("cupy")
    network, other = (in_precision("float32", tr.models.cifar_net(blocks=1, widths=(8,), seed=seed))
                      for seed in (0, 1))
    rng = numpy.random.default_rng(0)
    images, labels = xp.asarray(rng.standard_normal((4, 8, 8, 3), dtype="float32")), xp.arange(4)
    compute = capture.captured(loss_and_error)

    def agrees(model, images, labels):
        found = [float(value) for value in compute(model, images, labels)]
        gradients = [p.grad.copy() for p in model.parameters()]
        for p in model.parameters():
            p.grad = None
        assert found == [float(value) for value in loss_and_error(model, images, labels)]
        assert all((p.grad == g).all() for p, g in zip(model.parameters(), gradients, strict=True))
        for p in model.parameters():
            p.grad = None

    for _ in range(capture.WARM_UP_CALLS + 2):
        agrees(network, images, labels)
    assert not capsys.readouterr().err
    for _ in range(2):
        agrees(network, images[:3], labels[:3])
    assert capsys.readouterr().err.count("(3, 8, 8, 3)") == 1
    agrees(other, images, labels)
    assert "another model was recorded" in capsys.readouterr().err
    for parameter in network.parameters():  # replaced, not changed in place: the graph has to follow
        parameter.data = parameter.data * 2
    for _ in range(capture.WARM_UP_CALLS + 2):
        agrees(network, images, labels)
    network.stem.weight.requires_grad = False
    agrees(network, images, labels)
    assert network.stem.weight.grad is None


def test_a_step_that_fetches_numbers_is_computed_as_usual(capsys):
    xp = tr.backend.use("cupy")
    network = in_precision("float32", tr.models.cifar_net(blocks=1, widths=(8,)))
    images, labels, fetched = xp.ones((4, 8, 8, 3), "float32"), xp.arange(4), []

    def fetching(model, images, labels):
        loss = tr.softmax_cross_entropy(model(tr.Tensor(images)), labels)
        loss.backward()
        fetched.append(float(loss))
        return (loss.data,)

    compute = capture.captured(fetching)
    optimizer, expected = tr.optim.SGD(network.parameters(), 0.05), []
    for _ in range(capture.WARM_UP_CALLS + 3):
        fetching(network, images, labels)
        expected.append((fetched.pop(), [p.grad.tobytes() for p in network.parameters()]))
        for p in network.parameters():
            p.grad = None
        loss, = compute(network, images, labels)
        assert expected[-1] == (float(loss), [p.grad.tobytes() for p in network.parameters()])
        optimizer.step()
    assert len(set(fetched)) == len(fetched) == capture.WARM_UP_CALLS + 3
    assert capsys.readouterr().err.count("could not be recorded") == 1


def test_numpy_arrays_are_computed_as_usual_while_cupy_is_current(capsys):
    network, images = tr.models.cifar_net(blocks=1, widths=(8,)), numpy.ones((4, 8, 8, 3), "float32")
    tr.backend.use("cupy")
    loss, _ = capture.captured(loss_and_error)(network, images, numpy.arange(4))
    assert isinstance(loss, (numpy.ndarray, numpy.generic)) and not capsys.readouterr().err


def test_a_graph_takes_its_workspace_along():
    cupy = tr.backend.use("cupy")
    a, before = cupy.ones((16, 16), "float32"), set(cublas._workspaces)
    graph = capture.CUDAGraph(lambda: cublas.matmul(a, a, cupy.empty_like(a)))
    for _ in range(capture.WARM_UP_CALLS + 2):
        assert float(graph()[0, 0]) == 16
    assert len(cublas._workspaces) == len(before) + 1
    del graph
    assert set(cublas._workspaces) == before
    assert float(cublas.matmul(a, a, cupy.empty_like(a))[0, 0]) == 16


def test_a_step_that_needs_too_much_memory_gives_it_back():
    cupy = tr.backend.use("cupy")
    network = in_precision("float32", tr.models.cifar_net(blocks=1, widths=(8,)))
    compute, images = capture.captured(loss_and_error), cupy.ones((4, 8, 8, 3), "float32")
    calls = []

    def greedy(network, images, labels):
        calls.append(cupy.ones(2**20, "float32"))
        if len(calls) == 2:
            raise MemoryError("too much")
        return loss_and_error(network, images, labels)

    compute = capture.captured(greedy)
    compute(network, images, cupy.arange(4))
    with pytest.raises(MemoryError):
        compute(network, images, cupy.arange(4))
    calls.append(None)
    expected, _ = loss_and_error(network, images, cupy.arange(4))
    for _ in range(capture.WARM_UP_CALLS + 2):  # recorded anew
        loss, _ = compute(network, images, cupy.arange(4))
        assert float(loss) == float(expected)


@pytest.mark.parametrize("products", precision.PRECISIONS)
def test_a_step_waits_for_nothing(products):
    """Whoever waits cannot be captured, so all of a step is, the optimizer's part too."""
    xp = tr.backend.use("cupy")
    precision.use(products)
    network = in_precision(products, tr.models.cifar_net(blocks=2, widths=(16, 32)))
    optimizer = tr.optim.SGD(network.parameters(), 0.05, 0.9, 1e-4)
    if products == "float16":
        optimizer = loss_scale.ScaledOptimizer(optimizer, network)
    images, labels = xp.ones((4, 16, 16, 3), "float32"), xp.arange(4)
    graph = capture.CUDAGraph(lambda: training_step(network, optimizer, images, labels))
    moved = []
    for _ in range(capture.WARM_UP_CALLS + 3):
        before = network.parameters()[1].data.copy()
        loss, _ = graph()
        moved.append(bool((network.parameters()[1].data != before).any()))
    assert all(moved) and numpy.isfinite(float(loss))


@pytest.mark.parametrize("products, tolerance", [("tf32", 2e-3), ("float16", 2e-2)])
def test_what_less_precision_costs(products, tolerance):
    losses, weights = weights_after("cupy", products)
    expected_losses, expected = weights_after("cupy")
    numpy.testing.assert_allclose(losses, expected_losses, rtol=tolerance)
    assert difference(weights, expected) < tolerance


@pytest.mark.parametrize("dtype, tolerance", [("float16", 2e-3), ("float32", 1e-5), ("float64", 1e-12)])
@pytest.mark.parametrize("transposed", [False, True])
def test_matmul(dtype, tolerance, transposed):
    cupy, rng = tr.backend.use("cupy"), numpy.random.default_rng(0)
    a, b = rng.standard_normal((3, 70, 40)).astype(dtype), rng.standard_normal((40, 50)).astype(dtype)
    b_on_gpu = cupy.asarray(b.T.copy()).T if transposed else cupy.asarray(b)
    out = cublas.matmul(cupy.asarray(a), b_on_gpu[None], cupy.empty((3, 70, 50), dtype))
    expected = a.astype("float64") @ b.astype("float64")
    assert abs(out.get() - expected).max() < tolerance * abs(expected).max()
    with pytest.raises(ValueError, match="do not fit"):
        cublas.matmul(out, out, out)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("C", [2, 4, 8])
@pytest.mark.parametrize("offset", [1, 2, 3, 4, 6])
def test_views_that_start_anywhere(dtype, C, offset):
    """The CUDA kernels copy pixels in words of 2 to 16 bytes, whose addresses must be multiples of that."""
    import cupy
    rng = numpy.random.default_rng(0)
    x, w = rng.standard_normal((2, 6, 4, C)).astype(dtype), rng.standard_normal((3, 3, C, 4)).astype(dtype)
    memory = cupy.empty(x.size + offset, dtype)
    view = memory[offset:].reshape(x.shape)
    view[...] = cupy.asarray(x)
    leaves = [tr.Tensor(array, requires_grad=True) for array in (view, cupy.asarray(w))]
    expected = [tr.Tensor(array.astype("float64"), requires_grad=True) for array in (x, w)]
    for operands in (leaves, expected):
        out = tr.conv2d(*operands, padding=1)
        tr.sum(out * out).backward()
    w1, w2 = (rng.standard_normal((3, 3, channels, 12)).astype(dtype) for channels in (4, 12))
    on_gpu = leaves, view, cupy.asarray(w1), cupy.asarray(w2)
    for operands, *arrays in on_gpu, (expected, *(array.astype("float64") for array in (x, w1, w2))):
        if C == 4:  # a block whose image and gradient start there too
            operands += [tr.Tensor(array, requires_grad=True) for array in arrays]
            out = nn.residual_sum(operands[2], block_of(*operands[3:], stride=1 + offset % 2))
            memory = tr.backend.xp_of(out.data).empty(out.data.size + offset, out.dtype)
            memory[offset:] = out.data.reshape(-1) / 100
            out.backward(memory[offset:].reshape(out.shape))
    tolerance = {"float16": 2e-2, "float32": 1e-5, "float64": 1e-12}[dtype]
    for got, want in zip(leaves, expected, strict=True):
        assert difference(tr.backend.to_numpy(got.grad).astype("float64"), want.grad) < tolerance
