"""A residual ReLU network that fits any labels on any finite sample, built without training (section 3).

A random projection A_0 takes every point to k numbers, h. Then follow blocks h + V relu(U h + s) with k
hidden units, one for each of k points: the unit answers to its own point, and its column of V moves that
point to the surrogate label of its class, a unit vector. To all other points the block adds exactly zero.
After ceil(n / k) blocks every point lies on a surrogate label, which a last block turns into scores.

    network = fit(points, labels, width=16)
    scores = network(points)  # (n, r): row i is 1 at labels[i] and 0 elsewhere

Shape letters as in the paper: n points of d numbers in r classes, k the width; a point is a row. This is
memory, not learning: nothing is promised for other points. Beside what is measured:
python -m tinyres.theory.expressivity_report
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from types import ModuleType

import numpy

from .. import backend
from ..backend import Array
from ..nn import Module
from ..ops import relu
from ..tensor import Tensor, no_grad

__all__ = ["MemorizingNetwork", "fit"]

BATCH = 1024  # points at a time: in cache from block to block, and too few for BLAS to wait for threads
TILE = 512, 2048  # rows and columns of the n x n matrix of inner products that exist at a time
LARGEST_ERROR = 0.5  # estimated error of a score above which `fit` refuses: enough for a wrong label


class MovingBlock(Module):
    """h + V relu(U h + s) for points in rows, (N, k) -> (N, k), computed as `h + relu(h @ U + s) @ V`.

    U: (k, k), one unit a column. s: (k,). V: (k, k), the move that each unit makes, one a row.
    """

    def __init__(self, U: Array, s: Array, V: Array) -> None:
        self.U, self.s, self.V = (Tensor(array, requires_grad=True) for array in (U, s, V))

    def __call__(self, h: Tensor) -> Tensor:
        return h + relu(h @ self.U + self.s) @ self.V


class OutputBlock(Module):
    """P h + B relu(A h + s) for points in rows, (N, k) -> (N, r).

    A: (k, r), one unit a column. s: (r,). B: (r, r), one unit a row. P, without parameters, cuts h off after
    r numbers or adds zeros.
    """

    def __init__(self, A: Array, s: Array, B: Array) -> None:
        self.A, self.s, self.B = (Tensor(array, requires_grad=True) for array in (A, s, B))
        self.P = Tensor(backend.xp_of(A).eye(*A.shape, dtype=A.dtype))

    def __call__(self, h: Tensor) -> Tensor:
        return h @ self.P + relu(h @ self.A + self.s) @ self.B


class MemorizingNetwork(Module):
    """The network of Theorem 3.2, made by `fit`: the projection A_0, moving blocks, an output block.

    k d + blocks (2 k^2 + k) + k r + r^2 + r parameters, all of them trainable.
    """

    def __init__(self, projection: Array, blocks: Sequence[MovingBlock], output: OutputBlock) -> None:
        self.projection = Tensor(projection, requires_grad=True)
        self.blocks, self.output = list(blocks), output

    def __call__(self, points: Array | Tensor) -> Array | Tensor:
        """The scores of points (N, d), largest at the label: (N, r).

        An array gives an array of the network's dtype, computed in batches and without a graph. A Tensor, of
        the network's dtype, gives a Tensor with its graph. Raises ValueError for points of another shape.
        """
        return self._run(points, lambda x: self.output(self._moved(x, len(self.blocks))))

    def hidden(self, points: Array | Tensor, block: int) -> Array | Tensor:
        """Where points (N, d) are after that many blocks: (N, k); 0 is right after the projection.

        Arrays and Tensors as in `__call__`. Raises ValueError for points of another shape, or a block that is
        not an integer from 0 to len(blocks).
        """
        if not isinstance(block, Integral) or not 0 <= block <= len(self.blocks):
            raise ValueError(f"block {block!r}: expected an integer from 0 to {len(self.blocks)}")
        return self._run(points, lambda x: self._moved(x, block))

    def _moved(self, x: Tensor, block: int) -> Tensor:
        h = x @ self.projection
        for moving_block in self.blocks[:block]:
            h = moving_block(h)
        return h

    def _run(self, points: Array | Tensor, function: Callable[[Tensor], Tensor]) -> Array | Tensor:
        d = self.projection.shape[0]
        if len(points.shape) != 2 or points.shape[1] != d:
            raise ValueError(f"points of shape {points.shape}: this network expects (N, {d})")
        if isinstance(points, Tensor):
            return function(points)
        with no_grad():
            parts = [function(Tensor(x)).data for _, x in _batches(points, self.projection.dtype)]
        return backend.xp_of(points).concatenate(parts)


def fit(points: Array, labels: Array | Sequence[int], width: int, num_classes: int | None = None,
        seed: int = 0, dtype: numpy.dtype = numpy.float64, method: str = "sorted") -> MemorizingNetwork:
    """Build a network that gives every point its label (paper, Theorem 3.2).

    points: (n, d) real numbers, NumPy or CuPy; the network lives in the same library.
    labels: (n,) integers from 0 to r - 1. width: k. num_classes: r, by default the largest label + 1.
    seed: of A_0 and of the surrogate labels, which are drawn from separate random streams.
    dtype: of the network, float64 or float32. The weights are always worked out in float64.
    method: how a unit is kept silent on all points but its own.
        "sorted", our construction, works for all distinct points, in practice from a width of about 8 in
        float32 and less in float64. Points are moved in the order of falling norm, and surrogate labels have
        at most half the smallest norm. By Cauchy-Schwarz, a unit in the direction of its point answers less
        to all later points and to all that have been moved already, so its threshold can lie between. It may
        answer to earlier points of its own block: all the answers of a block form a triangular matrix G, and
        solving V G = moves takes them into account.
        "paper", Lemma B.1: the points are the rows of U, and 1 - 2 rho' is the threshold of all. For points
        of norm 1 (Assumption 3.1) and widths at which the projection keeps norms and distances.
    Equal points with equal labels count once: n above is the number of distinct points.

    What the paper prints, and why this differs:
    * Lemma B.1 asks for distances of 3 rho'. A unit is silent on z_j if <z_i, z_j> <= 1 - 2 rho', which with
      squared norms of up to 1 + rho' takes *squared* distances of 6 rho'. Counterexample: rho' = 0.1, squared
      norms 1.1, squared distance 0.3. The inner product is 0.95, the threshold 0.8: the wrong unit answers
      0.15.
    * A_0 is printed without the factor 1 / sqrt(k), and then multiplies norms by about sqrt(k).
    * k > 4 log r does not make random unit vectors nearly uncorrelated: at r = 100 the largest inner product
      is then 0.76, and below 1/2 from about 15 log r on. Here surrogate labels are orthonormal where k >= r.
      Where k < r they are random, and the output block's own thresholds only need them to be distinct.

    It takes about n^2 k floating-point operations, and memory for the points and the network.
    Raises TypeError if points are no array, ValueError for shapes that do not fit, labels that are not
    integers
    or out of range, a point with two labels, a zero or non-finite point, a width below 1, an unknown dtype or
    method, and points that this method cannot tell apart at this width and dtype.
    """
    labels, r = _checked(points, labels, width, num_classes, dtype, method)
    xp, k, d, dtype = backend.xp_of(points), int(width), points.shape[1], numpy.dtype(dtype)
    first = _first_rows(points, dtype)
    conflicts = numpy.flatnonzero(labels != labels[first])
    if conflicts.size:
        a, b = first[conflicts[0]], conflicts[0]
        raise ValueError(f"rows {a} and {b} are equal but have the labels {labels[a]} and {labels[b]}: "
                         f"no function gives both, so drop one of them")
    rows = numpy.flatnonzero(first == numpy.arange(len(first)))  # of the distinct points

    projection_rng, surrogate_rng = numpy.random.default_rng(seed).spawn(2)
    projection = xp.asarray((projection_rng.standard_normal((d, k)) / math.sqrt(k)).astype(dtype))
    z = _project(points, projection)[xp.asarray(rows)]
    norms = xp.linalg.norm(z, axis=1)
    smallest, largest = float(norms.min()), float(norms.max())
    if not 1e-30 < smallest <= largest < 1e30:
        raise ValueError(f"points: norms from {smallest:.1e} to {largest:.1e} after the projection, expected "
                         f"1e-30 to 1e30: scale the points")
    surrogates = _surrogate_labels(r, k, surrogate_rng)
    output, gain = _output_block(surrogates, dtype, xp)
    surrogates = xp.asarray(surrogates)
    if method == "sorted":
        # smallest norm 2; a power of 2 changes no digit
        scale = 2.0 ** math.ceil(1 - math.log2(smallest))
        projection, z, norms = projection * dtype.type(scale), z * scale, norms * scale
        order = xp.argsort(-norms)
        rows, z, norms = rows[backend.to_numpy(order)], z[order], norms[order]
        units = z / norms[:, None]
        others = xp.maximum(_largest_later_products(units, z), (units @ surrogates.T).max(axis=1))
        thresholds = (norms + others) / 2
    else:
        units, thresholds = z, xp.full(len(z), 1 - 2 * _lemma_b1(z, surrogates))
    targets = surrogates[xp.asarray(labels[rows])]
    # Rounding in a sum grows like the root of its length; of that in z, only the part along a unit counts.
    rounding = (math.sqrt(k) + math.sqrt(d / k) / 2) * float(numpy.finfo(dtype).eps) / 2
    blocks = _moving_blocks(z, units, thresholds, targets, rows, k, gain, rounding, dtype)
    return MemorizingNetwork(projection, blocks, output)


def _checked(points: Array, labels: Array | Sequence[int], width: int, num_classes: int | None,
             dtype: numpy.dtype, method: str) -> tuple[numpy.ndarray, int]:
    """The labels as a NumPy array and the number of classes, after the checks that do not read the points."""
    backend.xp_of(points)
    if points.ndim != 2 or points.size == 0 or points.dtype.kind not in "biuf":
        raise ValueError(f"points: expected real numbers (n, d) with n, d >= 1, got {points.dtype} of shape "
                         f"{points.shape}; flatten images with points.reshape(len(points), -1)")
    labels = backend.to_numpy(labels) if backend.is_array(labels) else numpy.asarray(labels)
    if labels.shape != points.shape[:1] or labels.dtype.kind not in "iu":
        raise ValueError(f"labels: expected integers of shape {points.shape[:1]}, one per point, got "
                         f"{labels.dtype} of shape {labels.shape}")
    num_classes = max(int(labels.max()) + 1, 1) if num_classes is None else num_classes
    for name, value in (("width", width), ("num_classes", num_classes)):
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} {value!r}: expected an integer >= 1")
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels go from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1} "
                         f"for {num_classes} classes")
    if numpy.dtype(dtype) not in (numpy.float32, numpy.float64):
        raise ValueError(f"dtype {dtype!r}: expected float32 or float64")
    if method not in ("sorted", "paper"):
        raise ValueError(f"method {method!r}: expected 'sorted' or 'paper'")
    return labels, int(num_classes)


def _batches(points: Array, dtype: numpy.dtype) -> Iterator[tuple[int, Array]]:
    """The points in batches of that dtype, each with the row at which it starts."""
    for start in range(0, len(points), BATCH):
        yield start, points[start:start + BATCH].astype(dtype, copy=False)


def _first_rows(points: Array, dtype: numpy.dtype) -> numpy.ndarray:
    """For each point the row of the first one equal to it, mostly its own: (n,), on the CPU.

    Raises ValueError for a point that is zero or not finite.
    """
    xp = backend.xp_of(points)
    weights = xp.asarray(numpy.random.default_rng(0).standard_normal(points.shape[1]))
    keys = []
    for start, x in _batches(points, dtype):
        finite, nonzero = xp.isfinite(x).all(axis=1), x.any(axis=1)
        if not finite.all():
            row = start + int(finite.argmin())
            raise ValueError(f"points: row {row} is not finite in {dtype}: repair or drop it")
        if not nonzero.all():
            row = start + int(nonzero.argmin())
            raise ValueError(f"points: row {row} is zero, which no unit can single out: drop it, or add a "
                             f"column of ones to all points")
        keys.append(backend.to_numpy((x * weights).sum(axis=1)))
    _, first, inverse = numpy.unique(numpy.concatenate(keys), return_index=True, return_inverse=True)
    first = first[inverse]
    repeated = numpy.flatnonzero(first != numpy.arange(len(first)))
    a, b = (points[xp.asarray(index)].astype(dtype) for index in (repeated, first[repeated]))
    different = repeated[~backend.to_numpy((a == b).all(axis=1))]  # for equal keys are not quite a proof
    first[different] = different
    return first


def _project(points: Array, projection: Array) -> Array:
    """points @ projection, (n, k), rounded as in the network and then taken to float64."""
    parts = [x @ projection for _, x in _batches(points, projection.dtype)]
    return backend.xp_of(points).concatenate(parts).astype("float64")


def _surrogate_labels(r: int, k: int, rng: numpy.random.Generator) -> numpy.ndarray:
    """A unit vector q_j for each class, (r, k): orthonormal where k >= r, else random."""
    vectors = rng.standard_normal((k, r))
    vectors = numpy.linalg.qr(vectors)[0] if k >= r else vectors / numpy.linalg.norm(vectors, axis=0)
    return numpy.ascontiguousarray(vectors.T)


def _output_block(surrogates: numpy.ndarray, dtype: numpy.dtype,
                  xp: ModuleType) -> tuple[OutputBlock, float]:
    """The block that takes each surrogate label q_j to e_j, and by how much it can enlarge an error.

    Unit j has weights q_j and a threshold t_j midway between ||q_j||^2 and the next largest <q_j, q_i>, so
    that it answers to q_j alone, and its column of B is (e_j - P q_j) / (||q_j||^2 - t_j).
    """
    r, k = surrogates.shape
    products = surrogates @ surrogates.T
    own = products.diagonal().copy()
    numpy.fill_diagonal(products, -1)
    margins = (own - products.max(axis=1)) / 2
    if margins.min() < 10 * k * numpy.finfo(dtype).eps:
        raise ValueError(f"width {k} holds no {r} surrogate labels that {dtype} can tell apart (smallest "
                         f"margin {margins.min():.1e}): use a larger width, at best {r} or more, or another "
                         "seed")
    B = (numpy.eye(r) - surrogates @ numpy.eye(k, r)) / margins[:, None]
    block = OutputBlock(*(xp.asarray(array.astype(dtype)) for array in (surrogates.T, margins - own, B)))
    return block, 1 + float(numpy.linalg.norm(B, axis=1).max())


def _largest_later_products(a: Array, b: Array) -> Array:
    """For each i the largest <a_i, b_j> with j > i: (n,) from two (n, k); -inf for the last i.

    In tiles, because the n x n matrix of inner products need not fit in memory.
    """
    xp, n = backend.xp_of(a), len(a)
    largest = xp.empty(n)
    for top in range(0, n, TILE[0]):
        rows = a[top:top + TILE[0]]
        bottom = top + len(rows)
        not_later = xp.tri(len(rows), dtype=bool)
        best = xp.where(not_later, -math.inf, rows @ b[top:bottom].T).max(axis=1)
        for left in range(bottom, n, TILE[1]):
            best = xp.maximum(best, (rows @ b[left:left + TILE[1]].T).max(axis=1))
        largest[top:bottom] = best
    return largest


def _lemma_b1(z: Array, surrogates: Array) -> float:
    """rho' for Lemma B.1, corrected: squared distances are 6 rho' or more, squared norms within 1 +- rho'.

    z: (n, k) projected points, surrogates: (r, k). Raises ValueError with the figures if no rho' will do.
    """
    xp = backend.xp_of(z)
    w = xp.concatenate([z, surrogates])
    squares = (w * w).sum(axis=1)
    half, ones = -squares[:, None] / 2, xp.ones((len(w), 1))
    # <a, b> - ||a||^2 / 2 - ||b||^2 / 2 = -||a - b||^2 / 2, as the inner product of lengthened vectors
    products = _largest_later_products(xp.hstack([w, half, ones]), xp.hstack([w, ones, half]))
    separation = -2 * float(products.max())
    rho, smallest, largest = separation / 6, float(squares.min()), float(squares.max())
    if not (rho > 0 and 1 - rho <= smallest and largest <= 1 + rho):
        inner = float(_largest_later_products(w, w).max())
        raise ValueError(
            f"Lemma B.1 does not apply at width {z.shape[1]}: the smallest squared distance after "
            f"projection, {separation:.3g}, gives rho' = {rho:.3g}, but squared norms go from {smallest:.3g} "
            f"to {largest:.3g}, not 1 +- rho' (largest inner product {inner:.3g}, smallest norm "
            f"{math.sqrt(smallest):.3g}). Use points divided by their norms, a larger width, or method "
            "'sorted'")
    return rho


def _moving_blocks(z: Array, units: Array, thresholds: Array, targets: Array, rows: numpy.ndarray, k: int,
                   gain: float, rounding: float, dtype: numpy.dtype) -> list[MovingBlock]:
    """The blocks that take z to targets, k points each in the given order.

    z, units, targets: (n, k). thresholds: (n,). rows: (n,), the points' numbers, for an error message. gain:
    how much the output block enlarges an error. rounding: of an inner product with a unit, relative to the
    norms of both. Raises ValueError if rounding could change a score by more than LARGEST_ERROR.
    """
    xp, blocks = backend.xp_of(z), []
    for start in range(0, len(z), k):
        own = slice(start, start + k)
        h, u, t = z[own], units[own], thresholds[own]
        G = xp.maximum(h @ u.T - t, 0)  # row i: what the units answer to point i
        noise = rounding * xp.linalg.norm(h, axis=1) * xp.linalg.norm(u, axis=1)
        margins = G.diagonal() / noise
        error = math.inf
        if float(margins.min()) > 1:
            moves = xp.linalg.solve(G, targets[own] - h)
            error = gain * float(noise.max() * xp.linalg.norm(moves))
        if not error <= LARGEST_ERROR:
            raise ValueError(
                f"points: row {rows[start + int(margins.argmin())]} is too close to another one, projected "
                f"to width {k}: rounding in {dtype} could change a score by {error:.1e}, allowed is "
                f"{LARGEST_ERROR}. Use float64, a larger width, another seed, or points minus their mean, "
                f"divided by their norms")
        U, s, V = xp.zeros((k, k), dtype), xp.zeros(k, dtype), xp.zeros((k, k), dtype)
        U[:, :len(h)], s[:len(h)], V[:len(h)] = u.T, -t, moves  # units left at zero never answer
        blocks.append(MovingBlock(U, s, V))
    return blocks
