"""Principal angles, what noise does to a direction, and shares from alpha."""

import numpy as np
import pytest

from workbench.errors import Refused
from workbench.spectra import NoiseEdge, kept_directions, noise_density, overlap, predicted_spike, shares


def turned(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


@pytest.mark.parametrize("degrees", [0.0, 1e-5, 0.3, 40.0, 89.0])
def test_a_turned_direction_is_off_by_its_angle(degrees):
    w = np.diag([3.0, 1e-3, 1e-4])
    u = np.eye(3)
    u[:2, :2] = turned(degrees)
    found = overlap(w, u @ w, 1)
    assert found.left[0] == pytest.approx(degrees, rel=1e-6, abs=1e-7)
    assert found.right[0] == pytest.approx(0, abs=1e-5)
    assert found.left_overlap == pytest.approx(np.cos(np.radians(degrees)) ** 2)


def test_a_copy_has_no_angles_and_k_is_lowered():
    w = np.random.default_rng(0).standard_normal((30, 20))
    found = overlap(w, w.astype(np.float32), 50)
    assert len(found.left) == 20
    assert found.largest < 1e-2
    with pytest.raises(Refused, match="k 0"):
        overlap(w, w, 0)
    with pytest.raises(Refused, match=r"\[30, 20\], its copy \[20, 30\]"):
        overlap(w, w.T)


@pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
def test_directions_that_a_matrix_has_not_are_not_compared(shape):
    """Rank 3: five of eight directions could be any, and say nothing of the copy."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((shape[0], 3)) @ rng.standard_normal((3, shape[1]))
    copy = w + 1e-9 * rng.standard_normal(shape)
    found = overlap(w, copy, 8)
    assert len(found.left) == len(found.right) == 3
    assert found.largest < 1e-5
    assert len(kept_directions(w, copy, 8)[0]) == 3
    assert np.isnan(overlap(0 * w, copy).left_overlap)
    assert np.isnan(overlap(0 * w, copy).largest)


def test_directions_that_the_copy_has_lost_are_off_by_a_right_angle():
    w = np.diag([3.0, 2.0, 1.0, 0.5])
    copy = np.diag([3.0, 2.0, 0.0, 0.0])
    found = overlap(w, copy, 4)
    assert found.left == pytest.approx([0, 0, 90, 90])
    assert found.left_overlap == pytest.approx(0.5)
    assert kept_directions(w, copy, 4)[1] == pytest.approx([1, 1, 0, 0])
    assert overlap(w, 0 * w, 2).right.tolist() == [90, 90]


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_angles_have_no_scale(scale):
    rng = np.random.default_rng(0)
    w, e = rng.standard_normal((20, 30)), 0.1 * rng.standard_normal((20, 30))
    plain, scaled = overlap(w, w + e, 4), overlap(w * scale, (w + e) * scale, 4)
    np.testing.assert_allclose(scaled.left, plain.left, rtol=1e-9)


@pytest.mark.parametrize("shape", [(400, 200), (200, 400)])
def test_noise_turns_a_direction_as_far_as_predicted(shape):
    rng = np.random.default_rng(0)
    u, v = (vector / np.linalg.norm(vector) for vector in (rng.standard_normal(size) for size in shape))
    found = []
    for _ in range(8):
        left, values, right = np.linalg.svd(
            3 * np.outer(u, v) + 0.1 * rng.standard_normal(shape), full_matrices=False
        )
        found.append((values[0], (left[:, 0] @ u) ** 2, (right[0] @ v) ** 2))
    spike = predicted_spike(3, 0.01, shape)
    assert np.mean(found, axis=0) == pytest.approx((spike.value, spike.left, spike.right), rel=0.03)
    lost = predicted_spike(0.5, 0.01, shape)
    assert (lost.left, lost.right) == (0, 0)
    assert predicted_spike(3, 0.0, shape).left == 1


def test_the_error_of_rounding_has_the_spectrum_of_noise():
    w = np.random.default_rng(0).standard_normal((300, 200))
    edge = NoiseEdge.measure(w, np.round(w / 0.5) * 0.5)
    assert edge.error.shape == (200,)
    assert edge.error_norm == edge.error[0] == pytest.approx(edge.edge, rel=0.05)
    x = np.linspace(0, edge.edge * 1.1, 2000)
    density = noise_density(x, edge.error_variance, edge.shape)
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-3)
    middle = x[np.searchsorted(np.cumsum(density) / density.sum(), 0.5)]
    assert np.median(edge.error) == pytest.approx(middle, rel=0.02)
    with pytest.raises(Refused, match="variance 0 has no density"):
        noise_density(x, 0.0, (3, 3))


def test_golden_shares_of_alphapruning():
    alphas, sizes = [2, 3, 5], [100, 200, 100]
    assert shares(alphas, sizes, 0.5) == pytest.approx([0.3684211, 0.4736842, 0.6842105], abs=1e-7)
    clipped = shares(alphas, sizes, 0.8)  # the published code gives the last one 1.09
    assert clipped == pytest.approx([0.6188, 0.7956, 0.99], abs=1e-4)
    assert np.dot(clipped, sizes) / 400 == pytest.approx(0.8)


def test_equal_alphas_and_no_eps_are_uniform():
    assert shares([3, 3, 3], [1, 2, 3], 0.5).tolist() == pytest.approx([0.5] * 3)
    assert shares([2, 5], [1, 3], 0.5, eps=0).tolist() == pytest.approx([0.5] * 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([2.0], [1, 2], 0.5), "1 alphas and 2 sizes"),
        (([2.0, np.nan], [1, 2], 0.5), "finite alpha"),
        (([2.0], [1], 1.0), "mean share of 1 is outside 0 to 0.99"),
    ],
)
def test_shares_refuse(arguments, words):
    with pytest.raises(Refused, match=words):
        shares(*arguments)
    with pytest.raises(Refused, match="eps is 1"):
        shares([2.0], [1], 0.5, eps=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1, -1, (3, 4)), "error_variance is -1"),
        ((1, float("nan"), (3, 4)), "error_variance is nan"),
        ((-1, 1, (3, 4)), "strength is -1"),
        ((1, 1, (0, 4)), r"shape is \[0, 4\]"),
    ],
)
def test_a_spike_that_makes_no_sense_is_refused(arguments, words):
    with pytest.raises(Refused, match=words):
        predicted_spike(*arguments)
