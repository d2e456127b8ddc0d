"""Deep linear residual networks (paper, section 2): small weights suffice, and none of them is a trap.

The network y^ = (I + A_l) ... (I + A_1) x learns y = R x + noise, where x has the covariance Sigma. It can
express no more than one layer can, but its risk is not convex: the simplest model of what depth does.

* Theorem 2.1: weights of norm O(1/l) express R: `factorize`, `norm_bound`, `norm_lower_limit`, imported from
  factorization.py.
* Theorem 2.2: where all norms are below 1, every critical point of the risk is a global minimum: `gradient`,
  `pl_bound`. In the standard parameterization A_l ... A_1, zero is a critical point but not a minimum.
* Where gradient descent works and where it fails: `descend`.

l is the number of layers, d the size of each, |||A||| = max_i ||A_i|| the largest spectral norm of a layer.
Weights A are l arrays (d, d), a list or one array (l, d, d), in the order in which the layers are applied.
All functions take NumPy or CuPy arrays and compute with that library, in float64 unless given float32.
Claims beside measurements: python -m tinyres.theory.linear_report
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import numpy

from .. import backend
from ..backend import Array
from .factorization import (
    checked_integer,
    checked_matrix,
    factorize,
    largest_norm,
    norm_bound,
    norm_lower_limit,
)

__all__ = ["compose", "descend", "factorize", "gradient", "norm_bound", "norm_lower_limit", "pl_bound",
           "population_risk", "stack"]

History = dict[str, numpy.ndarray]  # what `descend` returns


# Theorem 2.2: the risk, its gradient, and why no critical point near the identity is bad


def compose(A: Sequence[Array]) -> Array:
    """(I + A_l) ... (I + A_1): (d, d). Raises ValueError unless A is one or more finite (d, d) arrays."""
    return _products(stack(A))[-1]


def population_risk(A: Sequence[Array], R: Array, Sigma: Array | None = None) -> float:
    """||((I + A_l) ... (I + A_1) - R) Sigma^(1/2)||_F^2 (paper, Claim 2.3, less its constant E||noise||^2).

    A: l arrays (d, d). R: (d, d). Sigma: covariance of x, (d, d), by default I.
    Raises ValueError for shapes that do not fit, and for a Sigma that is not symmetric positive semidefinite.
    """
    A, R, Sigma = _problem(A, R, Sigma)
    return float(_risk(_products(A)[-1] - R, Sigma))


def gradient(A: Sequence[Array], R: Array, Sigma: Array | None = None) -> list[Array]:
    """The gradient of `population_risk` (paper, Lemma 2.4, corrected), for each A_i one array (d, d).

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
    inequality. Where the gradient is zero so is the risk: for an invertible Sigma every critical point is a
    global minimum. Proof: I + A_i^T multiplies no length by less than 1 - tau, so each layer's gradient has a
    norm of at least 2 (1 - tau)^(l - 1) ||E Sigma||_F, and ||E Sigma||_F^2 >= s_min(Sigma) f. The bound is
    tight at A_i = -tau I, for R and Sigma that are multiples of I.

    The paper prints (1 - tau)^(l - 1) and s_min(Sigma)^2, which is false. Counterexamples for d = 1: at
    l = 3, A_i = -1/2, R = Sigma = 1 the squared gradient norm is 0.574 and the printed bound 2.297; at l = 1,
    A = 0, R = 2, Sigma = 4 they are 64 and 256. The corrected bounds are 0.574 and 64.

    Raises ValueError unless |||A||| <= tau and 0 <= tau < 1, and as `population_risk` does.
    """
    if not isinstance(tau, Real) or not 0 <= tau < 1:
        raise ValueError(f"tau {tau!r}: expected a number from 0 to below 1, the largest |||A||| allowed")
    A, R, Sigma = _problem(A, R, Sigma)
    norm = float(largest_norm(A))
    if norm > tau + 10 * len(R) * float(numpy.finfo(A.dtype).eps):
        raise ValueError(f"|||A||| = {norm:.6g} is above tau = {tau}, where nothing is promised: take a "
                         f"larger tau, below 1, or smaller weights")
    smallest = max(float(backend.xp_of(A).linalg.eigvalsh(Sigma)[0]), 0.0)
    risk = float(_risk(_products(A)[-1] - R, Sigma))
    return 4 * len(A) * (1 - float(tau)) ** (2 * (len(A) - 1)) * smallest * risk


def _products(A: Array, origin: float = 1.0) -> list[Array]:
    """I, W_1, W_2 W_1, ..., W_l ... W_1 with W_i = origin I + A_i: 1 for residual layers, 0 for standard."""
    products = [backend.xp_of(A).eye(A.shape[1], dtype=A.dtype)]
    for layer in A:
        products.append(origin * products[-1] + layer @ products[-1])
    return products


def _risk(E: Array, Sigma: Array) -> Array:
    """||E Sigma^(1/2)||_F^2 = trace(E Sigma E^T), a scalar (0-d array)."""
    return (E * (E @ Sigma)).sum()


def _gradients(A: Array, products: Sequence[Array], R: Array, Sigma: Array, origin: float = 1.0) -> Array:
    """The gradient, (l, d, d), from the last layer to the first, as backpropagation does."""
    back = 2 * ((products[-1] - R) @ Sigma)
    gradients = backend.xp_of(A).empty_like(A)
    for i in reversed(range(len(A))):
        gradients[i] = back @ products[i].T
        back = origin * back + A[i].T @ back
    return gradients


# Gradient descent


def descend(R: Array, layers: int, parameterization: str = "residual", init: float | Sequence[Array] = 0.0,
            steps: int = 200, step_size: float | None = None, Sigma: Array | None = None,
            seed: int = 0) -> History:
    """Gradient descent on the risk of a linear network: its history.

    R: any (d, d). layers: l. parameterization: "residual", layers I + A_i, or "standard", layers A_i.
    init: A_1, ..., A_l to start from, or the standard deviation of Gaussian entries, drawn from seed.
    step_size: by default 0.5 / (l max(1, ||R||^2) max(1, ||Sigma||)). Sigma: covariance of x, by default I.

    Returns NumPy arrays (steps + 1,), entry i after i steps: "risk" (see `population_risk`), "gradient_norm"
    (of all layers together), "largest_norm" (|||A|||), "least_singular_value" (of the network as one matrix).

    Residual layers started at 0 ARE standard layers started at I: they take the same path.

    From the identity, descent reaches every symmetric positive definite R (Bartlett, Helmbold, Long 2018),
    but not every R with det R > 0. For R = -I all A_i stay multiples of I, and the network, on its way from I
    to -I, gets stuck at 0. Theorem 2.2 allows that, since |||A||| creeps towards 1, where the bound on the
    gradient vanishes. Noise in the start rescues the descent if d is even, for then -I is a rotation. A
    reflection has no solution with |||A||| < 1. There, noise of 0.01 does not help 10 layers, but it helps 3:
    one of them becomes a reflection itself, of norm about 2.

    Raises ValueError for arguments that do not fit, and if the risk overflows.
    """
    R, layers = checked_matrix("R", R), checked_integer("layers", layers)
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
    if step_size is None:
        norms = float(largest_norm(R)), float(largest_norm(Sigma))
        step_size = 0.5 / (layers * max(1.0, norms[0] ** 2) * max(1.0, norms[1]))
    if not isinstance(step_size, Real) or not 0 < step_size < math.inf:
        raise ValueError(f"step_size {step_size!r}: expected a number > 0")

    origin, rows = float(parameterization == "residual"), []
    with numpy.errstate(over="ignore", invalid="ignore"):  # an overflow is reported below, with its remedy
        for step in range(checked_integer("steps", steps, least=0) + 1):
            products = _products(A, origin)
            risk = _risk(products[-1] - R, Sigma)
            if not math.isfinite(float(risk)):
                raise ValueError(f"step_size {step_size:.3g}: the risk overflows at step {step}, take less")
            gradients = _gradients(A, products, R, Sigma, origin)
            rows.append(xp.stack([risk, xp.linalg.norm(gradients.ravel()), largest_norm(A),
                                  xp.linalg.svd(products[-1], compute_uv=False)[-1]]))
            A = A - float(step_size) * gradients
    names = ("risk", "gradient_norm", "largest_norm", "least_singular_value")
    return dict(zip(names, backend.to_numpy(xp.stack(rows, axis=1)), strict=True))


# Checks of arguments


def stack(A: Sequence[Array]) -> Array:
    """Layers (d, d) as one new array (l, d, d). Raises ValueError unless they are finite and of one shape."""
    layers = [checked_matrix(f"A_{i}", layer) for i, layer in enumerate(A, start=1)]
    shapes = sorted({layer.shape for layer in layers})
    if len(shapes) != 1:
        raise ValueError(f"A has layers of the shapes {shapes}: expected one or more, all of the same (d, d)")
    return backend.xp_of(layers[0]).stack(layers)


def _problem(A: Sequence[Array], R: Array, Sigma: Array | None) -> tuple[Array, Array, Array]:
    """A as one array (l, d, d), and R and Sigma in its dtype, after all checks."""
    A, R = stack(A), checked_matrix("R", R)
    xp = backend.xp_of(A)
    Sigma = xp.eye(len(R)) if Sigma is None else checked_matrix("Sigma", Sigma)
    for name, M in (("R", R), ("Sigma", Sigma)):
        if M.shape != A.shape[1:]:
            raise ValueError(f"{name} has shape {M.shape}: expected {A.shape[1:]}, that of a layer")
    rounding = 10 * len(Sigma) * float(numpy.finfo(Sigma.dtype).eps) * float(abs(Sigma).max())
    asymmetry = float(abs(Sigma - Sigma.T).max())
    smallest = float(xp.linalg.eigvalsh(Sigma)[0])
    if asymmetry > rounding or smallest < -rounding:
        raise ValueError(f"Sigma differs from its transpose by {asymmetry:.1e}, its smallest eigenvalue "
                         f"is {smallest:.1e}: expected a symmetric positive semidefinite matrix")
    return A, R.astype(A.dtype, copy=False), Sigma.astype(A.dtype, copy=False)
