"""A residual ReLU network that fits any labels on any finite sample, built without training (section 3).

A random projection A_0 takes every point to k numbers, h. Then follow blocks h + V relu(U h + s) with k
hidden units, one for each of k points: the unit answers to its own point, and its column of V moves that
point to the surrogate label of its class, a unit vector. To all other points the block adds exactly zero.
After ceil(n / k) blocks every point lies on a surrogate label, which a last block turns into scores.

    network = fit(points, labels, width=16)
    scores = network(points)  # (n, r): row i is 1 at labels[i] and 0 elsewhere

Shape letters as in the paper: n points of d numbers in r classes, k the width; a point is a row. This is
memory, not learning: the theorem promises nothing about other points. Claims beside measurements:
python -m tinyres.theory.expressivity_report
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import numpy

from .. import backend
from ..backend import Array
from .factorization import checked_integer
from .memorizing_network import MemorizingNetwork, MovingBlock, OutputBlock, batches

__all__ = ["MemorizingNetwork", "MovingBlock", "first_rows", "fit"]

ROWS = 64  # of the n x n matrix of inner products that exist at a time
LARGEST_ERROR = 0.5  # estimated error of a score above which `fit` refuses: enough for a wrong label


def fit(points: Array, labels: Array | Sequence[int], width: int, num_classes: int | None = None,
        seed: int = 0, dtype: numpy.dtype = numpy.float64, method: str = "sorted") -> MemorizingNetwork:
    """Build a network that gives every point its label (paper, Theorem 3.2).

    points: (n, d) real numbers, NumPy or CuPy; the network lives in the same library.
    labels: (n,) integers from 0 to r - 1. width: k. num_classes: r, by default the largest label + 1.
    seed: of A_0 and of the surrogate labels, which are drawn from separate random streams.
    dtype: of the network, float64 or float32. The weights are always computed in float64.
    method: how a unit is kept silent on all points but its own.
        "sorted", our construction, works for all distinct points, in practice from a width of about 8 in
        float32 and less in float64. Points are moved in the order of falling norm, and surrogate labels have
        at most half the smallest norm. By Cauchy-Schwarz, a unit in the direction of its point answers less
        to all later points and to all that have been moved already, so its threshold can lie between. It may
        answer to earlier points of its own block: all the answers of a block form a triangular matrix G, and
        solving V G = moves takes them into account.
        "paper", Lemma B.1: the points are the rows of U, and all units have the threshold 1 - 2 rho'. It
        needs points of norm 1 (Assumption 3.1) and a width at which the projection keeps norms and distances.
    Equal points with equal labels count once: n above is the number of distinct points.

    What the paper prints, and why this differs:
    * Lemma B.1 asks for distances of 3 rho'. A unit is silent on z_j if <z_i, z_j> <= 1 - 2 rho', which with
      squared norms of up to 1 + rho' takes *squared* distances of 6 rho'. Counterexample: rho' = 0.1, squared
      norms 1.1, squared distance 0.3. The inner product is 0.95, the threshold 0.8: the wrong unit answers
      0.15.
    * A_0 is printed without the factor 1 / sqrt(k), and then multiplies norms by about sqrt(k).
    * k > 4 log r does not make random unit vectors nearly uncorrelated: at r = 100 the largest inner product
      is then 0.76; it falls below 1/2 only from about 15 log r on. Here surrogate labels are orthonormal
      where k >= r. Where k < r they are random, and the output block's own thresholds only need them to be
      distinct.

    It takes about n^2 k floating-point operations, and memory for the points and the network.
    Raises TypeError if points is not an array; ValueError for shapes that do not fit, labels that are not
    integers or out of range, a point with two labels, a zero or non-finite point, a width below 1, an unknown
    dtype or method, and points that this method cannot tell apart at this width and dtype.
    """
    labels, r = _checked(points, labels, width, num_classes, dtype, method)
    construction = Construction(points, labels, int(width), r, seed, numpy.dtype(dtype))
    construction.drop_repeated_points()
    construction.project()
    construction.draw_surrogate_labels()
    output = construction.output_block()
    if method == "sorted":
        construction.sort()
        construction.set_thresholds()
    else:
        construction.set_thresholds_of_lemma_b1()
    blocks = construction.moving_blocks()
    return MemorizingNetwork(construction.projection, blocks, output)


class Construction:
    """The steps of Theorem 3.2's proof, which `fit` takes in order; each sets attributes that later ones use.

    Of the n distinct points, in the order in which blocks move them: rows (n,), their rows in `points`;
    z (n, k), the projected points; norms (n,) of z; units (n, k) and thresholds (n,), one unit a point. Also
    projection (d, k), in the network's dtype; surrogates (r, k); gain, by how much the output block can
    enlarge an error. Labels and rows stay on the CPU; the other arrays are float64, in the library of points.
    """

    def __init__(self, points: Array, labels: numpy.ndarray, k: int, r: int, seed: int,
                 dtype: numpy.dtype) -> None:
        self.points, self.labels, self.k, self.r, self.dtype = points, labels, k, r, dtype
        self.xp, self.streams = backend.xp_of(points), numpy.random.default_rng(seed).spawn(2)

    def drop_repeated_points(self) -> None:
        """Keep the first of equal points. Raises ValueError if two of them have different labels."""
        labels, first = self.labels, first_rows(self.points, self.dtype)
        conflicts = numpy.flatnonzero(labels != labels[first])
        if conflicts.size:
            a, b = first[conflicts[0]], conflicts[0]
            raise ValueError(f"rows {a} and {b} are equal but have the labels {labels[a]} and {labels[b]}: "
                             f"no function gives both, so drop one of them")
        self.rows = numpy.flatnonzero(first == numpy.arange(len(first)))

    def project(self) -> None:
        """z = A_0 x, rounded as in the network. Raises ValueError if norms are far too small or large."""
        d = self.points.shape[1]
        projection = self.streams[0].standard_normal((d, self.k)) / math.sqrt(self.k)
        self.projection = self.xp.asarray(projection.astype(self.dtype))
        z = self.xp.concatenate([x @ self.projection for _, x in batches(self.points, self.dtype)])
        self.z = z.astype("float64")[self.xp.asarray(self.rows)]
        self.norms = self.xp.linalg.norm(self.z, axis=1)
        smallest, largest = float(self.norms.min()), float(self.norms.max())
        if not 1e-30 < smallest <= largest < 1e30:
            raise ValueError(f"points: norms from {smallest:.1e} to {largest:.1e} after the projection, "
                             f"expected 1e-30 to 1e30: scale the points")

    def draw_surrogate_labels(self) -> None:
        """A unit vector q_j for each class: orthonormal where k >= r, else random."""
        q = self.streams[1].standard_normal((self.k, self.r))
        q = numpy.linalg.qr(q)[0] if self.k >= self.r else q / numpy.linalg.norm(q, axis=0)
        self.surrogates = self.xp.asarray(numpy.ascontiguousarray(q.T))

    def output_block(self) -> OutputBlock:
        """The block that takes each surrogate label q_j to e_j. Raises ValueError if two are too close.

        Unit j has weights q_j and a threshold t_j midway between ||q_j||^2 and the next largest <q_j, q_i>,
        so that it answers to q_j alone, and its column of B is (e_j - P q_j) / (||q_j||^2 - t_j).
        """
        q = backend.to_numpy(self.surrogates)
        products = q @ q.T
        own = products.diagonal().copy()
        numpy.fill_diagonal(products, -1)
        margins = (own - products.max(axis=1)) / 2
        if margins.min() < 10 * self.k * numpy.finfo(self.dtype).eps:
            raise ValueError(f"width {self.k} holds no {self.r} surrogate labels that {self.dtype} can tell "
                             f"apart (smallest margin {margins.min():.1e}): use a larger width, at best "
                             f"{self.r} or more, or another seed")
        B = (numpy.eye(self.r) - q @ numpy.eye(self.k, self.r)) / margins[:, None]
        self.gain = 1 + float(numpy.linalg.norm(B, axis=1).max())
        return OutputBlock(*(self.xp.asarray(array.astype(self.dtype)) for array in (q.T, margins - own, B)))

    def sort(self) -> None:
        """Put the points in the order of falling norm, scaled so that the smallest norm is 2 or more."""
        scale = 2.0 ** math.ceil(1 - math.log2(float(self.norms.min())))  # a power of 2 changes no digit
        self.projection = self.projection * self.dtype.type(scale)
        order = self.xp.argsort(-self.norms)
        self.z, self.norms = self.z[order] * scale, self.norms[order] * scale
        self.rows = self.rows[backend.to_numpy(order)]

    def set_thresholds(self) -> None:
        """Units in the direction of their points, silent on later points and on surrogate labels."""
        self.units = self.z / self.norms[:, None]
        others = self.xp.maximum(_largest_later_products(self.units, self.z),
                                 (self.units @ self.surrogates.T).max(axis=1))
        self.thresholds = (self.norms + others) / 2

    def set_thresholds_of_lemma_b1(self) -> None:
        """The paper's units: the points themselves, all with one threshold. Raises ValueError if it fails."""
        self.units = self.z
        self.thresholds = self.xp.full(len(self.z), 1 - 2 * _lemma_b1(self.z, self.surrogates))

    def moving_blocks(self) -> list[MovingBlock]:
        """The blocks that take every point to its surrogate label, k points each. Raises as `_moves` does."""
        xp, k, dtype, blocks = self.xp, self.k, self.dtype, []
        for start in range(0, len(self.z), k):
            own = slice(start, start + k)
            moves = self._moves(own)
            m = len(moves)  # k, and what is left over for the last block: its other units never answer
            U, s, V = xp.zeros((k, k), dtype), xp.zeros(k, dtype), xp.zeros((k, k), dtype)
            U[:, :m], s[:m], V[:m] = self.units[own].T, -self.thresholds[own], moves
            blocks.append(MovingBlock(U, s, V))
        return blocks

    def _moves(self, own: slice) -> Array:
        """The columns of V for a block's own m points, one a row: (m, k).

        Raises ValueError if rounding in the network could change a score by more than LARGEST_ERROR.
        """
        xp, z, units, rows = self.xp, self.z[own], self.units[own], self.rows[own]
        G = xp.maximum(z @ units.T - self.thresholds[own], 0)  # row i: what the units answer to point i
        # Rounding in a sum grows like the root of its length; in z, only the part along a unit counts.
        roots = math.sqrt(self.k) + math.sqrt(self.points.shape[1] / self.k) / 2
        rounding = roots * float(numpy.finfo(self.dtype).eps) / 2
        noise = rounding * xp.linalg.norm(z, axis=1) * xp.linalg.norm(units, axis=1)
        margins = G.diagonal() / noise
        error = math.inf
        if float(margins.min()) > 1:
            moves = xp.linalg.solve(G, self.surrogates[xp.asarray(self.labels[rows])] - z)
            error = self.gain * float(noise.max() * xp.linalg.norm(moves))
        if not error <= LARGEST_ERROR:
            raise ValueError(
                f"points: row {rows[int(margins.argmin())]} is too close to another one, projected to width "
                f"{self.k}: rounding in {self.dtype} could change a score by {error:.1e}, allowed is "
                f"{LARGEST_ERROR}. Use float64, a larger width, another seed, or points minus their mean, "
                f"divided by their norms")
        return moves


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
    checked_integer("width", width)
    checked_integer("num_classes", num_classes)
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels go from {labels.min()} to {labels.max()}, expected 0 to {num_classes - 1} "
                         f"for {num_classes} classes")
    if numpy.dtype(dtype) not in (numpy.float32, numpy.float64):
        raise ValueError(f"dtype {dtype!r}: expected float32 or float64")
    if method not in ("sorted", "paper"):
        raise ValueError(f"method {method!r}: expected 'sorted' or 'paper'")
    return labels, int(num_classes)


def first_rows(points: Array, dtype: numpy.dtype) -> numpy.ndarray:
    """For each point of (n, d) the row of the first one that equals it in dtype: (n,), on the CPU.

    Raises ValueError for a point that is zero or not finite.
    """
    xp = backend.xp_of(points)
    weights = xp.asarray(numpy.random.default_rng(0).standard_normal(points.shape[1]))
    keys = []
    for start, x in batches(points, dtype):
        for right, fault in ((xp.isfinite(x).all(axis=1), f"not finite in {dtype}: repair or drop it"),
                             (x.any(axis=1), "zero, which no unit can single out: drop it, or add a column "
                                             "of ones to all points")):
            if not right.all():
                raise ValueError(f"points: row {start + int(right.argmin())} is {fault}")
        keys.append(backend.to_numpy((x * weights).sum(axis=1)))
    _, first, inverse = numpy.unique(numpy.concatenate(keys), return_index=True, return_inverse=True)
    first = first[inverse]
    repeated = numpy.flatnonzero(first != numpy.arange(len(first)))
    a, b = (points[xp.asarray(index)].astype(dtype) for index in (repeated, first[repeated]))
    different = repeated[~backend.to_numpy((a == b).all(axis=1))]  # equal keys prove nothing
    first[different] = different
    return first


def _largest_later_products(a: Array, b: Array) -> Array:
    """For each i the largest <a_i, b_j> with j > i: (n,) from two (n, k); -inf for the last i."""
    xp, n = backend.xp_of(a), len(a)
    largest = xp.empty(n)
    for start in range(0, n, ROWS):
        products = a[start:start + ROWS] @ b[start:].T
        square = products[:, :ROWS]
        square[xp.tri(len(square), dtype=bool)] = -math.inf  # not later
        largest[start:start + ROWS] = products.max(axis=1)
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
