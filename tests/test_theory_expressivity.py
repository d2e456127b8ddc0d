"""Tests of the networks that fit any sample: the theorem's promises, the paper's slips, the errors."""
import math
import re

import numpy
import pytest

import tinyres as tr
from tinyres.theory import expressivity, expressivity_report, memorizing_network
from tinyres.theory.expressivity import MovingBlock, fit


def sample(xp, n=1000, d=3072, r=10, seed=0):
    rng = numpy.random.default_rng(seed)
    points, labels = rng.standard_normal((n, d)), rng.integers(0, r, n)
    return xp.asarray(points), labels


def on_sphere(xp, n, d=256, r=3, seed=0):
    points, labels = sample(xp, n, d, r, seed)
    return points / xp.linalg.norm(points, axis=1, keepdims=True), labels


def largest_error(scores, labels):
    scores = tr.backend.to_numpy(scores)
    return abs(scores - numpy.eye(scores.shape[1])[labels]).max()


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-8), ("float32", 1e-3)])
def test_every_label_of_a_thousand_points_is_fitted(xp, dtype, tolerance):
    n, d, r, k = 1000, 3072, 10, 16
    points, labels = sample(xp, n, d, r)  # with the seed of fit: its random streams must be separate
    network = fit(points, labels, k, r, dtype=dtype)
    scores = network(points)
    assert scores.shape == (n, r) and scores.dtype == dtype and isinstance(scores, xp.ndarray)
    assert (tr.backend.to_numpy(scores).argmax(axis=1) == labels).all()
    assert largest_error(scores, labels) < tolerance
    blocks = math.ceil(n / k)
    assert len(network.blocks) == blocks == 63
    assert network.num_parameters() == k * d + blocks * (2 * k * k + k) + k * r + r * r + r == 82_686


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_block_moves_its_points_to_surrogate_labels_and_no_bit_of_the_others(xp, dtype):
    n, k, r = 210, 16, 4
    points, labels = sample(xp, n, 50, r)
    network = fit(points, labels, k, r, dtype=dtype)
    moved = numpy.zeros(n, bool)
    for block in range(len(network.blocks)):
        before, after = (tr.backend.to_numpy(network.hidden(points, block + i)) for i in (0, 1))
        changed = (before != after).any(axis=1)
        assert changed.sum() == min(k, n - block * k) and not (changed & moved).any()
        moved |= changed
    assert moved.all()
    surrogates = network.output.A.numpy().T
    numpy.testing.assert_allclose(surrogates @ surrogates.T, numpy.eye(r), atol=1e-6)
    numpy.testing.assert_allclose(after, surrogates[labels], atol=1e-9 if dtype == "float64" else 1e-4)


@pytest.mark.parametrize("n, k, r", [(64, 16, 10), (65, 16, 10), (15, 16, 10), (1, 8, 1), (200, 8, 10),
                                     (200, 10, 10), (200, 3, 4), (300, 16, 2), (1000, 16, 100),
                                     (300, 100, 100), (40, 1, 2)])
def test_any_sizes(xp, n, k, r):
    points, labels = sample(xp, n, 20, r)
    network = fit(points, labels, k, r)
    assert len(network.blocks) == math.ceil(n / k)
    assert network.num_parameters() == k * 20 + math.ceil(n / k) * (2 * k * k + k) + k * r + r * r + r
    assert largest_error(network(points), labels) < 1e-8


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e12])
def test_the_scale_of_the_points_does_not_matter(xp, scale):
    points, labels = sample(xp, 100, 30)
    assert largest_error(fit(points * scale, labels, 16, 10, dtype="float32")(points * scale), labels) < 1e-3


def test_other_batches_round_differently_and_fit_all_the_same(xp, monkeypatch):
    points, labels = sample(xp, 300, 500)
    network = fit(points, labels, 16, dtype="float32")
    order = numpy.random.default_rng(1).permutation(len(labels))
    monkeypatch.setattr(memorizing_network, "BATCH", 7)
    assert largest_error(network(points[xp.asarray(order)]), labels[order]) < 1e-3


def test_parts_of_the_search_for_the_largest_inner_product(xp, monkeypatch):
    monkeypatch.setattr(expressivity, "ROWS", 8)
    a, b = sample(xp, 50, 4)[0], sample(xp, 50, 4, seed=1)[0]
    products = tr.backend.to_numpy(a @ b.T)
    expected = [max(products[i, i + 1:], default=-math.inf) for i in range(50)]
    numpy.testing.assert_allclose(tr.backend.to_numpy(expressivity._largest_later_products(a, b)), expected)


def test_integers_and_parallel_points_are_fine(xp):
    direction = sample(xp, 1, 6)[0]
    points = xp.concatenate([direction * (i + 1) for i in range(40)] + [-direction])
    labels = numpy.arange(41) % 3
    assert largest_error(fit(points, labels, 8)(points), labels) < 1e-8
    pixels = xp.asarray(numpy.random.default_rng(0).integers(0, 256, (200, 48)).astype("uint8"))
    labels = numpy.arange(200) % 10
    assert largest_error(fit(pixels, labels, 16, dtype="float32")(pixels), labels) < 1e-2


def test_equal_points_with_equal_labels_count_once(xp):
    points, labels = sample(xp, 48, 30)
    twice = xp.concatenate([points, points[::-1], points[:5]])
    again = numpy.concatenate([labels, labels[::-1], labels[:5]])
    network = fit(twice, again, 16)
    assert len(network.blocks) == 3 and largest_error(network(twice), again) < 1e-8


def test_the_same_seed_gives_the_same_bytes(xp):
    points, labels = sample(xp, 100, 30)
    a, b, c = (fit(points, labels, 16, seed=seed).state_dict() for seed in (5, 5, 6))
    assert all((a[name] == b[name]).all() for name in a) and (a["projection"] != c["projection"]).any()


def test_the_network_runs_on_tensors_with_a_graph(xp):
    points, labels = sample(xp, 40, 30)
    network = fit(points, labels, 16, 10)
    scores = network(tr.Tensor(points))
    assert isinstance(scores, tr.Tensor) and scores.requires_grad
    numpy.testing.assert_allclose(scores.numpy(), tr.backend.to_numpy(network(points)), atol=1e-12)
    tr.softmax_cross_entropy(scores, xp.asarray(labels)).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert network.hidden(tr.Tensor(points), 0).shape == (40, 16)


# What the paper prints


def test_lemma_b1_as_printed_moves_a_wrong_point(xp):
    """rho' = 0.1, squared norms 1.1, threshold 1 - 2 rho' = 0.8: a's unit must leave b alone."""
    def moved(squared_distance):
        cosine = 1 - squared_distance / 2.2
        points = xp.asarray(1.1**0.5 * numpy.array([[1, 0], [cosine, (1 - cosine**2) ** 0.5]]))
        assert float(((points[0] - points[1]) ** 2).sum()) == pytest.approx(squared_distance)
        U, s, V = xp.zeros((2, 2)), xp.zeros(2), xp.zeros((2, 2))
        U[:, 0], s[0], V[0, 0] = points[0], -0.8, 1.0
        return tr.backend.to_numpy((MovingBlock(U, s, V)(tr.Tensor(points)).data - points)[:, 0])

    numpy.testing.assert_allclose(moved(0.3), [0.3, 0.15], atol=1e-12)  # 3 rho'
    assert moved(0.09)[1] > 0.25  # a distance of 3 rho', not squared
    numpy.testing.assert_allclose(moved(0.6), [0.3, 0.0], atol=1e-12)  # 6 rho'
    assert expressivity_report._wrong_unit_answer(0.1, 3) == pytest.approx(0.15)
    assert expressivity_report._wrong_unit_answer(0.1, 6) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-8), ("float32", 1e-3)])
def test_the_papers_threshold_fits_points_of_norm_1_at_a_large_width(xp, dtype, tolerance):
    points, labels = on_sphere(xp, 60)
    network = fit(points, labels, 400, dtype=dtype, method="paper")
    assert len(network.blocks) == 1 and largest_error(network(points), labels) < tolerance
    z = tr.backend.to_numpy(network.hidden(points, 0))
    w = numpy.concatenate([z, network.output.A.numpy().T])  # with the surrogate labels
    distances = ((w[:, None] - w) ** 2).sum(axis=2)[numpy.triu_indices(len(w), 1)]
    numpy.testing.assert_allclose(network.blocks[0].s.numpy()[:60], 2 * distances.min() / 6 - 1, rtol=1e-4)


def test_the_corrected_separation_is_what_lemma_b1_needs(xp):
    def rho(squared_distance):
        cosine = 1 - squared_distance / 2.2
        points = 1.1**0.5 * numpy.array([[1, 0, 0], [cosine, (1 - cosine**2) ** 0.5, 0]])
        return expressivity._lemma_b1(xp.asarray(points), xp.asarray([[0.0, 0.0, 1.0]]))

    assert rho(0.61) == pytest.approx(0.61 / 6)
    with pytest.raises(ValueError, match="norms go from 1 to 1.1"):
        rho(0.59)


def test_the_papers_threshold_refuses_with_the_figures(xp):
    points, labels = on_sphere(xp, 60)
    network = fit(points, labels, 16)
    assert largest_error(network(points), labels) < 1e-8
    with pytest.raises(ValueError, match="does not apply at width 16") as refusal:
        fit(points, labels, 16, method="paper")
    figures = re.search(r"largest inner product (\S+), smallest norm (\S+)\)", str(refusal.value))
    inner, norm = figures.groups()
    projection_rng, _ = numpy.random.default_rng(0).spawn(2)
    z = tr.backend.to_numpy(points) @ projection_rng.standard_normal((256, 16)) / 4
    products = z @ z.T
    assert float(inner) == pytest.approx(products[numpy.triu_indices(60, 1)].max(), rel=0.01)
    assert float(norm) == pytest.approx(products.diagonal().min() ** 0.5, rel=0.01)
    with pytest.raises(ValueError, match="divided by their norms"):
        fit(points * 2, labels, 400, method="paper")
    close = xp.concatenate([points, points[:1] + 0.01 * points[1:2]])
    with pytest.raises(ValueError, match="smallest squared distance"):
        fit(close, [*labels, 0], 400, method="paper")


def test_a_projection_without_the_factor_does_not_keep_norms(xp):
    points, _ = on_sphere(xp, 200)
    printed = numpy.random.default_rng(1).standard_normal((256, 16))
    norms = numpy.linalg.norm(tr.backend.to_numpy(points) @ printed, axis=1)
    assert norms.mean() == pytest.approx(4, rel=0.05) and (norms / 4).mean() == pytest.approx(1, rel=0.05)


def test_random_unit_vectors_are_correlated_at_4_log_r():
    rng = numpy.random.default_rng(0)
    assert expressivity_report._correlation(100, math.ceil(4 * math.log(100)), rng) > 0.7
    assert expressivity_report._correlation(100, math.ceil(15 * math.log(100)), rng) < 0.5


# Errors


def bad(xp, row, value):
    points, _ = sample(xp, 20, 6)
    points[row] = value
    return points


@pytest.mark.parametrize("change, message", [
    ({"labels": [0] * 19}, r"shape \(20,\)"),
    ({"labels": [0.5] * 20}, "integers"),
    ({"labels": [3] * 19 + [-1]}, "go from -1 to 3"),
    ({"labels": [-1] * 20}, "go from -1 to -1"),
    ({"labels": [3] * 20, "num_classes": 3}, "go from 3 to 3, expected 0 to 2"),
    ({"num_classes": 0}, "num_classes 0"),
    ({"num_classes": 2.0}, "num_classes 2.0"),
    ({"width": 0}, "width 0"),
    ({"width": 1.5}, "width 1.5"),
    ({"dtype": "float16"}, "float16"),
    ({"method": "random"}, "'random'"),
])
def test_bad_arguments(xp, change, message):
    points, _ = sample(xp, 20, 6)
    arguments = {"points": points, "labels": [0, 1] * 10, "width": 8} | change
    with pytest.raises(ValueError, match=message):
        fit(**arguments)


@pytest.mark.parametrize("shape", [(20,), (20, 3, 2), (0, 6), (20, 0)])
def test_points_of_a_wrong_shape(xp, shape):
    with pytest.raises(ValueError, match="points: expected real numbers"):
        fit(xp.ones(shape), [0] * 20, 8)
    with pytest.raises(ValueError, match="points: expected real numbers"):
        fit(xp.ones((20, 6), "complex128"), [0] * 20, 8)


@pytest.mark.parametrize("value, message", [(0, "row 7 is zero"), (math.nan, "row 7 is not finite"),
                                            (math.inf, "row 7 is not finite"), (1e-200, "scale the points")])
def test_points_that_no_unit_can_single_out(xp, value, message):
    with pytest.raises(ValueError, match=message):
        fit(bad(xp, 7, value), [0, 1] * 10, 8)


def test_points_that_are_no_array():
    with pytest.raises(TypeError, match="NumPy or CuPy"):
        fit([[1.0, 2.0]], [0], 8)


def test_the_same_point_with_two_labels_names_the_rows(xp):
    points, labels = sample(xp, 20, 6)
    points[11], labels[4], labels[11] = points[4], 1, 2
    with pytest.raises(ValueError, match="rows 4 and 11 are equal but have the labels 1 and 2"):
        fit(points, labels, 8)


def test_points_too_close_for_float32_name_the_remedies(xp):
    points, labels = sample(xp, 20, 6)
    points[11] = points[4] * (1 + 1e-6)
    labels[4], labels[11] = 1, 2
    with pytest.raises(ValueError, match=r"row (4|11) .*float32.*Use float64, a larger width, another seed"):
        fit(points, labels, 8, dtype="float32")
    assert largest_error(fit(points, labels, 8, 10)(points), labels) < 1e-6
    points[11] = points[4] + 1e-12  # equal after rounding to float32
    with pytest.raises(ValueError, match="rows 4 and 11 are equal"):
        fit(points, labels, 8, dtype="float32")


def test_a_width_too_small_for_the_classes(xp):
    points, labels = sample(xp, 30, 6)
    with pytest.raises(ValueError, match="width 1 holds no 10 surrogate labels"):
        fit(points, labels, 1, 10)


def test_calls_with_wrong_points_or_blocks(xp):
    points, labels = sample(xp, 40, 6)
    network = fit(points, labels, 16)
    for wrong in (points[0], points[:, :5]):
        with pytest.raises(ValueError, match=r"expects \(N, 6\)"):
            network(wrong)
    for block in (-1, 4, 1.0):
        with pytest.raises(ValueError, match="from 0 to 3"):
            network.hidden(points, block)


def test_the_report_prints_the_claims_and_draws_the_pictures(tmp_path, capsys):
    points, labels = on_sphere(numpy, 120, r=10)
    expressivity_report.report("sphere", points, labels, tmp_path, seed=0)
    printed = capsys.readouterr().out
    assert "all n labels are fitted, float32" in printed and "| 120, largest |y^ - y|" in printed
    assert "| 0.15\n" in printed and "16 points change" in printed
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {f"expressivity_{name}.png" for name in ("fitted", "plane", "width")}


def test_in_the_plane_every_point_ends_at_one_of_three_places():
    error, panels = expressivity_report._plane(seed=0)
    assert error < 1e-9 and len(panels) == 4
    for line in panels[0].lines[:3], panels[-1].lines[-3:]:
        assert [part.style for part in line] == ["points"] * 3
    for before, after in zip(panels[0].lines[:3], panels[-1].lines[-3:], strict=True):
        assert numpy.ptp(before.x) > 0.5 and numpy.ptp(after.x) + numpy.ptp(after.y) < 1e-9
        assert numpy.hypot(after.x, after.y) == pytest.approx(1)  # a surrogate label


def test_the_demonstration_loads_shapes_where_there_is_no_cifar(tmp_path):
    name, points, labels = expressivity_report._load(tmp_path, seed=0)
    assert name == "generated shapes" and points.shape == (5000, 3072) and set(labels) == set(range(10))
    numpy.testing.assert_allclose(numpy.linalg.norm(points, axis=1), 1, rtol=1e-5)
