"""The engine as a whole: gradients of random graphs of all operations, and what training leaves in memory."""
from __future__ import annotations

import gc
import inspect
import os
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy
import pytest

import tinyres as tr
from tinyres.datasets import Dataset, Split
from tinyres.training import Run, train

GRAPHS, STEPS = 600, (3, 9)
LARGEST = 96  # values of a tensor
OF_FEW_SHAPES = ["softmax_cross_entropy", "cross_entropy", "conv2d", "max_pool2d", "avg_pool2d",
                 "global_avg_pool2d", "sqrt"]  # tried more often than others


class Step(NamedTuple):
    """A node of a graph: an operation and the numbers of its operands, which come before it."""
    name: str
    operation: Callable[..., tr.Tensor]
    operands: tuple[int, ...]


class Graph:
    """Random leaves and operations on them. A step that would come near a kink, a pole, or the end of a
    domain, where a difference quotient is no derivative, is not taken."""

    def __init__(self, seed: int) -> None:
        self.rng = numpy.random.default_rng(seed)
        self.nodes: list[tr.Tensor] = []
        self.steps: list[Step] = []
        self.leaf(tuple(self.rng.integers(1, 4, self.rng.choice([0, 1, 2, 3, 4, 4]))))
        count = self.rng.integers(*STEPS)
        while sum(step.name != "leaf" for step in self.steps) < count:
            name = self.rng.choice([*OPERATIONS, *3 * OF_FEW_SHAPES])
            index = int(self.rng.integers(len(self.nodes)))
            if step := OPERATIONS[name](self, index):
                self.take(name, *step)
        used = {index for step in self.steps for index in step.operands}
        self.weights = {i: self.rng.standard_normal(node.shape) for i, node in enumerate(self.nodes)
                        if i not in used}

    def take(self, name: str, operation: Callable[..., tr.Tensor], *operands: int) -> None:
        with numpy.errstate(all="ignore"):
            out = operation(*(self.nodes[i] for i in operands))
        if out.data.size <= LARGEST and numpy.isfinite(out.data).all() and abs(out.data).max(initial=0) < 20:
            self.nodes.append(out)
            self.steps.append(Step(name, operation, operands))

    def leaf(self, shape: tuple[int, ...]) -> int:
        """Add a leaf with values of either sign, none near 0, and give its number."""
        values = self.rng.uniform(0.3, 1.5, shape) * self.rng.choice([-1.0, 1.0], shape)
        self.nodes.append(tr.Tensor(numpy.asarray(values), requires_grad=True))
        self.steps.append(Step("leaf", tr.Tensor, ()))
        return len(self.nodes) - 1

    def leaves(self) -> list[tr.Tensor]:
        return [node for node, step in zip(self.nodes, self.steps, strict=True) if step.name == "leaf"]

    def __call__(self, *leaves: tr.Tensor) -> tr.Tensor:
        """The graph again, for other leaves: one number that depends on every node."""
        remaining, nodes = iter(leaves), []
        for step in self.steps:
            operands = [nodes[i] for i in step.operands]
            nodes.append(step.operation(*operands) if operands else next(remaining))
        return weighted_sum([nodes[i] for i in self.weights], list(self.weights.values()))


def weighted_sum(tensors: list[tr.Tensor], weights: list[numpy.ndarray]) -> tr.Tensor:
    """One operation for what would be many, each time that gradcheck computes a graph."""
    total = sum((x.data * weight).sum() for x, weight in zip(tensors, weights, strict=True))
    return tr.Tensor(total, parents=tuple(tensors), vjp=lambda g: tuple(g * weight for weight in weights))


def unary(function: Callable[[tr.Tensor], tr.Tensor],
          admits: Callable[[numpy.ndarray], bool] = lambda x: True) -> Callable[[Graph, int], tuple | None]:
    return lambda graph, i: (function, i) if admits(graph.nodes[i].data) else None


def binary(function: Callable[[tr.Tensor, tr.Tensor], tr.Tensor], minimum: float = 0.0) -> Callable:
    """With another node where one broadcasts, else with a new leaf of a shape that does; or with itself."""
    def step(graph: Graph, i: int) -> tuple | None:
        x, rng = graph.nodes[i], graph.rng
        j = int(rng.integers(len(graph.nodes)))
        try:
            numpy.broadcast_shapes(x.shape, graph.nodes[j].shape)
        except ValueError:
            kept = x.shape[int(rng.integers(x.ndim + 1)):]
            j = graph.leaf(tuple(1 if rng.random() < 0.4 else size for size in kept))
        if rng.random() < 0.5:
            i, j = j, i
        return (function, i, j) if abs(graph.nodes[j].data).min() > minimum else None
    return step


def matmul(graph: Graph, i: int) -> tuple | None:
    x, rng = graph.nodes[i], graph.rng
    if x.ndim < 2:
        return None
    if rng.random() < 0.5:
        leading = tuple(1 if rng.random() < 0.3 else size for size in x.shape[:-2])
        return tr.matmul, i, graph.leaf((*leading, x.shape[-1], int(rng.integers(1, 4))))
    return tr.matmul, graph.leaf((int(rng.integers(1, 4)), x.shape[-2])), i


def power(graph: Graph, i: int) -> tuple | None:
    x = graph.nodes[i].data
    positive = x.size and x.min() > 0.2
    exponent = float(graph.rng.choice([0.5, -1.5, 2, -1] if positive else [0, 1, 2, 3]))
    return lambda x: x ** exponent, i


def reshape(graph: Graph, i: int) -> tuple | None:
    x, rng = graph.nodes[i], graph.rng
    shape, rest = [], x.data.size
    while rest > 1 and len(shape) < 3:
        shape.append(int(rng.choice([n for n in range(1, rest + 1) if rest % n == 0])))
        rest //= shape[-1]
    shape = (*shape, rest)
    return lambda x: tr.reshape(x, shape), i


def transpose(graph: Graph, i: int) -> tuple | None:
    axes = tuple(int(axis) for axis in graph.rng.permutation(graph.nodes[i].ndim))
    return lambda x: tr.transpose(x, axes), i


def pad(graph: Graph, i: int) -> tuple | None:
    widths = [tuple(map(int, pair)) for pair in graph.rng.integers(0, 2, (graph.nodes[i].ndim, 2))]
    return lambda x: tr.pad(x, widths), i


def reduction(function: Callable[..., tr.Tensor]) -> Callable:
    def step(graph: Graph, i: int) -> tuple | None:
        ndim, rng = graph.nodes[i].ndim, graph.rng
        axes = [int(axis) for axis in range(ndim) if rng.random() < 0.5]
        axis = None if rng.random() < 0.3 else tuple(axis - ndim * int(rng.integers(2)) for axis in axes)
        keepdims = bool(rng.integers(2))
        return lambda x: function(x, axis, keepdims), i
    return step


def conv2d(graph: Graph, i: int) -> tuple | None:
    x, rng = graph.nodes[i], graph.rng
    if x.ndim != 4:
        return None
    padding, stride = tuple(map(int, rng.integers(0, 3, 2))), tuple(map(int, rng.integers(1, 3, 2)))
    if rng.random() < 0.5:
        padding, stride = (1, 1), (1, 1)  # the networks' own, which have methods of their own
    kernel = [min(int(rng.choice([1, 2, 3, 3, 3])), size + 2 * p)
              for size, p in zip(x.shape[1:3], padding, strict=True)]
    w = graph.leaf((*kernel, x.shape[3], int(rng.integers(1, 4))))
    return lambda x, w: tr.conv2d(x, w, stride, padding), i, w


def softmax_cross_entropy(graph: Graph, i: int) -> tuple | None:
    x = graph.nodes[i]
    if x.ndim != 2:
        return None
    labels = graph.rng.integers(0, x.shape[1], x.shape[0])
    return lambda x: tr.softmax_cross_entropy(x, labels), i


def far_from_zero(x: numpy.ndarray) -> bool:
    return bool((abs(x) > 0.02).all())


def far_apart(*arrays: numpy.ndarray) -> bool:
    """Whether no two of all the values are nearly equal, so that the largest stays the largest."""
    values = numpy.sort(numpy.concatenate([x.ravel() for x in arrays]))
    return bool((numpy.diff(values) > 1e-3).all())


def maximum(graph: Graph, i: int) -> tuple | None:
    function, i, j = binary(tr.maximum, minimum=-1)(graph, i)
    a, b = numpy.broadcast_arrays(graph.nodes[i].data, graph.nodes[j].data)
    return (function, i, j) if (abs(a - b) > 1e-3).all() else None


def clip(graph: Graph, i: int) -> tuple | None:
    low, high = sorted(graph.rng.uniform(-1, 1, 2))
    low = None if graph.rng.random() < 0.2 else low
    bounds = numpy.array([high if low is None else low, high])
    if not far_from_zero(graph.nodes[i].data[..., None] - bounds):
        return None
    return lambda x: tr.clip(x, low, high), i


def largest(graph: Graph, i: int) -> tuple | None:
    x = graph.nodes[i].data
    return reduction(tr.max)(graph, i) if x.size and far_apart(x) else None


def smallest(graph: Graph, i: int) -> tuple | None:
    x = graph.nodes[i].data
    return reduction(tr.min)(graph, i) if x.size and far_apart(x) else None


def along_new_axis(graph: Graph, i: int) -> tuple | None:
    ndim = graph.nodes[i].ndim
    axis = int(graph.rng.integers(-ndim - 1, ndim + 1))
    return lambda x: tr.unsqueeze(x, axis), i


def along_axis(function: Callable[[tr.Tensor, int], tr.Tensor]) -> Callable:
    def step(graph: Graph, i: int) -> tuple | None:
        ndim = graph.nodes[i].ndim
        if not ndim:
            return None
        axis = int(graph.rng.integers(-ndim, ndim))
        return lambda x: function(x, axis), i
    return step


def getitem(graph: Graph, i: int) -> tuple | None:
    """Each axis by an integer, a slice, or an array in which a value may be twice."""
    rng, index = graph.rng, []
    for size in graph.nodes[i].shape[:int(rng.integers(graph.nodes[i].ndim + 1))]:
        start = int(rng.integers(size)) if size else 0
        kinds = [slice(start, None, int(rng.integers(1, 3))), slice(None, None, -1)]
        if size:
            kinds += [start - size] if rng.random() < 0.5 else [rng.integers(-size, size, 3)]
        index.append(kinds[int(rng.integers(len(kinds)))])
    return lambda x: x[tuple(index)], i


def joined(function: Callable[..., tr.Tensor], new_axis: int) -> Callable:
    """With itself and a new leaf of its shape."""
    def step(graph: Graph, i: int) -> tuple | None:
        x = graph.nodes[i]
        ndim = x.ndim + new_axis
        if not ndim:
            return None
        axis = int(graph.rng.integers(-ndim, ndim))
        return lambda a, b: function([a, b, a], axis), i, graph.leaf(x.shape)
    return step


def like(function: Callable[[tr.Tensor, tr.Tensor], tr.Tensor]) -> Callable:
    """With a new leaf of its shape."""
    return lambda graph, i: (function, i, graph.leaf(graph.nodes[i].shape))


def minimum(graph: Graph, i: int) -> tuple | None:
    step = maximum(graph, i)
    return step and (tr.minimum, *step[1:])


def where(graph: Graph, i: int) -> tuple | None:
    function, i, j = binary(lambda a, b: a, minimum=-1)(graph, i)
    condition = graph.rng.random(graph.nodes[i].shape) < 0.5
    return lambda a, b: tr.where(condition, a, b), i, j


def power_of_tensors(graph: Graph, i: int) -> tuple | None:
    x = graph.nodes[i].data
    exponent = graph.leaf(x.shape[-1:])
    positive = x.size and x.min() > 0.2
    return (lambda a, b: a ** b) if positive else (lambda a, b: 1.5 ** a * b), i, exponent


def spread(function: Callable[..., tr.Tensor]) -> Callable:
    """Over axes that have two values or more, which differ."""
    def step(graph: Graph, i: int) -> tuple | None:
        x = graph.nodes[i].data
        axes = tuple(axis for axis in range(x.ndim) if graph.rng.random() < 0.7)
        if numpy.prod([x.shape[axis] for axis in axes], initial=1) < 2 or not (x.std(axis=axes) > 0.1).all():
            return None
        keepdims, correction = bool(graph.rng.integers(2)), int(graph.rng.integers(2))
        return lambda x: function(x, axes, keepdims, correction), i
    return step


def flatten(graph: Graph, i: int) -> tuple | None:
    first, last = sorted(int(axis) for axis in graph.rng.integers(0, max(graph.nodes[i].ndim, 1), 2))
    return lambda x: tr.flatten(x, first, last), i


def part(graph: Graph, i: int) -> tuple | None:
    x, rng = graph.nodes[i], graph.rng
    if not x.ndim:
        return None
    axis = int(rng.integers(-x.ndim, x.ndim))
    return lambda x: tr.split(x, 2, axis)[-1], i


def any_pool(function: Callable[..., tr.Tensor]) -> Callable:
    def step(graph: Graph, i: int) -> tuple | None:
        x, rng = graph.nodes[i], graph.rng
        if x.ndim != 4 or not far_apart(x.data):
            return None
        size = [int(rng.integers(1, side + 1)) for side in x.shape[1:3]]
        stride = tuple(map(int, rng.integers(1, 3, 2)))
        padding = [int(rng.integers(0, side // 2 + 1)) for side in size]
        return lambda x: function(x, size, stride, padding), i
    return step


def cross_entropy(graph: Graph, i: int) -> tuple | None:
    x, rng = graph.nodes[i], graph.rng
    if x.ndim != 2:
        return None
    labels, smoothing = rng.integers(0, x.shape[1], x.shape[0]), float(rng.random())
    labels[1:][rng.random(len(x) - 1) < 0.3] = -100
    return lambda x: tr.cross_entropy(x, labels, smoothing), i


OPERATIONS: dict[str, Callable[[Graph, int], tuple | None]] = {
    "add": binary(lambda a, b: a + b), "subtract": binary(lambda a, b: a - b),
    "multiply": binary(lambda a, b: a * b), "divide": binary(lambda a, b: a / b, minimum=0.2),
    "negate": unary(lambda x: -x), "power": power, "matmul": matmul, "exp": unary(tr.exp),
    "log": unary(tr.log, lambda x: bool((x > 0.1).all())), "relu": unary(tr.relu, far_from_zero),
    "reshape": reshape, "transpose": transpose, "pad": pad, "sum": reduction(tr.sum),
    "mean": reduction(tr.mean), "astype": unary(lambda x: tr.astype(x, "float64")),
    "global_avg_pool2d": unary(tr.global_avg_pool2d, lambda x: x.ndim == 4),
    "conv2d": conv2d, "softmax_cross_entropy": softmax_cross_entropy,
    "sqrt": unary(tr.sqrt, lambda x: bool((x > 0.1).all())), "abs": unary(tr.abs, far_from_zero),
    "tanh": unary(tr.tanh), "sigmoid": unary(tr.sigmoid), "clip": clip, "maximum": maximum, "max": largest,
    "softmax": along_axis(tr.softmax), "log_softmax": along_axis(tr.log_softmax), "getitem": getitem,
    "avg_pool2d": any_pool(tr.avg_pool2d), "min": smallest, "minimum": minimum, "where": where,
    "power_of_tensors": power_of_tensors, "var": spread(tr.var), "std": spread(tr.std),
    "squeeze": unary(tr.squeeze), "unsqueeze": along_new_axis, "flatten": flatten, "split": part,
    "mse_loss": like(tr.mse_loss), "cross_entropy": cross_entropy,
    "concatenate": joined(tr.concatenate, 0), "stack": joined(tr.stack, 1),
    "max_pool2d": any_pool(tr.max_pool2d),
}


def test_every_operation_is_among_them():
    extras = [tr.extras.functions, tr.extras.shaping, tr.extras.pooling, tr.extras.losses]
    for module in tr.ops, tr.arithmetic, tr.conv, *extras:
        public = {name for name, value in inspect.getmembers(module, inspect.isfunction)
                  if value.__module__ == module.__name__ and not name.startswith("_")}
        assert public - {"output_size", "unbroadcast", "operation_of_two"} <= OPERATIONS.keys()


def test_gradients_of_random_graphs():
    taken, worst = Counter(), (0.0, 0)
    for seed in range(GRAPHS):
        graph = Graph(seed)
        taken.update({step.name for step in graph.steps})
        worst = max(worst, (tr.gradcheck(graph, *graph.leaves()), seed))
    assert worst[0] < 1e-6, f"graph {worst[1]} is off by {worst[0]:.1e}"
    assert taken.keys() >= OPERATIONS.keys() and min(taken.values()) >= 20, taken


def collected() -> list[object]:
    """What only the garbage collector can free, and would now: objects in reference cycles."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return [thing for thing in gc.garbage if isinstance(thing, (tr.Tensor, tr.tensor.Node, numpy.ndarray))
                or getattr(thing, "__module__", "").startswith("tinyres")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def test_no_operation_makes_a_reference_cycle():
    gc.collect()
    gc.disable()
    try:
        for seed in range(100):
            graph = Graph(seed)
            leaves = graph.leaves()
            loss = graph(*leaves)
            loss.backward()
            del graph, leaves, loss
        assert collected() == []
        node = tr.Tensor(numpy.ones(2), requires_grad=True) * 2
        node.node.parents += (node.node,)  # a cycle, to see that one is found
        del node
        assert collected() != []
    finally:
        gc.enable()


def test_memory_does_not_grow_over_300_steps_of_training(tmp_path):
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs Linux, to ask for the resident size")
    rng = numpy.random.default_rng(0)
    split = Split(rng.integers(0, 256, (64, 8, 8, 3), "uint8"), rng.integers(0, 2, 64))
    network = tr.models.cifar_net(2, blocks=1, widths=(4,), seed=0)
    seen = {}

    def schedule(step: int) -> float:
        if step == 80:
            tracemalloc.start()  # which makes steps slow
        if step in (100, 400):
            cycles = gc.collect()  # this also clears Python's own lists of spare tuples and the like
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen[step] = tracemalloc.get_traced_memory()[0], pages * os.sysconf("SC_PAGE_SIZE"), cycles
        return 0.01

    gc.collect()
    gc.disable()
    try:
        train(network, tr.optim.SGD(network.parameters(), 0.01), schedule, Dataset(split, split, ("a", "b")),
              Run(tmp_path, {}, evaluate_every=10**6), steps=401, batch_size=8)
    finally:
        tracemalloc.stop()
        gc.enable()
    traced, resident = (after - before for before, after in zip(seen[100][:2], seen[400][:2], strict=True))
    assert traced < 24_000  # 30 lines of metrics
    assert resident < 1_200_000
    assert seen[400][2] == 0, "objects in reference cycles"
