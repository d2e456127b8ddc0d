import numpy
import pytest

import tinyres as tr
from tinyres.optim import SGD, Adam, cosine_decay, exponential_decay, one_cycle, step_decay


def test_sgd_against_its_formula(xp):
    w = tr.Tensor(xp.array([1.0, -2.0]), requires_grad=True)
    optimizer = SGD([w], lr=0.1, momentum=0.9, weight_decay=0.01)
    expected, velocity, data = numpy.array([1.0, -2.0]), numpy.zeros(2), w.data
    for lr in (0.1, 0.1, 0.05):
        optimizer.lr = lr
        tr.sum(w * w * w).backward()
        velocity = 0.9 * velocity + 3 * expected**2 + 0.01 * expected
        expected = expected - lr * velocity
        optimizer.step()
        numpy.testing.assert_allclose(w.numpy(), expected, rtol=1e-14)
    assert w.data is data, "the step must be taken in place"


def test_float32_stays_float32(xp):
    w = tr.Tensor(xp.ones(2, "float32"), requires_grad=True)
    optimizer = SGD([w], lr=numpy.float64(0.1), weight_decay=numpy.float64(0.1))
    tr.sum(w).backward()
    optimizer.step()
    assert w.dtype == optimizer.velocities[0].dtype == "float32"


def test_a_parameter_without_gradient_is_left_alone(xp):
    w, unused = (tr.Tensor(xp.ones(2), requires_grad=True) for _ in range(2))
    optimizer = SGD([w, unused], lr=0.1, weight_decay=0.1)
    tr.sum(w).backward()
    optimizer.step()
    assert unused.numpy().tolist() == [1, 1] and w.numpy()[0] < 1


def test_state_goes_around_and_a_foreign_one_is_refused(xp):
    w = tr.Tensor(xp.ones(2), requires_grad=True)
    first, second = SGD([w], lr=0.1), SGD([w], lr=0.1)
    first.velocities[0] += 3
    second.load_state_dict(first.state_dict())
    assert second.velocities[0].tolist() == [3, 3]
    for state in ({}, {"velocity.0": numpy.zeros(3)}, {"velocity.1": numpy.zeros(2)}):
        with pytest.raises(ValueError, match="does not fit"):
            second.load_state_dict(state)


@pytest.mark.parametrize("options", [dict(lr=0), dict(lr=-1), dict(lr=float("nan")), dict(lr=0.1, momentum=1),
                                     dict(lr=0.1, momentum=-0.1), dict(lr=0.1, weight_decay=-1)])
def test_wrong_settings_are_refused(options):
    name, value = list(options.items())[-1]
    with pytest.raises(ValueError, match=f"SGD: {name} {value}: expected a finite number"):
        SGD([tr.Tensor([1.0], requires_grad=True)], **options)


def test_parameters_must_be_trainable():
    for parameters in ([], [tr.Tensor([1.0])]):
        with pytest.raises(ValueError, match="requires_grad"):
            SGD(parameters, lr=0.1)
    net, w = tr.nn.Linear(2, 2), tr.Tensor([1.0], requires_grad=True)
    for parameters, message in ((net, r"a Linear: write SGD\(net.parameters\(\)"), (w, r"write SGD\(\[w\]"),
                                ([w * 2], "expected leaves")):
        with pytest.raises(ValueError, match=message):
            SGD(parameters, lr=0.1)


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_a_step_before_backward_says_so_and_zero_grad_forgets(optimizer):
    w = tr.Tensor([1.0], requires_grad=True)
    optimizer = optimizer([w], lr=0.1)
    message = r"step\(\): no parameter has a gradient of its present values: call loss.backward"
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    tr.sum(w * w).backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    optimizer.zero_grad()
    assert w.grad is None


@pytest.mark.parametrize("optimizer", [SGD, Adam])
def test_parameters_that_had_no_part_in_the_last_loss_stay(xp, optimizer):
    a, b = tr.Tensor(xp.ones(1), requires_grad=True), tr.Tensor(xp.ones(1), requires_grad=True)
    both = optimizer([a, b], lr=0.1, **({"momentum": 0} if optimizer is SGD else {}))
    tr.sum(a).backward()
    both.step()
    moved = a.item()
    tr.sum(b).backward()
    both.step()
    assert a.item() == moved < 1 and b.item() == moved


def test_a_layer_frozen_in_mid_run_stays(xp):
    a, b = tr.Tensor(xp.ones(1), requires_grad=True), tr.Tensor(xp.ones(1), requires_grad=True)
    optimizer = SGD([a, b], lr=0.1)
    for frozen in False, True:
        a.requires_grad = not frozen
        before = a.item()
        tr.sum(a * b).backward()
        optimizer.step()
        assert (a.item() == before) == frozen


def test_an_optimizer_of_ones_own_skips_spent_gradients_too():
    class Plain(tr.optim.Optimizer):
        def step(self):
            for p in self.parameters:
                if p.grad is not None:
                    p.data -= self.lr * p.grad

    a, b = tr.Tensor([1.0], requires_grad=True), tr.Tensor([1.0], requires_grad=True)
    optimizer = Plain([a, b], lr=0.5)
    for p in a, b:
        tr.sum(p).backward()
        optimizer.step()
    assert a.item() == b.item() == 0.5


def test_a_parameter_given_twice_is_refused():
    a, b = tr.Tensor([1.0], requires_grad=True), tr.Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(ValueError, match=r"SGD: parameter 2, of shape \(2,\), is parameter 1 again"):
        SGD([a, b, b], lr=0.1)


def test_adam_counts_the_steps_of_each_parameter(xp):
    """As in PyTorch, b's first gradient is its first step, whenever it comes."""
    a, b = tr.Tensor(xp.ones(1), requires_grad=True), tr.Tensor(xp.asarray([2.0]), requires_grad=True)
    optimizer = Adam([a, b], lr=0.1)
    for step in range(20):
        loss = a * a if step < 15 else a * a + b * b
        tr.sum(loss).backward()
        optimizer.step()
    alone = tr.Tensor(xp.asarray([2.0]), requires_grad=True)
    expected = Adam([alone], lr=0.1)
    for _ in range(5):
        tr.sum(alone * alone).backward()
        expected.step()
    assert b.item() == alone.item()


def test_adam_against_its_formula(xp):
    values = numpy.array([1.0, -2.0])
    w = tr.Tensor(xp.array(values), requires_grad=True)
    unused = tr.Tensor(xp.ones(1), requires_grad=True)
    optimizer = Adam([w, unused], lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    m, s = numpy.zeros(2), numpy.zeros(2)
    for t in range(1, 6):
        tr.sum(w * w * w).backward()
        optimizer.step()
        gradient = 3 * values**2 + 0.1 * values
        m, s = 0.8 * m + 0.2 * gradient, 0.9 * s + 0.1 * gradient**2
        values = values - 0.1 * (m / (1 - 0.8**t)) / (numpy.sqrt(s / (1 - 0.9**t)) + 1e-3)
        numpy.testing.assert_allclose(w.numpy(), values, rtol=1e-13)
    assert unused.numpy() == 1
    for options in dict(betas=(1, 0.9)), dict(eps=0), dict(weight_decay=-1):
        with pytest.raises(ValueError, match=f"Adam: {list(options)[0]}"):
            Adam([w], **options)


def test_schedules():
    drops = step_decay(0.05, [3, 5])
    rates = [drops(step) for step in (0, 2, 3, 4, 5, 9)]
    numpy.testing.assert_allclose(rates, [0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-4])
    decay = exponential_decay(0.1, 0.94, every=2)
    numpy.testing.assert_allclose([decay(step) for step in (0, 1, 2, 5)], [0.1, 0.1, 0.094, 0.1 * 0.94**2])


def test_adam_learns_and_its_state_goes_around(xp):
    w = tr.Tensor(xp.array([3.0, -2.0]), requires_grad=True)
    optimizer = Adam([w], lr=0.1)

    def steps(count):
        for _ in range(count):
            tr.sum(w * w).backward()
            optimizer.step()

    steps(1)
    numpy.testing.assert_allclose(w.numpy(), [2.9, -1.9], rtol=1e-6)  # the first step has the length of lr
    steps(9)
    saved, values = optimizer.state_dict(), w.numpy().copy()
    steps(5)
    expected = w.numpy().copy()
    w.data[...] = xp.asarray(values)
    optimizer = Adam([w], lr=0.1)
    optimizer.load_state_dict(saved)
    steps(5)
    assert set(saved) == {"mean.0", "square.0", "steps"} and saved["steps"] == 10
    assert w.numpy().tobytes() == expected.tobytes()


def test_an_optimizer_without_step_says_so():
    optimizer = tr.optim.Optimizer([tr.Tensor([1.0], requires_grad=True)], 0.1)
    with pytest.raises(NotImplementedError, match="Optimizer must define step"):
        optimizer.step()


def test_one_cycle_goes_up_a_line_and_down_to_nearly_zero():
    rate = one_cycle(0.5, 10, warmup=0.4)
    expected = [0.125, 0.25, 0.375, 0.5, 0.5, 5 / 12, 4 / 12, 3 / 12, 2 / 12, 1 / 12]
    numpy.testing.assert_allclose([rate(step) for step in range(10)], expected)
    assert one_cycle(0.5, 1)(0) == 0.5


def test_nesterov_against_its_formula(xp):
    w = tr.Tensor(xp.array([1.0, -2.0]), requires_grad=True)
    optimizer = SGD([w], lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    expected, velocity, data = numpy.array([1.0, -2.0]), numpy.zeros(2), w.data
    for _ in range(4):
        tr.sum(w * w * w).backward()
        optimizer.step()
        gradient = 3 * expected**2 + 0.01 * expected
        velocity = 0.9 * velocity + gradient
        expected = expected - 0.1 * (gradient + 0.9 * velocity)
        numpy.testing.assert_allclose(w.numpy(), expected, rtol=1e-14)
    assert w.data is data
    with pytest.raises(ValueError, match="SGD: nesterov=True needs a momentum"):
        SGD([w], lr=0.1, momentum=0, nesterov=True)


def test_clip_grad_norm_(xp):
    a, b, unused, spent = (tr.Tensor(xp.ones(2, "float32"), requires_grad=True) for _ in range(4))
    spent.grad = xp.full(2, 100, "float32")
    spent.data += 1
    tr.sum(a * 3 + b * 4).backward()
    norm = 50 ** 0.5
    assert tr.optim.clip_grad_norm_([a, b, unused, spent], 10) == pytest.approx(norm)
    assert a.grad.tolist() == [3, 3]
    assert tr.optim.clip_grad_norm_(iter([a, b, unused]), 1) == pytest.approx(norm)
    numpy.testing.assert_allclose(tr.backend.to_numpy(a.grad), 3 / norm, rtol=1e-6)
    numpy.testing.assert_allclose(tr.backend.to_numpy(b.grad), 4 / norm, rtol=1e-6)
    assert a.grad.dtype == "float32" and unused.grad is None
    SGD([a, b], lr=1, momentum=0).step()
    numpy.testing.assert_allclose(a.numpy(), 1 - 3 / norm, rtol=1e-6)
    with pytest.raises(ValueError, match="clip_grad_norm_: max_norm 0"):
        tr.optim.clip_grad_norm_([a], 0)


def test_a_cosine_goes_down_to_zero():
    rate = cosine_decay(0.8, 8)
    assert [rate(step) for step in (0, 4, 8, 9)] == pytest.approx([0.8, 0.4, 0, 0])
    assert rate(2) == pytest.approx(0.4 * (1 + 0.5**0.5)) and all(rate(i) > rate(i + 1) for i in range(8))
