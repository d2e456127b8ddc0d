"""Section 2 of the paper in figures: each claim beside its measurement, and three pictures.

    python -m tinyres.theory.linear_report
"""
from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy

from .. import ops, optim, plot
from ..backend import Array
from ..support.files import user_path
from ..support.pipes import end_with_reader
from ..tensor import Tensor
from .factorization import factorize, largest_norm, norm_bound, norm_lower_limit
from .linear import History, compose, descend, gradient, pl_bound, population_risk, stack


def _rotations(count: int, d: int, rng: numpy.random.Generator) -> numpy.ndarray:
    """Random orthogonal matrices with determinant 1: (count, d, d)."""
    Q = numpy.linalg.qr(rng.standard_normal((count, d, d)))[0]
    Q[:, 0] *= numpy.linalg.det(Q)[:, None]
    return Q


def _target(d: int, condition: float, rng: numpy.random.Generator) -> numpy.ndarray:
    """A random matrix of positive determinant with singular values on both sides of 1: (d, d)."""
    U, V = _rotations(2, d, rng)
    return U * numpy.geomspace(condition ** -0.5, condition ** 0.5, d) @ V


def _weights(layers: int, d: int, norm: float, rng: numpy.random.Generator) -> numpy.ndarray:
    """Random weights with |||A||| = norm: (layers, d, d)."""
    A = rng.standard_normal((layers, d, d))
    return A * (norm / largest_norm(A))


def _printed_gradient(A: numpy.ndarray, R: numpy.ndarray, Sigma: numpy.ndarray) -> list[numpy.ndarray]:
    """Lemma 2.4 as the paper prints it, with the factors on either side in the reversed order."""
    zero, E = numpy.zeros_like(R), compose(A) - R  # a layer of zeros first, because some products are empty
    return [2 * compose([zero, *A[:i:-1]]).T @ E @ Sigma @ compose([zero, *A[:i][::-1]]).T
            for i in range(len(A))]


def _engine(A: numpy.ndarray, R: numpy.ndarray, Sigma: numpy.ndarray, steps: int,
            lr: float) -> tuple[list[float], list[Array]]:
    """The descent with Tensors and `optim.SGD`: the risk before each step, and the gradients at the start."""
    layers = [Tensor(layer.copy(), requires_grad=True) for layer in A]
    optimizer, risks, gradients = optim.SGD(layers, lr, momentum=0.0), [], []
    for _ in range(steps):
        product = Tensor(numpy.eye(len(R)))
        for layer in layers:
            product = product + layer @ product
        E = product - R
        risk = ops.sum(E @ Sigma * E)
        risk.backward()
        risks.append(risk.item())
        gradients = gradients or [layer.grad for layer in layers]
        optimizer.step()
    return risks, gradients


def _error(value: object, reference: object) -> str:
    """The relative error of numbers or arrays, as text."""
    value, reference = numpy.ravel(value), numpy.ravel(reference)
    return f"relative error {numpy.linalg.norm(value - reference) / numpy.linalg.norm(reference):.1e}"


def _theorem_1(rng: numpy.random.Generator) -> Iterator[tuple[str, str]]:
    ratios, gaps, errors = [], [], []
    for d, condition, layers in itertools.product((2, 3, 8, 32), (1, 10, 100, 1e4), (20, 50, 200, 1000)):
        R = _target(d, condition, rng)
        A = stack(factorize(R, layers))
        ratios.append(largest_norm(A) / norm_bound(R, layers))
        gaps.append(largest_norm(A) - norm_lower_limit(R, layers))
        errors.append(largest_norm(compose(A) - R) / largest_norm(R))
    yield ("Theorem 2.1: |||A||| <= 2 (sqrt(pi) + sqrt(3 gamma))^2 / l",
           f"|||A||| / bound <= {max(ratios):.3f} ({len(ratios)} cases, d <= 32)")
    yield "    the layers multiply to R", f"error <= {max(errors):.1e} ||R||"
    yield "    no factorization is below the lower limit", f"|||A||| - limit >= {min(gaps):.1e}"
    P = R.T @ R / largest_norm(R)
    yield ("    symmetric positive definite R reach it",
           f"|||A||| / limit = {largest_norm(stack(factorize(P, 50))) / norm_lower_limit(P, 50):.12f}")
    R = -numpy.eye(8)
    yield ("    -I_8 is a rotation too: 20 layers",
           f"|||A||| = {largest_norm(stack(factorize(R, 20))):.3f}, bound {norm_bound(R, 20):.3f}")
    determinants = [numpy.linalg.det(compose(_weights(5, 4, rng.uniform(), rng))) for _ in range(1000)]
    yield "    not printed: |||A||| < 1 implies det R > 0", f"det >= {min(determinants):.1e} at 1,000 points"


def _theorem_2(rng: numpy.random.Generator) -> Iterator[tuple[str, str]]:
    A, R, root = _weights(4, 4, 0.9, rng), _target(4, 10, rng), rng.standard_normal((4, 4))
    Sigma, steps = root @ root.T / largest_norm(root) ** 2, 1e-5 * numpy.eye(A.size).reshape(-1, *A.shape)
    numerical = [(population_risk(A + step, R, Sigma) - population_risk(A - step, R, Sigma)) / 2e-5
                 for step in steps]
    yield "Lemma 2.4: the gradient, against central differences", _error(gradient(A, R, Sigma), numerical)
    yield "    as printed, in the reversed order", _error(_printed_gradient(A, R, Sigma), numerical)
    risks, gradients = _engine(A, R, Sigma, 100, 0.01)
    yield "    Tensor and backward() give this gradient", _error(gradients, gradient(A, R, Sigma))
    history = descend(R, len(A), init=A, steps=99, step_size=0.01, Sigma=Sigma)
    yield "    100 steps of optim.SGD give this descent", _error(risks, history["risk"])

    def sides(A: Sequence[Array], R: Array, tau: float, Sigma: Array) -> tuple[float, float]:
        return float(numpy.square(gradient(A, R, Sigma)).sum()), pl_bound(A, R, tau, Sigma)

    ratios = []
    for _ in range(1000):
        tau, (R, root) = rng.uniform(0, 0.95), rng.standard_normal((2, 4, 4))
        left, right = sides(_weights(int(rng.integers(1, 7)), 4, tau, rng), R, tau, root @ root.T)
        ratios.append(left / right)
    yield ("Theorem 2.2: ||grad f||^2 >= 4 l (1-tau)^(2l-2) s_min(Sigma) f",
           f"left / right >= {min(ratios):.2f} at 1,000 points")
    left, right = sides([-0.7 * numpy.eye(4)] * 5, numpy.eye(4), 0.7, numpy.eye(4))
    yield "    tight at A_i = -tau I", f"left / right = {left / right:.12f}"
    for layers, a, r, sigma in ((3, -0.5, 1.0, 1.0), (1, 0.0, 2.0, 4.0)):
        A, R, Sigma = [numpy.array([[a]])] * layers, numpy.array([[r]]), numpy.array([[sigma]])
        left, right = sides(A, R, abs(a), Sigma)
        printed = 4 * layers * (1 - abs(a)) ** (layers - 1) * sigma ** 2 * population_risk(A, R, Sigma)
        yield (f"    as printed: d = 1, l = {layers}, A = {a:g}, R = {r:g}, Sigma = {sigma:g}",
               f"left {left:.3f}, right {printed:.3f}; corrected {right:.3f}")


def _descents(R: numpy.ndarray, rng: numpy.random.Generator, seed: int) -> dict[str, dict[int, History]]:
    """400 steps towards R from four kinds of start, at eight depths."""
    starts = {"residual, zero": 0.0, "standard, random rotations": None, "standard, zero": 0.0,
              "standard, Gaussian 0.05": 0.05}  # None: a rotation for each layer
    return {name: {layers: descend(R, layers, name.split(",")[0],
                                   _rotations(layers, len(R), rng) if start is None else start,
                                   steps=400, seed=seed)
                   for layers in (1, 2, 3, 5, 10, 20, 50, 100)} for name, start in starts.items()}


def _steps_to_converge(history: History) -> float:
    """The first step at which the risk is 1e-10 of its start or less; nan if there is none."""
    reached = history["risk"] <= 1e-10 * history["risk"][0]
    return float(reached.argmax()) if reached.any() else math.nan


def _descent_rows(R: numpy.ndarray, runs: Mapping[str, Mapping[int, History]]) -> Iterator[tuple[str, str]]:
    yield "Descent to a positive definite R: steps to 1e-10 of the risk", "at l = 2, 5, 10, 100 (-: over 400)"
    for name, by_depth in runs.items():
        steps = [_steps_to_converge(by_depth[layers]) for layers in (2, 5, 10, 100)]
        yield f"    {name}", ", ".join("-" if math.isnan(step) else f"{step:.0f}" for step in steps)
        risk, slope = by_depth[10]["risk"], by_depth[10]["gradient_norm"]
        yield ("        l = 10: gradient norm at the start, risk after 400 steps",
               f"{slope[0]:.1e}, {risk[-1] / risk[0]:.4g} of its start")
    residual = runs["residual, zero"]
    rises = sum((numpy.diff(h["risk"][:1 + int(_steps_to_converge(h))]) > 0).sum() for h in residual.values())
    yield "    residual, zero: steps that raise the risk on the way", f"{rises} at {len(residual)} depths"
    identity = descend(R, 10, "standard", [numpy.eye(len(R))] * 10, steps=400)
    yield "    residual, zero is standard, identity", _error(identity["risk"], residual[10]["risk"])


def _failures(seed: int) -> dict[str, dict[str, History]]:
    """Residual descent to targets where it fails from zero, and the effect of noise in the start."""
    targets = {"-I_8": -numpy.eye(8), "a reflection": numpy.diag([-1.0] + 7 * [1.0])}
    starts = {"zero, 10 layers": (10, 0.0), "noise of 0.01, 10 layers": (10, 0.01),
              "noise of 0.01, 3 layers": (3, 0.01)}
    return {target: {start: descend(R, layers, init=noise, steps=1000, seed=seed)
                     for start, (layers, noise) in starts.items()} for target, R in targets.items()}


Curves = dict[str, tuple[Sequence[float], Sequence[float]]]  # x and y by name


def _panel(title: str, x_label: str, y_label: str, lines: Curves, **options: object) -> plot.Panel:
    """A panel of named lines, every other one dashed, so that a line shows through one on top of it."""
    styles = itertools.cycle(("solid", "dashed"))
    return plot.Panel([plot.Line(x, y, name, next(styles)) for name, (x, y) in lines.items()],
                      title, x_label, y_label, **options)


def _factorization_panel(title: str, R: numpy.ndarray) -> plot.Panel:
    gamma = abs(numpy.log(numpy.linalg.svd(R, compute_uv=False))).max()
    depths = numpy.unique(numpy.geomspace(math.ceil(3 * gamma), 1000, 50).astype(int)).tolist()
    lines = {"this construction": (depths, [largest_norm(stack(factorize(R, layers))) for layers in depths]),
             "lower limit of any": (depths, [norm_lower_limit(R, layers) for layers in depths]),
             "bound of Theorem 2.1": (depths, [norm_bound(R, layers) for layers in depths])}
    return _panel(title, "layers l", "|||A|||", lines, log_x=True, log_y=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the claims of the paper's section 2 beside measurements, and draw three pictures."""
    parser = argparse.ArgumentParser(prog="python -m tinyres.theory.linear_report", description=main.__doc__)
    parser.add_argument("--out", type=user_path, default=Path("runs/theory"), help="folder for the pictures")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random draws")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    seed, rng = options.seed, numpy.random.default_rng(options.seed)

    S, R = _rotations(1, 8, rng)[0], _target(8, 100, rng)
    positive = S * numpy.linspace(0.5, 2, 8) @ S.T
    descents, failures = _descents(positive, rng, seed), _failures(seed)
    failure_rows = ((f"Residual descent to {target} from {start}", f"risk {h['risk'][-1]:.5g} of "
                     f"{h['risk'][0]:.5g} after 1,000 steps, |||A||| <= {h['largest_norm'].max():.2f}")
                    for target, runs in failures.items() for start, h in runs.items())
    for claim, measured in itertools.chain([("claim", "measured"), ("-" * 66, "-" * 48)], _theorem_1(rng),
                                           _theorem_2(rng), _descent_rows(positive, descents), failure_rows):
        print(f"{claim:<66} | {measured}", flush=True)

    def by_step(runs: Mapping[str, History], key: str) -> Curves:
        return {name: (range(len(history[key])), history[key]) for name, history in runs.items()}

    def by_depth(value: Callable[[History], float]) -> Curves:
        return {name: (list(runs), [value(history) for history in runs.values()])
                for name, runs in descents.items()}

    pictures = {
        "linear_factorization.png": [
            _factorization_panel("random R: it stretches and turns", R),
            _factorization_panel("positive definite R: it only stretches", R.T @ R / largest_norm(R))],
        "linear_descent.png": [
            *(_panel(f"descent with {layers} layers", "step", "risk",
                     by_step({name: runs[layers] for name, runs in descents.items()}, "risk"),
                     log_y=True, y_range=(1e-12, 1e2)) for layers in (2, 10)),
            _panel("gradient at the start", "layers l", "gradient norm (0 is drawn as 10^-90)",
                   by_depth(lambda h: max(h["gradient_norm"][0], 1e-90)), log_x=True, log_y=True,
                   y_range=(1e-93, 1e5)),
            _panel("convergence", "layers l", "steps to 1e-10 of the risk (400: not reached)",
                   by_depth(lambda h: numpy.nan_to_num(_steps_to_converge(h), nan=400)), log_x=True,
                   log_y=True, y_range=(10, 500))],
        "linear_failures.png": [
            _panel(f"residual descent to {target}", "step", key.replace("_", " "), by_step(runs, key),
                   log_y=True, y_range=y_range)
            for key, y_range in (("risk", (1e-4, 1e2)), ("least_singular_value", (1e-6, 1e1)))
            for target, runs in failures.items()],
    }
    for file, panels in pictures.items():
        plot.save(options.out / file, panels)
        print(options.out / file)


if __name__ == "__main__":
    end_with_reader()
    main()
