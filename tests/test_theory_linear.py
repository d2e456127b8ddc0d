"""Section 2 of the paper: every theorem, corrected, and the counterexamples to what is printed."""
import math
import warnings
from dataclasses import replace

import numpy
import pytest
from PIL import Image, ImageColor

import tinyres as tr
from tinyres.plot.panel import draw_panel, line_colors
from tinyres.theory import factorization, linear_report
from tinyres.theory.linear import (
    compose,
    descend,
    factorize,
    gradient,
    norm_bound,
    norm_lower_limit,
    pl_bound,
    population_risk,
)

I8, REFLECTION = numpy.eye(8), numpy.diag([-1.0] + 7 * [1.0])


def orthogonal(d, rng):
    return numpy.linalg.qr(rng.standard_normal((d, d)))[0]


def target(d, condition, seed=0):
    """A random matrix with a positive determinant and that ratio of its singular values."""
    rng = numpy.random.default_rng(seed)
    R = orthogonal(d, rng) * numpy.geomspace(condition ** -0.5, condition ** 0.5, d) @ orthogonal(d, rng)
    R[0] *= numpy.sign(numpy.linalg.det(R))
    return R


def positive_definite(seed=0):
    S = orthogonal(8, numpy.random.default_rng(seed))
    return S * numpy.linspace(0.5, 2, 8) @ S.T


def weights(layers, d, norm, rng):
    A = rng.standard_normal((layers, d, d))
    return A * (norm / numpy.linalg.norm(A, 2, axis=(1, 2)).max())


def covariance(d, rng):
    root = rng.standard_normal((d, d))
    return root @ root.T


def squared_norm(arrays):
    return sum(float(numpy.square(tr.backend.to_numpy(array)).sum()) for array in arrays)


def relative_error(value, reference):
    value, reference = numpy.ravel(value), numpy.ravel(reference)
    return numpy.linalg.norm(value - reference) / numpy.linalg.norm(reference)


# Theorem 2.1


def check_factorization(R, layers):
    A = [tr.backend.to_numpy(layer) for layer in factorize(R, layers)]
    limit, bound, R = norm_lower_limit(R, layers), norm_bound(R, layers), tr.backend.to_numpy(R)
    product = numpy.eye(len(R))
    for layer in A:
        product = product + layer @ product
    assert len(A) == layers and all(layer.shape == R.shape for layer in A)
    assert numpy.linalg.norm(product - R, 2) <= 1e-10 * numpy.linalg.norm(R, 2)
    assert limit - 1e-12 <= max(numpy.linalg.norm(layer, 2) for layer in A) <= bound + 1e-12


@pytest.mark.parametrize("layers", [20, 50, 200, 1000])
@pytest.mark.parametrize("condition", [1, 10, 100, 1e4])
@pytest.mark.parametrize("d", [2, 3, 8, 32])
def test_factorization_within_its_bounds(xp, d, condition, layers):
    check_factorization(xp.asarray(target(d, condition)), layers)


@pytest.mark.parametrize("layers", [4, 7, 20, 201])
@pytest.mark.parametrize("R", [
    -numpy.eye(2), -I8, numpy.diag([-1.0, -1, 1]), numpy.diag([-1.0, 1, -1, 1, 1]), numpy.eye(3), [[2.0]],
    [[0.5]], numpy.roll(numpy.eye(3), 1, axis=0), numpy.roll(numpy.eye(31), 1, axis=0), 3 * numpy.eye(2),
    numpy.diag([-2.0, -0.5, 1])])
def test_special_targets(xp, R, layers):
    check_factorization(xp.asarray(R), layers)


@pytest.mark.parametrize("layers", range(1, 8))
def test_few_layers(xp, layers):
    R = target(5, 1.5)
    check_factorization(xp.asarray(R), layers)
    numpy.testing.assert_array_equal(factorize(xp.asarray(R), 1)[0].tolist(), R - numpy.eye(5))


def test_rotations_with_repeated_and_nearly_repeated_angles():
    rng = numpy.random.default_rng(0)
    special = [0, math.pi, 1, math.pi / 2, math.pi / 3, 2 * math.pi / 3]
    for _ in range(300):
        d = int(rng.integers(2, 14))
        off = rng.choice([-1, 0, 1], d // 2) * 10 ** rng.uniform(-17, 0, d // 2)
        angles = rng.choice(special, d // 2) + off
        D = numpy.eye(d)
        for i, angle in enumerate(angles):
            D[2 * i:2 * i + 2, 2 * i:2 * i + 2] = [[math.cos(angle), -math.sin(angle)],
                                                   [math.sin(angle), math.cos(angle)]]
        S = orthogonal(d, rng)
        a, b, found = factorization._rotation_planes(S @ D @ S.T)
        basis = numpy.hstack([a, b])
        assert abs(basis.T @ basis - numpy.eye(basis.shape[1])).max() < 1e-13
        assert abs(S @ D @ S.T @ a - a * numpy.cos(found) - b * numpy.sin(found)).max() < 1e-13
        assert abs(found).max() <= math.pi
        layers = int(rng.integers(1, 30))
        check_factorization(S @ D @ S.T, layers)
        # No layer stretches, and all of them turn by the same fraction of the largest angle.
        largest = abs((angles + math.pi) % (2 * math.pi) - math.pi).max()
        norm = max(numpy.linalg.norm(layer, 2) for layer in factorize(S @ D @ S.T, layers))
        assert norm == pytest.approx(2 * math.sin(largest / layers / 2), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("condition", [1.5, 100, 1e4])
def test_positive_definite_targets_reach_the_lower_limit(condition):
    S = orthogonal(8, numpy.random.default_rng(1))
    R = S * numpy.geomspace(1, condition, 8) @ S.T
    norm = max(numpy.linalg.norm(layer, 2) for layer in factorize(R, 40))
    assert norm == pytest.approx(norm_lower_limit(R, 40), rel=1e-9)


def test_no_two_layers_share_memory():
    A = factorize(target(3, 10), 20)
    A[0][...] = A[-1][...] = 0
    assert all(layer.any() for layer in A[1:-1])


@pytest.mark.parametrize("d", [1, 2, 5])
def test_small_weights_have_a_positive_determinant(d):
    rng = numpy.random.default_rng(0)
    assert min(numpy.linalg.det(compose(weights(4, d, 0.99, rng))) for _ in range(300)) > 0


def test_fewer_layers_than_3_gamma_warn():
    R = target(4, 1e4)  # 3 gamma = 13.8
    for function in (factorize, norm_bound):
        with pytest.warns(UserWarning, match="take 14 layers") as record:
            function(R, 13)
        assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        factorize(R, 14), norm_bound(R, 14), norm_lower_limit(R, 3)
    with pytest.warns(UserWarning):
        assert relative_error(compose(factorize(R, 5)), R) < 1e-10


@pytest.mark.parametrize("function", [factorize, norm_bound, norm_lower_limit])
@pytest.mark.parametrize(("R", "layers", "message"), [
    (numpy.ones((2, 3)), 5, r"shape \(2, 3\): expected real numbers of shape \(d, d\)"),
    (numpy.ones(3), 5, r"\(d, d\)"), (numpy.empty((0, 0)), 5, r"\(d, d\)"), (1j * numpy.eye(2), 5, "complex"),
    (numpy.array([[1, math.nan], [0, 1]]), 5, "finite"), (numpy.diag([1.0, 0]), 5, "singular"),
    (numpy.outer([1.0, 2], [3, 4]), 5, "singular"), (numpy.diag([-1.0, 1]), 5, "reflection"),
    (REFLECTION, 1000, "reflection"), (-numpy.eye(3), 5, "reflection"),
    (numpy.eye(2), 0, "layers 0"), (numpy.eye(2), 2.0, r"layers 2\.0"), (numpy.eye(2), -1, "integer")])
def test_factorization_errors(function, R, layers, message):
    with pytest.raises(ValueError, match=message):
        function(R, layers)


def test_float32_stays_float32(xp):
    R = xp.asarray(target(4, 10), dtype="float32")
    A = factorize(R, 20)
    assert {array.dtype for array in [*A, compose(A), *gradient(A, R)]} == {R.dtype}
    assert relative_error(compose(A).tolist(), R.tolist()) < 1e-5
    assert compose([xp.eye(2, dtype="int64")]).dtype == numpy.float64
    assert descend(R, 3, steps=2)["risk"].dtype == numpy.float32


# Theorem 2.2


def test_risk_is_the_expected_squared_error(xp):
    rng = numpy.random.default_rng(0)
    A, R, root = weights(3, 3, 0.5, rng), target(3, 4), rng.standard_normal((3, 3))
    product = (numpy.eye(3) + A[2]) @ (numpy.eye(3) + A[1]) @ (numpy.eye(3) + A[0])
    numpy.testing.assert_allclose(compose(list(xp.asarray(A))).tolist(), product, rtol=1e-14)
    expected = numpy.linalg.norm((product - R) @ root) ** 2  # root is a square root of its covariance
    Sigma = xp.asarray(root @ root.T)
    assert population_risk(xp.asarray(A), xp.asarray(R), Sigma) == pytest.approx(expected, rel=1e-12)
    expected = numpy.linalg.norm(product - R) ** 2
    assert population_risk(xp.asarray(A), xp.asarray(R)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_gradient_against_central_differences(xp, layers):
    rng = numpy.random.default_rng(0)
    A, R, Sigma = weights(layers, 4, 0.9, rng), target(4, 10), covariance(4, rng)
    numerical = []
    for step in 1e-5 * numpy.eye(A.size).reshape(-1, *A.shape):
        above, below = population_risk(A + step, R, Sigma), population_risk(A - step, R, Sigma)
        numerical.append((above - below) / 2e-5)
    found = gradient(xp.asarray(A), xp.asarray(R), xp.asarray(Sigma))
    assert relative_error([layer.tolist() for layer in found], numerical) < 1e-7
    # The paper's order of the factors is right where there is at most one on either side, else wrong.
    wrong = relative_error(linear_report._printed_gradient(A, R, Sigma), numerical)
    assert wrong < 1e-7 if layers < 3 else wrong > 0.1


def test_gradient_is_that_of_the_engine(xp):
    rng = numpy.random.default_rng(0)
    arrays = weights(6, 5, 0.5, rng), target(5, 10), covariance(5, rng) / 10
    A, R, Sigma = (xp.asarray(array) for array in arrays)
    layers = [tr.Tensor(layer.copy(), requires_grad=True) for layer in A]
    optimizer = tr.optim.SGD(layers, lr=0.01, momentum=0.0)
    history = descend(R, 6, init=A, steps=30, step_size=0.01, Sigma=Sigma)
    for step in range(31):
        product = tr.Tensor(xp.eye(5))
        for layer in layers:
            product = product + layer @ product
        E = product - R
        risk = tr.sum(E @ Sigma * E)
        risk.backward()
        expected = gradient([layer.data for layer in layers], R, Sigma)
        found = numpy.array([layer.grad.tolist() for layer in layers])
        assert relative_error(found, [layer.tolist() for layer in expected]) < 1e-12
        assert history["risk"][step] == pytest.approx(risk.item(), rel=1e-10)
        assert history["gradient_norm"][step] == pytest.approx(numpy.linalg.norm(found), rel=1e-10)
        optimizer.step()
    assert history["risk"][-1] < 0.9 * history["risk"][0]


def test_pl_inequality():
    rng = numpy.random.default_rng(0)
    for _ in range(1000):
        layers, d, tau = int(rng.integers(1, 8)), int(rng.integers(1, 5)), rng.uniform(0, 0.99)
        A, R, Sigma = weights(layers, d, tau, rng), rng.standard_normal((d, d)), covariance(d, rng)
        assert squared_norm(gradient(A, R, Sigma)) >= (1 - 1e-9) * pl_bound(A, R, tau, Sigma)


@pytest.mark.parametrize("tau", [0, 0.3, 0.9])
@pytest.mark.parametrize("layers", [1, 2, 7])
def test_pl_inequality_is_tight(xp, layers, tau):
    A, R, Sigma = [-tau * xp.eye(3)] * layers, 2 * xp.eye(3), 5 * xp.eye(3)
    assert squared_norm(gradient(A, R, Sigma)) == pytest.approx(pl_bound(A, R, tau, Sigma), rel=1e-12)
    assert squared_norm(gradient(A, R)) == pytest.approx(pl_bound(A, R, tau), rel=1e-12)


@pytest.mark.parametrize(("layers", "a", "r", "sigma", "left", "printed"), [
    (3, -0.5, 1, 1, 0.574, 2.297), (1, 0, 2, 4, 64, 256)])
def test_printed_pl_inequality_is_false(layers, a, r, sigma, left, printed):
    A, R, Sigma = [numpy.array([[a]])] * layers, numpy.array([[r]]), numpy.array([[sigma]])
    found = squared_norm(gradient(A, R, Sigma))
    as_printed = 4 * layers * (1 - abs(a)) ** (layers - 1) * sigma ** 2 * population_risk(A, R, Sigma)
    assert (round(found, 3), round(as_printed, 3)) == (left, printed) and found < as_printed
    assert pl_bound(A, R, abs(a), Sigma) == pytest.approx(found, rel=1e-12)


def test_a_singular_covariance_leaves_risk_free_directions():
    A, R, Sigma = numpy.zeros((2, 2, 2)), numpy.diag([1.0, 3]), numpy.diag([1.0, 0])
    assert population_risk(A, R, Sigma) == pl_bound(A, R, 0, Sigma) == 0
    assert squared_norm(gradient(A, R, Sigma)) == 0
    assert population_risk(A, 2 * R, Sigma) == 1 and pl_bound(A, 2 * R, 0, Sigma) == 0


A3, R3 = numpy.zeros((2, 3, 3)), numpy.eye(3)


@pytest.mark.parametrize("function", [population_risk, gradient, lambda A, R, S: pl_bound(A, R, 0.5, S)])
@pytest.mark.parametrize(("A", "R", "Sigma", "message"), [
    (A3, numpy.eye(2), None, r"R has shape \(2, 2\): expected \(3, 3\)"),
    (A3, R3, numpy.eye(2), r"Sigma has shape \(2, 2\): expected \(3, 3\)"),
    (A3, R3, numpy.diag([1.0, -1, 1]), "smallest eigenvalue is -1"),
    (A3, R3, numpy.triu(numpy.ones((3, 3))), "transpose"),
    (A3, R3, R3 + math.inf, "Sigma has an entry that is not finite"), (A3 + math.nan, R3, None, "A_1 has"),
    ([], R3, None, "expected one or more"), (R3, R3, None, r"A_1 is float64 of shape \(3,\)"),
    ([R3, numpy.eye(2)], R3, None, r"shapes \[\(2, 2\), \(3, 3\)\]")])
def test_risk_errors(function, A, R, Sigma, message):
    with pytest.raises(ValueError, match=message):
        function(A, R, Sigma)


@pytest.mark.parametrize("tau", [-0.1, 1, 1.5, math.nan, "0.5"])
def test_tau_out_of_range(tau):
    with pytest.raises(ValueError, match="tau"):
        pl_bound(A3, R3, tau)


def test_weights_larger_than_tau():
    with pytest.raises(ValueError, match=r"0\.5 is above tau = 0\.4"):
        pl_bound([0.5 * R3], R3, 0.4)


# Gradient descent


@pytest.mark.parametrize("layers", [2, 5, 10, 20, 50, 100])
def test_residual_descent_reaches_positive_definite_targets(xp, layers):
    history = descend(xp.asarray(positive_definite()), layers, steps=200)
    assert all(len(values) == 201 for values in history.values())
    risk = history["risk"] / history["risk"][0]
    assert risk[-1] <= 1e-10
    assert (numpy.diff(risk[risk > 1e-24]) < 0).all()
    assert history["largest_norm"][0] == 0 and history["least_singular_value"][-1] == pytest.approx(0.5)


def test_standard_descent_stays_at_zero(xp):
    history = descend(xp.asarray(positive_definite()), 10, "standard", steps=5)
    assert not history["gradient_norm"].any() and not history["least_singular_value"].any()
    assert (history["risk"] == history["risk"][0]).all() and history["risk"][0] > 1


def test_standard_descent_from_small_gaussians():
    R = positive_definite()
    deep, shallow = (descend(R, layers, "standard", 0.05, steps=400)["risk"] for layers in (10, 2))
    assert deep[-1] > 0.99 * deep[0] and shallow[-1] < 1e-10 * shallow[0]
    assert descend(R, 100, "standard", 0.05, steps=0)["gradient_norm"][0] < 1e-80


def test_residual_from_zero_is_standard_from_the_identity(xp):
    R = xp.asarray(target(8, 10))
    residual, standard = descend(R, 5), descend(R, 5, "standard", [xp.eye(8)] * 5)
    for key in ("risk", "gradient_norm", "least_singular_value"):
        numpy.testing.assert_allclose(residual[key], standard[key], rtol=1e-6, atol=1e-12)


def test_minus_identity_stalls_unless_there_is_noise():
    stalled, rescued = (descend(-I8, 10, init=noise, steps=1000) for noise in (0.0, 0.01))
    assert (stalled["risk"] >= 8).all() and (stalled["risk"][-1] < 8.01)
    assert stalled["least_singular_value"][-1] < 1e-3 and stalled["largest_norm"].max() < 1
    assert rescued["risk"][-1] < 1e-20 and rescued["largest_norm"].max() < 1


def test_reflections_are_out_of_reach_of_small_weights():
    for noise in (0.0, 0.01):
        history = descend(REFLECTION, 10, init=noise, steps=1000)
        assert (history["risk"] >= 1).all() and history["risk"][-1] < 1.01
        assert history["largest_norm"].max() < 1
    # With 3 layers and noise one layer becomes a reflection: far outside of |||A||| < 1.
    history = descend(REFLECTION, 3, init=0.01, steps=1000)
    assert history["risk"][-1] < 1e-20 and history["largest_norm"][-1] > 1.9
    assert (history["risk"][history["largest_norm"] < 1] > 0.9).all()


def test_history_of_one_step_by_hand():
    history = descend(numpy.array([[3.0]]), 2, steps=1, step_size=0.1, Sigma=numpy.array([[0.5]]))
    expected = {"risk": [0.5 * 4, 0.5 * (1.2 ** 2 - 3) ** 2], "largest_norm": [0, 0.2],
                "gradient_norm": [2 * math.sqrt(2), 1.56 * 1.2 * math.sqrt(2)],
                "least_singular_value": [1, 1.44]}
    for key, values in expected.items():
        numpy.testing.assert_allclose(history[key], values, rtol=1e-12, atol=1e-15)


def test_default_step_size_and_seed():
    R, Sigma = target(3, 9), 2 * numpy.eye(3)  # ||R||^2 = 9
    a = descend(R, 4, init=0.1, steps=3, Sigma=Sigma)
    b = descend(R, 4, init=0.1, steps=3, Sigma=Sigma, step_size=0.5 / (4 * 9 * 2))
    c = descend(R, 4, init=0.1, steps=3, Sigma=Sigma, seed=1)
    numpy.testing.assert_allclose(a["risk"], b["risk"], rtol=1e-12)
    assert a["risk"][0] != c["risk"][0]


def test_the_start_is_left_as_it_is():
    start = numpy.zeros((2, 3, 3))
    descend(target(3, 4), 2, init=start, steps=3)
    assert not start.any()


@pytest.mark.parametrize(("options", "message"), [
    ({"parameterization": "resnet"}, "'resnet': expected 'residual' or 'standard'"),
    ({"layers": 0}, "layers 0"), ({"init": -1.0}, r"init -1\.0"), ({"init": math.nan}, "init nan"),
    ({"init": [R3]}, "init holds 1 matrices"), ({"init": [numpy.eye(2)] * 2}, r"R has shape \(3, 3\)"),
    ({"steps": -1}, "steps -1"), ({"steps": 1.5}, r"steps 1\.5"), ({"step_size": 0}, "step_size 0"),
    ({"step_size": math.inf}, "step_size inf"), ({"step_size": "1"}, "step_size '1'"),
    ({"step_size": 1e3}, "overflows at step"), ({"Sigma": -R3}, "semidefinite"),
    ({"R": math.nan * R3}, "R has an entry")])
def test_descend_errors(options, message):
    with pytest.raises(ValueError, match=message):
        descend(**{"R": 2 * R3, "layers": 2, **options})


# The program


def test_program_prints_and_draws(tmp_path, capsys, monkeypatch):
    panels, save = {}, linear_report.plot.save

    def kept(path, drawn, title=""):
        panels[path.stem] = drawn
        save(path, drawn, title)

    monkeypatch.setattr(linear_report.plot, "save", kept)
    linear_report.main(["--out", str(tmp_path / "a")])
    for panel in panels["linear_descent"]:  # axes that end where the data do, and no line behind a legend
        assert panel.y_range[1] <= 1e4 * max(max(line.y) for line in panel.lines)
        without = replace(panel, lines=[replace(line, label="") for line in panel.lines])
        drawn, plain = (numpy.asarray(draw_panel(panel)) for panel in (panel, without))
        for color in map(ImageColor.getrgb, line_colors(panel.lines)):
            assert (drawn == color).all(axis=-1).sum() >= (plain == color).all(axis=-1).sum()
    printed = capsys.readouterr().out
    for claim in ("Theorem 2.1", "Lemma 2.4", "Theorem 2.2", "left 0.574, right 2.297", "standard, zero",
                  "-I_8", "a reflection"):
        assert claim in printed
    for name in ("factorization", "descent", "failures"):
        with Image.open(tmp_path / "a" / f"linear_{name}.png") as image:
            assert image.format == "PNG" and image.width == 2560
