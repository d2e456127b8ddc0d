"""Theorem 2.1: every matrix R with det R > 0 is a product of layers near the identity (paper, section 2).

The theorem's proof as a construction, its bound, and a limit that no construction can pass. linear.py goes on
from here, with Theorem 2.2, and says what the letters mean.
"""
from __future__ import annotations

import math
import warnings
from numbers import Integral

import numpy

from .. import backend
from ..backend import Array


def factorize(R: Array, layers: int) -> list[Array]:
    """A_1, ..., A_l, each (d, d), with (I + A_l) ... (I + A_1) = R and norms of O(1/l) (paper, Theorem 2.1).

    R: (d, d) with det R > 0. layers: l >= 1.

    R = Q P with P symmetric positive definite and Q a rotation. The first p layers are P^(1/p). The other q
    are Q^(1/q), which turns each plane of Q by a q-th of its angle. p and q, with p + q = l, are those that
    make |||A||| smallest.

    What the paper prints, and why this differs:
    * It does not ask for det R > 0. But |||A||| < 1 makes every det(I + A_i) positive, and so their product:
      a reflection such as diag(-1, 1) has no factorization with |||A||| < 1, at any depth.
    * It splits R = U K V^T and gives each factor a fixed fraction of the layers. These fractions are rarely
      integers, and rounding them can break the bound; and LAPACK's U and V often contain reflections.

    Raises ValueError unless R is square, finite and invertible with det R > 0, and layers is an integer >= 1.
    Warns if layers < 3 gamma, where `norm_bound` is not promised; the product is R all the same.
    """
    R, layers = checked_matrix("R", R), checked_integer("layers", layers)
    Q, V, log_stretch = _polar(R)
    _gamma(log_stretch, layers)
    xp = backend.xp_of(R)
    if layers == 1:
        return [R - xp.eye(len(R), dtype=R.dtype)]
    a, b, angles = _rotation_planes(Q)
    rounding = 10 * len(R) * float(numpy.finfo("float64").eps)
    stretches = float(abs(log_stretch).max()) > rounding
    turns = float(largest_norm(R - (V * xp.exp(log_stretch)) @ V.T)) > rounding * float(largest_norm(R))
    p = _best_split(backend.to_numpy(log_stretch) * stretches, backend.to_numpy(angles) * turns, layers)
    A = []
    if p > 0:
        A += [(V * xp.expm1(log_stretch / p)) @ V.T] * p
    if p < layers:
        angles = angles / (layers - p)
        sine, cosine_minus_1 = xp.sin(angles), -2 * xp.sin(angles / 2) ** 2  # so that no digits cancel
        A += [(a * cosine_minus_1 + b * sine) @ a.T + (b * cosine_minus_1 - a * sine) @ b.T] * (layers - p)
    return [layer.astype(R.dtype) for layer in A]  # copies, so that no two layers share memory


def norm_bound(R: Array, layers: int) -> float:
    """2 (sqrt(pi) + sqrt(3 gamma))^2 / l: some factorization of R stays within it (paper, Theorem 2.1).

    gamma = max(|log s_max(R)|, |log s_min(R)|), from the singular values. Promised for layers >= 3 gamma and
    det R > 0; the paper leaves out the second condition. Raises and warns as `factorize` does.
    """
    layers = checked_integer("layers", layers)
    gamma = _gamma(_polar(checked_matrix("R", R))[2], layers)
    return 2 * (math.sqrt(math.pi) + math.sqrt(3 * gamma)) ** 2 / layers


def norm_lower_limit(R: Array, layers: int) -> float:
    """max(s_max(R)^(1/l) - 1, 1 - s_min(R)^(1/l)): no factorization of R has a smaller |||A|||.

    Not in the paper. A layer changes the length of a vector by a factor from 1 - |||A||| to 1 + |||A|||, and
    all layers together change some vectors by s_max(R) and some by s_min(R). `factorize` reaches the limit
    where R is symmetric positive definite. For a rotation the limit is 0, which no depth reaches. Raises as
    `factorize` does.
    """
    layers = checked_integer("layers", layers)
    logarithms = _polar(checked_matrix("R", R))[2] / layers
    return max(math.expm1(float(logarithms.max())), -math.expm1(float(logarithms.min())))


def _polar(R: Array) -> tuple[Array, Array, Array]:
    """R = Q V diag(e^s) V^T with a rotation Q: Q, V (d, d) and s (d,) in float64. Raises ValueError."""
    xp = backend.xp_of(R)
    U, stretch, V_transposed = xp.linalg.svd(R.astype("float64"))
    largest, smallest = float(stretch[0]), float(stretch[-1])
    if smallest <= len(R) * float(numpy.finfo(R.dtype).eps) * largest:
        raise ValueError(f"R is singular (singular values from {smallest:.1e} to {largest:.1e}), but layers "
                         "near the identity have an invertible product: add a small multiple of the identity")
    Q = U @ V_transposed
    if float(xp.linalg.slogdet(Q)[0]) < 0:
        raise ValueError("det R < 0: R contains a reflection, but |||A||| < 1 makes all det(I + A_i) > 0, "
                         "and so that of their product, at any depth: change the sign of one row of R")
    return Q, V_transposed.T, xp.log(stretch)


def _gamma(log_stretch: Array, layers: int) -> float:
    """gamma of Theorem 2.1. Warns, at the line that called its caller, if layers < 3 gamma."""
    gamma = float(abs(log_stretch).max())
    if layers < 3 * gamma:
        warnings.warn(f"{layers} layers are fewer than 3 gamma = {3 * gamma:.1f}: the bound of Theorem 2.1 "
                      f"is not promised; take {math.ceil(3 * gamma)} layers or more", stacklevel=3)
    return gamma


def _best_split(log_stretch: numpy.ndarray, angles: numpy.ndarray, layers: int) -> int:
    """How many layers should stretch, leaving the others to turn, for the smallest |||A|||."""
    counts = numpy.arange(1, layers + 1)[:, None]
    norms = []  # of stretching and of turning, when 0, 1, ..., l layers share the work
    for work, norm in ((log_stretch, numpy.expm1), (angles, lambda angle: 2 * numpy.sin(angle / 2))):
        without_layers = math.inf if work.any() else 0.0
        norms.append([without_layers, *abs(norm(work / counts)).max(axis=1, initial=0)])
    return int(numpy.maximum(norms[0], norms[1][::-1]).argmin())


def _rotation_planes(Q: Array) -> tuple[Array, Array, Array]:
    """The planes that a rotation Q (d, d) turns: orthonormal a, b (d, planes), angles (planes,) in [-pi, pi].

    Q a = a cos + b sin and Q b = b cos - a sin; vectors orthogonal to all planes stay. This is the real Schur
    form of Q, which NumPy and CuPy do not offer.
    """
    xp = backend.xp_of(Q)
    cosines, basis = xp.linalg.eigh((Q + Q.T) / 2)
    # Part angles near 0 from angles near pi at the widest gap around pi / 2, where the cut is accurate.
    middle = backend.to_numpy(cosines)
    middle = numpy.concatenate([[-0.5], middle[abs(middle) < 0.5], [0.5]])
    gap = int(numpy.diff(middle).argmax())
    cut = int((cosines < float(middle[gap:gap + 2].mean())).sum())
    parts = []
    for half, sign, shift in ((basis[:, :cut], -1, math.pi), (basis[:, cut:], 1, 0.0)):
        if half.shape[1]:
            turn, identity = sign * half.T @ Q @ half, xp.eye(half.shape[1])  # -Q turns by angle + pi
            # The Cayley transform is antisymmetric and keeps the planes; an angle becomes tan(angle / 2).
            a, b, tangents = _antisymmetric_planes(xp.linalg.solve(identity + turn, turn - identity))
            parts.append((half @ a, half @ b, 2 * xp.arctan(tangents) - shift))
    return tuple(xp.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))


def _antisymmetric_planes(X: Array) -> tuple[Array, Array, Array]:
    """Orthonormal a, b (m, m // 2) and t >= 0 (m // 2,) with X a = b t, X b = -a t, for X (m, m) = -X^T."""
    xp = backend.xp_of(X)
    rest = xp.eye(len(X))  # a basis of all that is not yet in a plane
    parts = [(rest[:, :0], rest[:, :0], xp.zeros(0))]
    while rest.shape[1] > 1:
        block = rest.T @ X @ rest
        # i X is Hermitian, with pairs of eigenvalues t, -t and their vectors (a + i b, a - i b) / sqrt(2).
        t, v = xp.linalg.eigh(0.5j * (block - block.T))
        if float(t[-1]) < 1e-15:  # nothing turns here, and any planes will do
            half = rest.shape[1] // 2
            parts.append((rest[:, :half], rest[:, half:2 * half], xp.zeros(half)))
            break
        # Near t = 0 the two vectors of a pair mix, so these pairs wait for a finer round.
        large = t > 0.1 * t[-1]
        a, b = math.sqrt(2) * v[:, large].real, math.sqrt(2) * v[:, large].imag
        parts.append((rest @ a, rest @ b, t[large]))
        rest = rest @ xp.linalg.qr(xp.hstack([a, b]), mode="complete")[0][:, 2 * a.shape[1]:]
    return tuple(xp.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))


def largest_norm(A: Array) -> Array:
    """The spectral norm of a matrix (d, d), or the largest of a stack (l, d, d): a scalar (0-d array)."""
    return backend.xp_of(A).linalg.svd(A, compute_uv=False).max()


def checked_matrix(name: str, M: Array) -> Array:
    """M in float64 unless it is float32. Raises ValueError unless it is square, real and finite."""
    xp = backend.xp_of(M)
    if M.ndim != 2 or M.shape[0] != M.shape[1] or M.size == 0 or M.dtype.kind not in "biuf":
        raise ValueError(f"{name} is {M.dtype} of shape {M.shape}: expected real numbers of shape (d, d)")
    if not bool(xp.isfinite(M).all()):
        raise ValueError(f"{name} has an entry that is not finite: drop or repair it")
    return M if M.dtype == numpy.float32 else M.astype("float64", copy=False)


def checked_integer(name: str, value: int, least: int = 1) -> int:
    """The value as an int. Raises ValueError unless it is an integer from `least` on."""
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} {value!r}: expected an integer >= {least}")
    return int(value)
