import functools
import gc
import operator
import weakref

import numpy
import pytest
from support.checking import random

import tinyres as tr

BINARY = [operator.add, operator.sub, operator.mul, operator.truediv]
SHAPES = [((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((), (2, 3)), ((2, 1, 3), (4, 1)),
          ((1,), (1, 1))]


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("shapes", SHAPES)
def test_arithmetic_broadcasts_like_numpy(xp, op, shapes):
    a, b = random(xp, *shapes[0]), random(xp, *shapes[1], seed=1)
    numpy.testing.assert_allclose(op(a, b).numpy(), op(a.numpy(), b.numpy()), rtol=1e-15)
    assert tr.gradcheck(op, a, b) < 1e-6
    assert tr.gradcheck(op, b, a) < 1e-6


@pytest.mark.parametrize("op", BINARY)
def test_numbers_on_either_side(xp, op):
    a = random(xp, 2, 3)
    numpy.testing.assert_allclose(op(a, 2.5).numpy(), op(a.numpy(), 2.5), rtol=1e-15)
    numpy.testing.assert_allclose(op(2.5, a).numpy(), op(2.5, a.numpy()), rtol=1e-15)
    assert tr.gradcheck(lambda a: op(2.5, a), a) < 1e-6


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, -1, 0.5, -1.5])
def test_power(xp, exponent):
    a = tr.Tensor(xp.abs(random(xp, 3, 2).data) + 0.1, requires_grad=True)
    numpy.testing.assert_allclose((a ** exponent).numpy(), a.numpy() ** exponent, rtol=1e-14)
    assert tr.gradcheck(lambda a: a ** exponent, a) < 1e-6


def test_power_of_zero_has_finite_gradients(xp):
    a = tr.Tensor(xp.zeros(2), requires_grad=True)
    tr.sum(a ** 0 + a ** 2).backward()
    assert a.grad.tolist() == [0, 0]


def test_negation(xp):
    a = random(xp, 3)
    numpy.testing.assert_array_equal((-a).numpy(), -a.numpy())
    assert tr.gradcheck(operator.neg, a) < 1e-6


@pytest.mark.parametrize("shapes", [((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 1, 2, 3), (6, 3, 2)),
                                    ((1, 1), (1, 1))])
def test_matmul(xp, shapes):
    a, b = random(xp, *shapes[0]), random(xp, *shapes[1], seed=1)
    expected = numpy.einsum("...ij,...jk->...ik", a.numpy(), b.numpy())
    numpy.testing.assert_allclose((a @ b).numpy(), expected, rtol=1e-12, atol=1e-14)
    numpy.testing.assert_allclose(tr.matmul(a, b).numpy(), expected, rtol=1e-12, atol=1e-14)
    assert tr.gradcheck(tr.matmul, a, b) < 1e-6


def test_an_array_may_be_either_operand(xp):
    a, array = random(xp, 2, 2), random(xp, 2, 2, seed=1).data
    for op in [*BINARY, operator.matmul]:
        assert isinstance(op(array, a), tr.Tensor) and isinstance(op(a, array), tr.Tensor)
        numpy.testing.assert_allclose(op(array, a).numpy(), op(tr.backend.to_numpy(array), a.numpy()))


def test_float32_stays_float32(xp):
    a = tr.Tensor(xp.ones((2, 2), "float32"), requires_grad=True)
    results = [a + 1, 1 - a, a * numpy.float64(2), numpy.float64(2) / a, a ** 2, a ** numpy.float64(0.5),
               -a, a @ a, a + numpy.array(1.5), a + [1.0, 2.0], a * xp.arange(2), tr.exp(a), tr.log(a),
               tr.mean(a), tr.sum(a, 0), tr.avg_pool2d(tr.reshape(a, (1, 2, 2, 1)), 2),
               tr.softmax_cross_entropy(a, xp.array([0, 1]))]
    for result in results:
        assert result.dtype == "float32"
        tr.sum(result).backward()
        assert a.grad.dtype == "float32"


def test_dtype_of_new_tensors(xp):
    assert tr.Tensor(1).dtype == tr.Tensor([1.0, 2.0]).dtype == tr.Tensor(xp.arange(3)).dtype == "float32"
    assert tr.Tensor([[True]]).dtype == "float32"
    assert tr.Tensor(xp.zeros(2)).dtype == tr.Tensor(numpy.float64(2)).dtype == "float64"
    array = xp.zeros(3)
    assert tr.Tensor(array).data is array


@pytest.mark.parametrize("data", [1j, "a", None, [1, "a"], [object()], numpy.zeros(2, complex)])
def test_data_that_are_no_numbers_are_refused(data):
    with pytest.raises(TypeError, match="float"):
        tr.Tensor(data)


def test_tensor_of_a_tensor_is_refused():
    with pytest.raises(TypeError, match="detach"):
        tr.Tensor(tr.Tensor(1.0))


def test_used_twice(xp):
    a = random(xp, 3)
    assert tr.gradcheck(lambda a: a * a + a, a) < 1e-6


def test_diamond(xp):
    a = tr.Tensor(xp.ones(2), requires_grad=True)
    b = a + a
    c = b + b
    c.backward(xp.ones(2))
    assert c.numpy().tolist() == [4, 4] and a.grad.tolist() == [4, 4]


def test_gradients_of_several_losses_accumulate_until_the_values_change(xp):
    w, fresh = random(xp, 3), random(xp, 3)
    loss = tr.sum(w * w * w)
    for times in 1, 2:  # the same graph twice, as in PyTorch
        loss.backward()
        numpy.testing.assert_allclose(tr.backend.to_numpy(w.grad), times * 3 * w.numpy() ** 2)
    (w * 2).sum().backward()
    numpy.testing.assert_allclose(tr.backend.to_numpy(w.grad), 6 * w.numpy() ** 2 + 2)
    for change in replace_values, change_in_place, change_under_no_grad, load, take_a_step:
        assert not w.is_spent()
        change(w)
        assert w.is_spent() and w.grad is not None, change.__name__
        (w * 3).sum().backward()
        assert w.grad.tolist() == [3, 3, 3], change.__name__
    assert fresh.is_spent() and fresh.grad is None


def replace_values(w):
    w.data = w.data * 2


def change_in_place(w):
    w.data -= 1


def change_under_no_grad(w):
    with tr.no_grad():
        w *= 2


def load(w):
    net = tr.nn.Sequential(lambda x: x)
    net.w = w
    net.load_state_dict({"w": numpy.ones(3)})


def take_a_step(w):
    tr.optim.SGD([w], lr=0.1).step()


def test_backward_through_values_that_have_changed_is_an_error(xp):
    g, d = random(xp, 1), random(xp, 1, seed=1)
    s = d * (g * 3.0)
    optimizer = tr.optim.SGD([d], 0.1, momentum=0)
    tr.sum(s * s).backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"multiply: .* operand 1, of shape \(1,\), have changed"):
        tr.sum(s).backward()
    constant = tr.Tensor(xp.ones(1))
    y = g * constant
    constant.data += 1
    with pytest.raises(RuntimeError, match="operand 2"):
        y.backward()


def test_indices_and_labels_may_change_before_backward(xp):
    x, index, labels = random(xp, 3, 2), xp.array([0, 2]), xp.array([0, 1, 1])
    loss, picked = tr.softmax_cross_entropy(x, labels), x[index].sum()
    rows = [0, 1]
    listed = x[:, rows].sum()
    loss.backward()
    expected = x.grad.copy()
    x.grad = None
    labels[:], index[:], rows[:] = 0, 1, [0, 0]
    loss.backward()
    assert (x.grad == expected).all()
    x.grad = None
    picked.backward()
    assert x.grad.tolist() == [[1, 1], [0, 0], [1, 1]]
    x.grad = None
    listed.backward()
    assert x.grad.tolist() == [[1, 1]] * 3


def test_gradients_of_two_leaves_share_no_memory(xp):
    a, b = random(xp, 2), random(xp, 2, seed=1)
    tr.sum(a + b).backward()
    a.grad *= 5
    assert b.grad.tolist() == [1, 1]


def test_only_leaves_keep_gradients(xp):
    a, constant = random(xp, 2), random(xp, 2, requires_grad=False)
    middle = a * constant
    tr.sum(middle).backward()
    assert a.grad is not None and constant.grad is None
    with pytest.warns(UserWarning, match="computed by multiply.* y.retain_grad()"):
        assert middle.grad is None


def test_a_graph_5000_deep(xp):
    a = tr.Tensor(xp.ones(1), requires_grad=True)
    x = a
    for _ in range(5000):
        x = x + a
    x.backward()
    assert a.grad.tolist() == [5001]


def test_a_graph_20000_deep_is_freed_without_recursion():
    x = tr.Tensor(1.0, requires_grad=True)
    for _ in range(20_000):
        x = x * 1.0
    x.backward()
    del x


def test_graphs_are_freed_by_reference_counting():
    gc.disable()
    try:
        a = tr.Tensor(numpy.ones((2, 4, 4, 3), "float32"), requires_grad=True)
        net = tr.models.cifar_net(blocks=1, widths=(4, 8))
        hidden = net.stem(a)
        loss = tr.softmax_cross_entropy(net(a) + tr.mean(hidden), numpy.array([1, 2]))
        loss.backward()
        dead = weakref.ref(hidden)
        del loss, hidden
        assert dead() is None
    finally:
        gc.enable()


def test_values_that_no_gradient_needs_are_freed_with_their_tensor(xp):
    a = random(xp, 3)
    hidden = a + a
    dead = weakref.ref(hidden)
    out = tr.sum(hidden + a)
    del hidden
    assert dead() is None
    out.backward()
    assert a.grad.tolist() == [3, 3, 3]


def test_no_grad(xp):
    a = random(xp, 2)
    with tr.no_grad():
        b = a * 2
    assert not b.requires_grad and b.node is None
    assert (a * 2).requires_grad
    with pytest.raises(ZeroDivisionError), tr.no_grad():
        raise ZeroDivisionError
    assert (a * 2).requires_grad, "no_grad must end after an exception too"


def test_detach_and_item(xp):
    a = random(xp, 1)
    assert not a.detach().requires_grad and a.detach().data is a.data
    assert a.item() == float(a.numpy()[0]) and isinstance(a.item(), float)
    with pytest.raises(ValueError, match=r"one element.*\(2,\)"):
        random(xp, 2).item()


def test_numpy_and_repr(xp):
    a = tr.Tensor(xp.array([1.5]), requires_grad=True)
    assert isinstance(a.numpy(), numpy.ndarray) and "1.5" in repr(a) and "requires_grad" in repr(a)


@pytest.mark.parametrize("op", BINARY)
def test_shapes_that_do_not_broadcast(xp, op):
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2,\) do not broadcast"):
        op(random(xp, 2, 3), random(xp, 2))


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((2,), (3, 2)), ((2, 3), (2,)), ((), (2,)),
                                    ((2,), (3,)), ((), (2, 2))])
def test_matmul_of_wrong_shapes(xp, shapes):
    with pytest.raises(ValueError, match="matmul: shapes .* do not fit"):
        random(xp, *shapes[0]) @ random(xp, *shapes[1])


def test_mixed_dtypes_are_refused(xp):
    a, b = tr.Tensor(xp.zeros((2, 2), "float32")), tr.Tensor(xp.zeros((2, 2)))
    for op in [*BINARY, operator.matmul]:
        with pytest.raises(TypeError, match="first operand .* is float32, .* the second .* is float64"):
            op(a, b)


@pytest.mark.skipif(not tr.backend.gpu_available(), reason="needs a GPU")
def test_mixed_backends_are_refused():
    import cupy
    a, b = tr.Tensor(numpy.zeros(2)), tr.Tensor(cupy.zeros(2))
    with pytest.raises(TypeError, match="numpy array, the second .* cupy array"):
        a + b


@pytest.mark.parametrize("value", [None, "1", 1j])
def test_operands_that_are_no_numbers(value):
    with pytest.raises(TypeError, match="add: expected a Tensor"):
        tr.Tensor(1.0) + value


def test_what_is_no_number_is_no_exponent():
    with pytest.raises(TypeError, match="number, an array or a Tensor as exponent, got str"):
        tr.Tensor(1.0) ** "2"
    with pytest.raises(TypeError, match="power.*: expected a Tensor"):
        tr.Tensor(1.0) ** None


def test_exponents_may_be_tensors_and_arrays(xp):
    a = tr.Tensor(xp.abs(random(xp, 3, 2).data) + 0.1, requires_grad=True)
    b, constants = random(xp, 2, seed=1), xp.array([0.5, 3.0])
    A, B, C = a.numpy().copy(), b.numpy().copy(), numpy.array([0.5, 3.0])
    for fn, expected in ((lambda a, b: a ** b, A ** B), (lambda a, b: 2 ** b + 0 * a, 2 ** B + 0 * A),
                         (lambda a, b: a ** constants + 0 * b, A ** C),
                         (lambda a, b: constants ** b + 0 * a, C ** B + 0 * A)):
        numpy.testing.assert_allclose(fn(a, b).numpy(), expected, rtol=1e-13)
        assert tr.gradcheck(fn, a, b) < 1e-6
    zero, exponent = tr.Tensor(xp.zeros(3), requires_grad=True), tr.Tensor(xp.array([0.0, 1.0, 2.0]), True)
    (zero ** exponent).sum().backward()  # as in PyTorch
    assert zero.grad.tolist() == [0, 1, 0] and exponent.grad.tolist() == [0, 0, 0]
    assert (2 ** tr.Tensor([1.0, 3.0])).dtype == "float32"


@pytest.mark.parametrize("shapes", [((2, 3), (3,)), ((3,), (3, 2)), ((3,), (3,)), ((5, 2, 3), (3,)),
                                    ((3,), (5, 3, 2)), ((1,), (1,))])
def test_matmul_of_vectors(xp, shapes):
    a, b = random(xp, *shapes[0]), random(xp, *shapes[1], seed=1)
    for fn in tr.matmul, operator.matmul:
        out = fn(a, b).numpy()
        assert out.shape == (a.numpy() @ b.numpy()).shape
        numpy.testing.assert_allclose(out, a.numpy() @ b.numpy(), rtol=1e-12, atol=1e-14)
        assert tr.gradcheck(fn, a, b) < 1e-6


def test_backward_needs_a_graph(xp):
    with pytest.raises(RuntimeError, match="requires_grad"):
        random(xp, 1, requires_grad=False).backward()


def test_backward_needs_a_gradient_of_the_right_kind(xp):
    a = random(xp, 2) * 2
    with pytest.raises(ValueError, match=r"shape \(2,\): pass grad"):
        a.backward()
    with pytest.raises(ValueError, match=r"has shape \(3,\)"):
        a.backward(xp.ones(3))
    with pytest.raises(ValueError, match="dtype float32"):
        a.backward(xp.ones(2, "float32"))


def faulty(x, answer):
    """An operation whose vjp returns `answer(g)`."""
    return tr.Tensor(x.data * 2, parents=(x,), vjp=lambda g: answer(g))


@pytest.mark.parametrize("answer, error, message", [
    (lambda g: (g[:1],), ValueError, r"computed by faulty has shape \(1,\)"),
    (lambda g: (g.astype("float32"),), ValueError, "computed by faulty .* dtype float32"),
    (lambda g: (None,), TypeError, r"computed by faulty is a NoneType: expected an array of shape \(2,\)"),
    (lambda g: g, TypeError, r"vjp of faulty returned ndarray: expected a tuple of 1, .* such as \(g,\)"),
    (lambda g: (g, g), TypeError, "vjp of faulty returned a tuple of 2: expected a tuple of 1"),
])
def test_a_faulty_operation_is_named(xp, answer, error, message):
    with pytest.raises(error, match=message):
        faulty(random(xp, 2), answer).backward(xp.ones(2))


def test_a_vjp_without_a_name_is_told_of_too(xp):
    x = random(xp, 2)
    with pytest.raises(TypeError, match="the vjp of an operation returned"):
        tr.Tensor(x.data * 2, parents=(x,), vjp=functools.partial(lambda x, g: g, x)).backward(xp.ones(2))


def test_operands_of_two_dtypes_are_told_where_each_came_from():
    x, w = tr.Tensor(numpy.zeros((2, 3))), tr.nn.Linear(3, 2).weight
    with pytest.raises(TypeError, match=r"float64, made from an array, the second \(3, 2\) is float32, a leaf"
                                        r" with requires_grad, .* Convert the first: x.astype\('float32'\)"):
        x @ w
    with pytest.raises(TypeError, match="float32, computed by multiply, .* Convert the second"):
        (w.T * 2) + numpy.zeros((2, 3))


@pytest.mark.parametrize("arguments", [
    lambda x: dict(parents=(x,)), lambda x: dict(parents=x, vjp=lambda g: (g,)), lambda x: dict(parents=x)])
def test_an_operation_without_a_vjp_is_no_silent_constant(arguments):
    x = random(numpy, 2)
    with pytest.raises(TypeError, match=r"needs parents=\(x, ...\), a tuple, and vjp="):
        tr.Tensor(x.data * 2, **arguments(x))
    with tr.no_grad():
        assert not tr.Tensor(x.data * 2, **arguments(x)).requires_grad
    assert not tr.Tensor(x.data * 2, parents=(x.detach(),)).requires_grad


def test_no_grad_as_a_decorator():
    @tr.no_grad()
    def called(x):
        return x * 2

    @tr.no_grad
    def bare(x):
        return x * 2

    x = random(numpy, 2)
    for _ in range(2):
        assert not called(x).requires_grad and not bare(x).requires_grad
    assert (x * 2).requires_grad


def test_gradcheck_takes_what_pytorch_users_pass():
    a, b = random(numpy, 2, 3), random(numpy, 2, 3, seed=1)
    labels = numpy.array([0, 2])
    assert tr.gradcheck(operator.mul, (a, b)) < 1e-6
    assert tr.gradcheck(operator.mul, a.numpy(), 2.0) < 1e-6
    assert tr.gradcheck(tr.softmax_cross_entropy, a, labels) < 1e-6
    assert tr.gradcheck(operator.mul, a, b.detach()) < 1e-6
    for wrong, error, message in ((a.detach(), ValueError, "no argument requires a gradient"),
                                  (a.astype("float32"), TypeError, "float64 tensors, got float32")):
        with pytest.raises(error, match=message):
            tr.gradcheck(tr.relu, wrong)
    with pytest.raises(TypeError, match="what fn returns: expected a Tensor, got ndarray"):
        tr.gradcheck(lambda x: x.data, a)


def test_gradcheck_hints_at_a_kink_and_not_at_a_wrong_vjp(recwarn):
    with pytest.warns(UserWarning, match="tensor 0 is at a kink: the derivative is 0 on its left"):
        assert tr.gradcheck(tr.relu, 0) > 0.1
    with pytest.warns(UserWarning, match=r"tensor 0\[1\] is at a kink"):
        assert tr.gradcheck(tr.relu, numpy.array([1.0, 0.0, -3.0])) > 0.1
    recwarn.clear()
    assert tr.gradcheck(lambda x: faulty(x, lambda g: (3 * g,)), 1.0) > 0.1
    assert tr.gradcheck(tr.relu, 0.5) < 1e-6 and not recwarn.list


@pytest.mark.parametrize("formula", [lambda x: x ** 2, lambda x: (x ** 2,), lambda x: (x ** 2, x)])
def test_a_formula_without_its_gradient_is_an_error(formula):
    with pytest.raises(TypeError, match="a formula returns its result and, for each of 1 operands"):
        tr.operation(formula)(tr.Tensor([2.0, 3.0]))


def test_an_operation_of_ones_own_replaces_none_of_the_engines():
    @tr.operation
    def add(x):
        return x + 1, lambda g: g

    x = tr.Tensor([1.0])
    assert add(x).item() == (x + x).item() == 2


@pytest.mark.parametrize("op", [*BINARY, operator.matmul, tr.maximum, tr.conv2d])
def test_a_leaf_that_asks_for_a_gradient_after_the_forward_pass_gets_it(xp, op):
    a, b = random(xp, 1, 2, 2, 2), random(xp, 1, 2, 2, 2, seed=1, requires_grad=False)
    y = op(a, b)
    b.requires_grad = True
    y.backward(xp.ones(y.shape))
    assert b.grad.shape == b.shape


def test_the_first_argument_of_an_operation_may_be_named(xp):
    x = random(xp, 2)
    assert tr.relu(x=x).shape == tr.maximum(a=x, b=0.0).shape == (2,)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        tr.relu()
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        tr.relu(y=x)


class Counted:
    """weights * x, which counts its evaluations, and whose gradient is off by `wrong`."""

    def __init__(self, weights, wrong):
        self.weights, self.wrong, self.calls = weights, wrong, 0

    def __call__(self, x):
        self.calls += 1
        return tr.operation(lambda x: (x * self.weights, lambda g: g * (self.weights + self.wrong)))(x)


def test_gradcheck_measures_entry_by_entry():
    weights = numpy.array([1e4, 1e-2, 1e4])
    x = numpy.array([1.0, 2.0, 3.0])
    assert tr.gradcheck(Counted(weights, 0), x) < 1e-6
    for wrong in [0, 1e-2, 0], [0, -1e-2, 0]:
        assert tr.gradcheck(Counted(weights, numpy.array(wrong)), x) > 1e-4
    assert tr.gradcheck(Counted(weights, numpy.array([0, numpy.nan, 0])), x) == numpy.inf


@pytest.mark.parametrize("evaluation", [3, 4, 5, 8])
def test_gradcheck_leaves_its_input_as_it_was_if_the_function_raises(xp, evaluation):
    x, calls = random(xp, 2, 3), []
    before = x.numpy().copy()

    def fails(x):
        calls.append(x)
        if len(calls) == evaluation:
            raise ZeroDivisionError
        return tr.exp(x)

    with pytest.raises(ZeroDivisionError):
        tr.gradcheck(fails, x)
    assert (x.numpy() == before).all()


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("make", [numpy.asmatrix, numpy.ma.masked_less, lambda x: numpy.ma.array(x)])
def test_subclasses_of_arrays_are_refused(make):
    array = make(numpy.eye(2), 0.5) if make is numpy.ma.masked_less else make(numpy.eye(2))
    w, integers = random(numpy, 2, 2), array.astype(int)
    for use in (tr.Tensor, lambda x: w * x, lambda x: w @ x, lambda x: (w * 2).backward(x),
                lambda x: setattr(w, "data", x), lambda x: tr.concatenate([w, x])):
        for values in array, integers:
            with pytest.raises(TypeError, match="a subclass of it with rules of its own"):
                use(values)


def test_a_file_in_memory_is_an_array(tmp_path):
    array = numpy.memmap(tmp_path / "x", "float64", "w+", shape=2)
    x = tr.Tensor(array)
    assert type(x.data) is numpy.ndarray and numpy.shares_memory(x.data, array)


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8", "<f4", ">i4"])
def test_the_byte_order_of_a_file_does_not_matter(dtype):
    array = numpy.array([1, 2], dtype)
    native = {"i": "float32"}.get(numpy.dtype(dtype).kind, numpy.dtype(dtype).newbyteorder("="))
    x = tr.Tensor(array, requires_grad=True)
    (x * x).backward(array.astype(array.dtype.newbyteorder(">")) if array.dtype.kind == "f" else [1.0, 2.0])
    assert x.dtype == x.grad.dtype == native and x.dtype.isnative and x.grad.tolist() == [2, 8]
    x.data = array
    assert x.dtype.isnative and (x * array).numpy().tolist() == [1, 4]
