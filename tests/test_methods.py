"""What a Tensor does for users of NumPy and PyTorch, and what it says where they go wrong."""
import gc
import re
import weakref

import numpy
import pytest
from support.checking import check, random

import tinyres as tr


@pytest.mark.parametrize("fn, expected", [
    (lambda x: x.sum(), lambda x: x.sum()), (lambda x: x.sum(0), lambda x: x.sum(0)),
    (lambda x: x.mean(axis=(0, 2), keepdims=True), lambda x: x.mean((0, 2), keepdims=True)),
    (lambda x: x.max(1), lambda x: x.max(1)), (lambda x: x.T, lambda x: x.T),
    (lambda x: x.reshape(6, 4), lambda x: x.reshape(6, 4)),
    (lambda x: x.reshape(-1), lambda x: x.reshape(-1)),
    (lambda x: x.reshape((4, -1)), lambda x: x.reshape(4, -1)),
    (lambda x: x.transpose(), lambda x: x.T),
    (lambda x: x.transpose(2, 0, 1), lambda x: x.transpose(2, 0, 1)),
    (lambda x: x.transpose((1, 2, 0)), lambda x: x.transpose(1, 2, 0)),
    (lambda x: x[1, ..., :2], lambda x: x[1, ..., :2]),
    (lambda x: list(x)[1], lambda x: x[1]), (abs, abs),
])
def test_methods(xp, fn, expected):
    x = random(xp, 2, 3, 4)
    check(fn, expected(x.numpy()), x)


@pytest.mark.parametrize("dtype", ["float32", numpy.float32, numpy.dtype("float32")])
def test_astype_takes_what_numpy_takes(dtype):
    assert random(numpy, 2).astype(dtype).dtype == "float32"


def test_values_for_python():
    x = tr.Tensor([[1.25, 2.0, 3.0]], requires_grad=True)
    assert (x.size, len(x), len(x[0])) == (3, 1, 3)
    total = x[0, 0]
    assert float(total) == 1.25 and f"{total:.1f} {total}" == f"1.2 {total!r}" and bool(total)
    assert f"{x}" == repr(x)
    for wrong, error in ((lambda: len(total), TypeError), (lambda: list(total), TypeError),
                         (lambda: f"{x:.2f}", TypeError), (lambda: float(x), ValueError)):
        with pytest.raises(error):
            wrong()
    with pytest.raises(ValueError, match=r"shape \(1, 3\) is neither true nor false.*\(x > 0\).all\(\)"):
        bool(x)


def test_comparisons_give_arrays(xp):
    x, other = tr.Tensor(xp.array([1.0, 2.0, 3.0])), tr.Tensor(xp.array([3.0, 2.0, 1.0]))
    for array, values in (((x < other), [1, 0, 0]), ((x <= 2), [1, 1, 0]), ((x > other), [0, 0, 1]),
                          ((x >= xp.array([1, 3, 3])), [1, 0, 1]), ((x == other), [0, 1, 0]),
                          ((x != 2.0), [1, 0, 1])):
        assert isinstance(array, xp.ndarray) and array.tolist() == values
    assert x != None and len({x, other, x}) == 2  # noqa: E711


def test_numpy_gets_a_copy_unless_a_gradient_would_be_lost():
    x = tr.Tensor([1.0, 2.0])
    array = numpy.asarray(x)
    array[0] = 5
    assert array.dtype == "float32" and x.numpy().tolist() == [1, 2]
    assert numpy.asarray(x, dtype="float64").dtype == "float64"
    x = tr.Tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(TypeError, match="not in the graph: write x.numpy()"):
        numpy.asarray(x)
    with pytest.raises(TypeError, match="tr.stack"):
        tr.Tensor([x, x])
    with tr.no_grad():
        assert numpy.asarray(x).tolist() == [1, 2]


def test_a_leaf_is_not_made_a_computed_tensor_by_an_operator_in_place(xp):
    w = tr.Tensor(xp.ones(2), requires_grad=True)
    (w * w).sum().backward()
    data = w.data
    for sign in "+-*/":
        with pytest.raises(RuntimeError, match=rf"w \{sign}= ... .*write w.data \{sign}= .*tr.no_grad"):
            exec(f"w {sign}= 0.1 * w.grad")
    with tr.no_grad():
        w -= 0.1 * w.grad
    assert w.data is data and w.numpy().tolist() == [0.8, 0.8] and w.node is None
    total = w * 2
    first = total
    total += w
    assert total.numpy().tolist() == [0.8 * 3] * 2 and first.numpy().tolist() == [1.6, 1.6]
    assert tr.gradcheck(lambda w: in_a_loop(w), w) < 1e-6


def test_an_operator_in_place_keeps_the_leafs_shape(xp):
    b = tr.Tensor(xp.ones(3), requires_grad=True)
    with tr.no_grad():
        for other in xp.ones((1, 3)), xp.ones((2, 3)):
            with pytest.raises(ValueError, match=r"w -= ...: a result of shape \(., 3\) does not fit into w"):
                b -= other
    assert b.numpy().tolist() == [1, 1, 1]


def in_a_loop(w):
    total = tr.Tensor(tr.backend.xp_of(w.data).zeros(()))
    for value in w:
        total += value * value
    return total


def test_values_that_the_graph_needs_are_not_changed(xp):
    x = random(xp, 2)
    y = tr.exp(x)
    with pytest.raises(RuntimeError, match="that exp computed were changed: gradients .* would be wrong"):
        y.data += 5
    with pytest.raises(RuntimeError, match="that exp computed were changed"):
        y.data = xp.zeros(2)
    with pytest.raises(TypeError, match="not changed in place: write x.data"):
        x[0] = 1
    x.data += 5
    with tr.no_grad():
        y = tr.exp(x)
    y.data += 5


def test_retain_grad(xp):
    x = random(xp, 3)
    hidden = x * 2
    hidden.retain_grad()
    assert hidden.grad is None
    out = (hidden * hidden + hidden).sum()
    for times in 1, 2:  # gradients accumulate, as those of leaves
        out.backward()
        numpy.testing.assert_allclose(tr.backend.to_numpy(hidden.grad), times * (2 * hidden.numpy() + 1))
    with pytest.raises(RuntimeError, match="requires no gradient"):
        tr.Tensor(1.0).retain_grad()
    gc.disable()
    try:
        del hidden, out
        hidden = x + x
        hidden.retain_grad()
        dead, out = weakref.ref(hidden), (hidden + x).sum()
        del hidden
        assert dead() is None, "the graph must not hold the values"
        out.backward()
    finally:
        gc.enable()


def test_a_star_import_leaves_pythons_functions_alone():
    names = {}
    exec("from tinyres import *", names)
    assert not {"sum", "max", "min", "abs"} & names.keys() and names["relu"] is tr.relu
    assert {name for name in names if not name.startswith("_")} == set(tr.__all__)


def test_argmax_gives_indices_and_a_missing_method_says_what_to_write():
    x = tr.Tensor([[1.0, 3.0], [5.0, 2.0]])
    assert x.argmax(1).tolist() == [1, 0] and x.argmax() == 2
    for name, hint in (("exp", r"tr\.exp\(x\)"), ("view", "reshape"), ("absent", "no 'absent'$"),
                       ("predict", "no 'predict'$")):
        with pytest.raises(AttributeError, match=hint):
            getattr(x, name)


@pytest.mark.parametrize("call, message", [
    (lambda x: tr.sum(x, dim=0), "sum has no argument 'dim': axis"),
    (lambda x: tr.softmax(x, dim=-1), "softmax has no argument 'dim': axis"),
    (lambda x: x.mean(dim=0), "mean has no argument 'dim': axis"),
    (lambda x: x.max(1, keepdim=True), "keepdims"),
    (lambda x: tr.concatenate([x, x], dim=1), "concatenate has no argument 'dim': axis"),
    (lambda x: tr.stack([x], dim=0), "axis"),
    (lambda x: x.split(1, dim=0), "split has no argument 'dim': axis"),
    (lambda x: tr.flatten(x, start_dim=1), "start_axis"), (lambda x: tr.var(x, unbiased=False), "correction"),
    (lambda x: x.std(ddof=0), "correction"), (lambda x: tr.max_pool2d(x, kernel_size=2), "size"),
    (lambda x: tr.clip(x, min=0), "clip has no argument 'min': low"),
    (lambda x: tr.relu(x, inplace=True), "x ="),
    (lambda x: x.sum(dtype="float64"), r"x\.astype"),
])
def test_arguments_called_as_in_pytorch_are_told_their_name_here(call, message):
    with pytest.raises(TypeError, match=message):
        call(random(numpy, 2, 3))


@pytest.mark.parametrize("place, name, message", [
    (tr, "permute", r"tinyres has no 'permute': x.transpose"), (tr, "clamp", r"tr\.clip"),
    (tr, "cat", "concatenate"),
    (tr, "from_numpy", r"tr\.Tensor"), (tr, "absent", "tinyres has no 'absent'$"),
    (tr.nn, "ReLU", r"tinyres.nn has no 'ReLU': tr\.relu, as a layer of tr.nn.Sequential too"),
    (tr.nn, "Flatten", r"lambda x: tr\.flatten\(x, 1\)"), (tr.nn, "softmax", r"tr\.softmax"),
    (tr.nn, "CrossEntropyLoss", r"tr\.cross_entropy"), (tr.nn, "MaxPool2d", "max_pool2d"),
    (tr.nn, "functional", "functions of tinyres"), (tr.optim, "AdamW", r"tr\.optim\.Adam"),
    (tr.optim, "lr_scheduler", "step_decay"),
    (tr.Tensor([1.0]), "permute", "a Tensor has no 'permute': x.transpose"),
    (tr.Tensor([1.0]), "clamp", r"tr\.clip"), (tr.Tensor([1.0]), "view", "reshape"),
    (tr.Tensor([1.0]), "softmax", r"tr\.softmax\(x\)"), (tr.Tensor([1.0]), "pow", r"x \*\* 2"),
])
def test_names_of_pytorch_are_told_what_they_are_here(place, name, message):
    with pytest.raises(AttributeError, match=message):
        getattr(place, name)
    assert not hasattr(place, name)


def test_every_hint_names_what_there_is():
    from tinyres.support.names import OTHER_NAMES
    for hint in OTHER_NAMES.values():
        for name in re.findall(r"tr((?:\.\w+)+)", hint):
            value = tr
            for part in name[1:].split("."):
                value = getattr(value, part)
        for name in re.findall(r"\bx\.(\w+)", hint):
            getattr(tr.Tensor([1.0]), name)


def test_functions_of_numpy_name_those_of_tinyres():
    leaf = tr.Tensor([[1.0, 2.0]], requires_grad=True)
    for x in leaf, leaf.detach():
        for fn, name in ((numpy.sum, "sum"), (numpy.mean, "mean"), (numpy.max, "max"), (numpy.var, "var"),
                         (numpy.reshape, "reshape"), (numpy.transpose, "transpose")):
            with pytest.raises(TypeError, match=rf"numpy.{name} does not take a Tensor.*write tr\.{name}"):
                fn(x, 0) if name == "reshape" else fn(x)
        for fn in numpy.stack, numpy.concatenate:
            with pytest.raises(TypeError, match=r"write tr\."):
                fn([x, x])
    assert numpy.array_equal(x, [[1, 2]]) and numpy.allclose(x, [[1, 2]]) and numpy.median(x) == 1.5
    with pytest.raises(TypeError, match=r"write x.numpy\(\)"):
        numpy.median(tr.Tensor([1.0], requires_grad=True))


def test_dir_shows_what_is_public():
    assert dir(tr.nn) == sorted(tr.nn.__all__) and dir(tr.optim) == sorted(tr.optim.__all__)
    assert dir(tr) == sorted([*tr.__all__, "abs", "max", "min", "sum"])
    for module in tr, tr.nn, tr.optim:
        assert all(hasattr(module, name) for name in dir(module))
