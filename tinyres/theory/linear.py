"""Deep linear residual networks (paper, section 2): small weights suffice, and none of them is a trap.

The network y^ = (I + A_l) ... (I + A_1) x learns y = R x + noise, where x has the covariance Sigma. It can
express no more than one layer can, but its risk is not convex: the simplest model of what depth does.

* Theorem 2.1: weights of norm O(1/l) express R: `factorize`, `norm_bound`, `norm_lower_limit`.
* Theorem 2.2: where all norms are below 1, every critical point of the risk is a global optimum: `gradient`,
  `pl_bound`. In the standard parameterization A_l ... A_1, zero is a critical point and no optimum.
* What gradient descent makes of it, where it works and where it fails: `descend`.

l is the number of layers, d the size of each, |||A||| = max_i ||A_i|| the largest spectral norm of a layer.
Weights A are l arrays (d, d), a list or one array (l, d, d), in the order in which the layers are applied.
All take NumPy or CuPy arrays and compute with the same library, in float64 unless given float32.
What it says, beside what is measured: python -m tinyres.theory.linear_report
"""
from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from numbers import Integral, Real

import numpy

from .. import backend
from ..backend import Array

__all__ = ["compose", "descend", "factorize", "gradient", "norm_bound", "norm_lower_limit", "pl_bound",
           "population_risk"]

History = dict[str, numpy.ndarray]  # what `descend` returns


# Theorem 2.1: R as a product of layers near the identity


def factorize(R: Array, layers: int) -> list[Array]:
    """A_1, ..., A_l, each (d, d), with (I + A_l) ... (I + A_1) = R and norms of O(1/l) (paper, Theorem 2.1).

    R: (d, d) with det R > 0. layers: l >= 1.

    R = Q P with P symmetric positive definite and Q a rotation. The first p layers are P^(1/p). The other q
    are Q^(1/q), which turns each plane of Q by a q-th of its angle. p + q = l are chosen for the smallest
    |||A|||.

    What the paper prints, and why this differs:
    * It asks for no sign of det R. But |||A||| < 1 makes every det(I + A_i) positive, and so their product: a
      reflection such as diag(-1, 1) has no factorization with |||A||| < 1, at any depth.
    * It takes R = U K V^T apart and gives the factors fixed fractions of the layers, which in general are
      no integers and can break the bound when rounded, and the U and V of LAPACK often contain reflections.

    Raises ValueError unless R is square, finite and invertible with det R > 0, and layers is an integer >= 1.
    Warns if layers < 3 gamma, where `norm_bound` is not promised; the product is R all the same.
    """
    R, layers = _matrix("R", R), _number_of_layers(layers)
    Q, V, log_stretch = _polar(R)
    _gamma(log_stretch, layers)
    xp = backend.xp_of(R)
    if layers == 1:
        return [R - xp.eye(len(R), dtype=R.dtype)]
    a, b, angles = _rotation_planes(Q)
    rounding = 10 * len(R) * float(numpy.finfo("float64").eps)
    stretches = float(abs(log_stretch).max()) > rounding
    turns = float(_norm(R - (V * xp.exp(log_stretch)) @ V.T)) > rounding * float(_norm(R))
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
    det R > 0, for which the paper does not ask. Raises and warns as `factorize` does.
    """
    layers = _number_of_layers(layers)
    gamma = _gamma(_polar(_matrix("R", R))[2], layers)
    return 2 * (math.sqrt(math.pi) + math.sqrt(3 * gamma)) ** 2 / layers


def norm_lower_limit(R: Array, layers: int) -> float:
    """max(s_max(R)^(1/l) - 1, 1 - s_min(R)^(1/l)): no factorization of R has a smaller |||A|||.

    Not in the paper. A layer changes the length of a vector by a factor from 1 - |||A||| to 1 + |||A|||, and
    some vectors have to change by s_max(R) and s_min(R) in all. `factorize` reaches it where R is symmetric
    positive definite. It does not see rotations, for which it is 0. Raises as `factorize` does.
    """
    layers = _number_of_layers(layers)
    logarithms = _polar(_matrix("R", R))[2] / layers
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
    """gamma of Theorem 2.1. Warns, in the name of its caller's caller, if layers < 3 gamma."""
    gamma = float(abs(log_stretch).max())
    if layers < 3 * gamma:
        warnings.warn(f"{layers} layers are fewer than 3 gamma = {3 * gamma:.1f}: the bound of Theorem 2.1 "
                      f"is not promised; take {math.ceil(3 * gamma)} layers or more", stacklevel=3)
    return gamma


def _best_split(log_stretch: numpy.ndarray, angles: numpy.ndarray, layers: int) -> int:
    """How many layers should stretch, while the others turn, for the smallest |||A|||."""
    counts = numpy.arange(1, layers + 1)[:, None]
    norms = []  # of stretching and of turning, when 0, 1, ..., l layers share the work
    for work, norm in ((log_stretch, numpy.expm1), (angles, lambda angle: 2 * numpy.sin(angle / 2))):
        without_layers = math.inf if work.any() else 0.0
        norms.append([without_layers, *abs(norm(work / counts)).max(axis=1, initial=0)])
    return int(numpy.maximum(norms[0], norms[1][::-1]).argmin())


def _rotation_planes(Q: Array) -> tuple[Array, Array, Array]:
    """The planes that a rotation Q (d, d) turns: orthonormal a, b (d, planes), angles (planes,) in [-pi, pi].

    Q a = a cos + b sin and Q b = b cos - a sin; what is in no plane stays. This is the real Schur form of Q,
    which NumPy and CuPy do not have.
    """
    xp = backend.xp_of(Q)
    cosines, basis = xp.linalg.eigh((Q + Q.T) / 2)
    # Angles near 0 and angles near pi go apart, at the widest gap around pi / 2 so that the cut is accurate.
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
    rest = xp.eye(len(X))  # a basis of what is not in a plane yet
    parts = [(rest[:, :0], rest[:, :0], xp.zeros(0))]
    while rest.shape[1] > 1:
        block = rest.T @ X @ rest
        # i X is Hermitian, with pairs of eigenvalues t, -t and their vectors (a + i b, a - i b) / sqrt(2).
        t, v = xp.linalg.eigh(0.5j * (block - block.T))
        if float(t[-1]) < 1e-15:  # nothing turns here, and any planes will do
            half = rest.shape[1] // 2
            parts.append((rest[:, :half], rest[:, half:2 * half], xp.zeros(half)))
            break
        # Near t = 0 the two vectors of a pair mix, so that these have to wait for a finer round.
        large = t > 0.1 * t[-1]
        a, b = math.sqrt(2) * v[:, large].real, math.sqrt(2) * v[:, large].imag
        parts.append((rest @ a, rest @ b, t[large]))
        rest = rest @ xp.linalg.qr(xp.hstack([a, b]), mode="complete")[0][:, 2 * a.shape[1]:]
    return tuple(xp.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))


# Theorem 2.2: the risk, its gradient, and why no critical point near the identity is bad


def compose(A: Sequence[Array]) -> Array:
    """(I + A_l) ... (I + A_1): (d, d). Raises ValueError unless A is one or more finite (d, d) arrays."""
    return _products(_stack(A))[-1]


def population_risk(A: Sequence[Array], R: Array, Sigma: Array | None = None) -> float:
    """||((I + A_l) ... (I + A_1) - R) Sigma^(1/2)||_F^2 (paper, Claim 2.3, less its constant E||noise||^2).

    A: l arrays (d, d). R: (d, d). Sigma: covariance of x, (d, d), by default I.
    Raises ValueError for shapes that do not fit, and for a Sigma that is not symmetric positive semidefinite.
    """
    A, R, Sigma = _problem(A, R, Sigma)
    return float(_risk(_products(A)[-1] - R, Sigma))


def gradient(A: Sequence[Array], R: Array, Sigma: Array | None = None) -> list[Array]:
    """The gradient of `population_risk` by A_1, ..., A_l (paper, Lemma 2.4, corrected): l arrays (d, d).

        df/dA_i = 2 (I + A_{i+1})^T ... (I + A_l)^T  E Sigma  (I + A_1)^T ... (I + A_{i-1})^T
        with E = (I + A_l) ... (I + A_1) - R

    The paper prints the factors on either side of E Sigma in the reversed order, which finite differences
    refute wherever the layers do not commute. Raises as `population_risk` does.
    """
    A, R, Sigma = _problem(A, R, Sigma)
    return list(_gradients(A, _products(A), R, Sigma))


def pl_bound(A: Sequence[Array], R: Array, tau: float, Sigma: Array | None = None) -> float:
    """4 l (1 - tau)^(2 (l - 1)) s_min(Sigma) f, where f is `population_risk` (paper, Theorem 2.2, corrected).

    Where |||A||| <= tau < 1 it is at most ||grad f||_F^2, summed over all layers: a Polyak-Lojasiewicz (PL)
    inequality. Without a gradient there is no risk, so for an invertible Sigma every critical point is a
    global optimum. Proof: I + A_i^T shrinks nothing by more than 1 - tau, so each layer's gradient has
    at least the norm 2 (1 - tau)^(l - 1) ||E Sigma||_F, and ||E Sigma||_F^2 >= s_min(Sigma) f. It is tight at
    A_i = -tau I, for R and Sigma that are multiples of I.

    The paper prints (1 - tau)^(l - 1) and s_min(Sigma)^2, which is false. Counterexamples for d = 1: l = 3,
    A_i = -1/2, R = Sigma = 1 has the squared gradient norm 0.574 and the printed bound 2.297; l = 1, A = 0,
    R = 2, Sigma = 4 has 64 and 256. The corrected bound is 0.574 and 64.

    Raises ValueError unless |||A||| <= tau and 0 <= tau < 1, and as `population_risk` does.
    """
    if not isinstance(tau, Real) or not 0 <= tau < 1:
        raise ValueError(f"tau {tau!r}: expected a number from 0 to below 1, the largest |||A||| allowed")
    A, R, Sigma = _problem(A, R, Sigma)
    norm = float(_norm(A))
    if norm > tau + 10 * len(R) * float(numpy.finfo(A.dtype).eps):
        raise ValueError(f"|||A||| = {norm:.6g} is above tau = {tau}, where nothing is promised: take a "
                         f"larger tau, below 1, or smaller weights")
    smallest = 1.0 if Sigma is None else max(float(backend.xp_of(A).linalg.eigvalsh(Sigma)[0]), 0.0)
    risk = float(_risk(_products(A)[-1] - R, Sigma))
    return 4 * len(A) * (1 - float(tau)) ** (2 * (len(A) - 1)) * smallest * risk


def _products(A: Array, origin: float = 1.0) -> list[Array]:
    """I, W_1, W_2 W_1, ..., W_l ... W_1 with W_i = origin I + A_i: 1 for residual layers, 0 for standard."""
    products = [backend.xp_of(A).eye(A.shape[1], dtype=A.dtype)]
    for layer in A:
        products.append(origin * products[-1] + layer @ products[-1])
    return products


def _risk(E: Array, Sigma: Array | None) -> Array:
    """||E Sigma^(1/2)||_F^2 = trace(E Sigma E^T), a scalar (0-d array)."""
    return (E * (E if Sigma is None else E @ Sigma)).sum()


def _gradients(A: Array, products: Sequence[Array], R: Array, Sigma: Array | None,
               origin: float = 1.0) -> Array:
    """The gradient, (l, d, d), from the last layer to the first, as backpropagation does."""
    E = products[-1] - R
    back = 2 * (E if Sigma is None else E @ Sigma)
    gradients = backend.xp_of(A).empty_like(A)
    for i in reversed(range(len(A))):
        gradients[i] = back @ products[i].T
        back = origin * back + A[i].T @ back
    return gradients


def _norm(A: Array) -> Array:
    """The spectral norm of a matrix, the largest one of a stack of them: a scalar (0-d array)."""
    return backend.xp_of(A).linalg.svd(A, compute_uv=False).max()


# Gradient descent


def descend(R: Array, layers: int, parameterization: str = "residual", init: float | Sequence[Array] = 0.0,
            steps: int = 200, step_size: float | None = None, Sigma: Array | None = None,
            seed: int = 0) -> History:
    """Gradient descent on the risk of a linear network, and how it went.

    R: (d, d), any. layers: l. parameterization: "residual", layers I + A_i, or "standard", layers A_i.
    init: A_1, ..., A_l to start from, or the standard deviation of Gaussian entries, drawn from seed.
    step_size: by default 0.5 / (l max(1, ||R||^2) max(1, ||Sigma||)). Sigma: covariance of x, by default I.

    Returns NumPy arrays (steps + 1,), entry i after i steps: "risk" (see `population_risk`), "gradient_norm"
    (of all layers together), "largest_norm" (|||A|||), "least_singular_value" (of the network as one matrix).

    Residual layers started at 0 ARE standard layers started at I: they take the same path. The
    parameterization says where the origin is, around which weights are drawn and to which weight decay pulls.

    From the identity, descent reaches every symmetric positive definite R (Bartlett, Helmbold, Long 2018),
    but not every R with det R > 0. At R = -I all A_i stay multiples of I, and the network, on its way from I
    to -I, is stuck at 0. Theorem 2.2 allows that, since |||A||| creeps to 1, where the bound on the gradient
    vanishes. Noise in the start rescues it, for -I is a rotation. A reflection has no solution with
    |||A||| < 1. There, noise of 0.01 does not help 10 layers. It does help 3, of which one becomes a
    reflection itself, of a norm of about 2.

    Raises ValueError for arguments that do not fit, and if the risk overflows.
    """
    R, layers = _matrix("R", R), _number_of_layers(layers)
    xp = backend.xp_of(R)
    if parameterization not in ("residual", "standard"):
        raise ValueError(f"parameterization {parameterization!r}: expected 'residual' or 'standard'")
    if isinstance(init, Real):
        if not 0 <= init < math.inf:
            raise ValueError(f"init {init!r}: expected a standard deviation >= 0, or {layers} matrices")
        noise = numpy.random.default_rng(seed).standard_normal((layers, *R.shape))
        init = xp.asarray(init * noise, dtype=R.dtype)
    A, R, Sigma = _problem(init, R, Sigma)
    if len(A) != layers:
        raise ValueError(f"init holds {len(A)} matrices: expected one for each of the {layers} layers")
    if not isinstance(steps, Integral) or steps < 0:
        raise ValueError(f"steps {steps!r}: expected an integer >= 0")
    if step_size is None:
        sigma = 1.0 if Sigma is None else max(1.0, float(_norm(Sigma)))
        step_size = 0.5 / (layers * max(1.0, float(_norm(R)) ** 2) * sigma)
    if not isinstance(step_size, Real) or not 0 < step_size < math.inf:
        raise ValueError(f"step_size {step_size!r}: expected a number > 0")

    origin, rows = float(parameterization == "residual"), []
    with numpy.errstate(over="ignore", invalid="ignore"):  # an overflow is reported below, with its remedy
        for step in range(steps + 1):
            products = _products(A, origin)
            risk = _risk(products[-1] - R, Sigma)
            if not math.isfinite(float(risk)):
                raise ValueError(f"step_size {step_size:.3g}: the risk overflows at step {step}, take less")
            gradients = _gradients(A, products, R, Sigma, origin)
            rows.append(xp.stack([risk, xp.linalg.norm(gradients.ravel()), _norm(A),
                                  xp.linalg.svd(products[-1], compute_uv=False)[-1]]))
            A = A - float(step_size) * gradients
    names = ("risk", "gradient_norm", "largest_norm", "least_singular_value")
    return dict(zip(names, backend.to_numpy(xp.stack(rows, axis=1)), strict=True))


# Checks of arguments


def _matrix(name: str, M: Array) -> Array:
    """M in float64 unless it is float32. Raises ValueError unless it is square, real and finite."""
    xp = backend.xp_of(M)
    if M.ndim != 2 or M.shape[0] != M.shape[1] or M.size == 0 or M.dtype.kind not in "biuf":
        raise ValueError(f"{name} is {M.dtype} of shape {M.shape}: expected real numbers of shape (d, d)")
    if not bool(xp.isfinite(M).all()):
        raise ValueError(f"{name} has an entry that is not finite: drop or repair it")
    return M if M.dtype == numpy.float32 else M.astype("float64", copy=False)


def _number_of_layers(layers: int) -> int:
    if not isinstance(layers, Integral) or layers < 1:
        raise ValueError(f"layers {layers!r}: expected an integer >= 1")
    return int(layers)


def _stack(A: Sequence[Array]) -> Array:
    """Layers as one new array (l, d, d)."""
    layers = [_matrix(f"A_{i}", layer) for i, layer in enumerate(A, start=1)]
    shapes = sorted({layer.shape for layer in layers})
    if len(shapes) != 1:
        raise ValueError(f"A has layers of the shapes {shapes}: expected one or more, all of the same (d, d)")
    return backend.xp_of(layers[0]).stack(layers)


def _problem(A: Sequence[Array], R: Array, Sigma: Array | None) -> tuple[Array, Array, Array | None]:
    """A as one array (l, d, d), and R and Sigma in its dtype, after all checks."""
    A, R = _stack(A), _matrix("R", R)
    if Sigma is not None:
        Sigma = _matrix("Sigma", Sigma)
    for name, M in (("R", R), ("Sigma", Sigma)):
        if M is not None and M.shape != A.shape[1:]:
            raise ValueError(f"{name} has shape {M.shape}: expected {A.shape[1:]}, that of a layer")
    if Sigma is not None:
        rounding = 10 * len(Sigma) * float(numpy.finfo(Sigma.dtype).eps) * float(abs(Sigma).max())
        asymmetry = float(abs(Sigma - Sigma.T).max())
        smallest = float(backend.xp_of(Sigma).linalg.eigvalsh(Sigma)[0])
        if asymmetry > rounding or smallest < -rounding:
            raise ValueError(f"Sigma differs from its transpose by {asymmetry:.1e}, its smallest eigenvalue "
                             f"is {smallest:.1e}: expected a symmetric positive semidefinite matrix")
        Sigma = Sigma.astype(A.dtype, copy=False)
    return A, R.astype(A.dtype, copy=False), Sigma
