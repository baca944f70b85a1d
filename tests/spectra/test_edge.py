"""The noise edge: Marchenko-Pastur and detection limits against matrices that were made to have them."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import Refused
from workbench.spectra import (
    NoiseEdge,
    detection_threshold,
    noise_edge,
    predicted_variance,
    singular_values,
    spectral_norm,
)


def rounded(w, bits):
    """Nearest of 2^bits - 1 symmetric levels with one scale per row; w [out, in]."""
    scale = np.abs(w).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    return np.round(w / scale) * scale


def test_golden_edge_of_the_marchenko_pastur_law():
    # Q = 2, s = 1: lambda_plus = 2.9142136 for 1000 x 500 entries of variance 1/1000.
    assert noise_edge(1 / 1000, (1000, 500)) ** 2 == pytest.approx(2.9142136, abs=1e-7)
    torch.manual_seed(0)
    values = singular_values(torch.randn(1000, 500, dtype=torch.float64) / 1000**0.5)
    assert values[0] ** 2 == pytest.approx(2.8342, abs=1e-4)  # just inside the limits
    assert values[-1] ** 2 == pytest.approx(0.0912, abs=1e-4)  # of which the lower is 0.0857864


def test_uniform_rounding_noise_reaches_the_edge_within_three_percent():
    # The error of a step of 1: variance 1/12.
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (512, 1024))
    assert spectral_norm(noise) == pytest.approx(noise_edge(1 / 12, (512, 1024)), rel=0.03)


def test_real_rounding_reaches_the_edge_too():
    w = np.random.default_rng(1).standard_normal((256, 512))
    edge = NoiseEdge.measure(w, rounded(w, 4))
    assert edge.error_norm == pytest.approx(edge.edge, rel=0.05)


@pytest.mark.parametrize(("strength", "found"), [(2.0, True), (0.5, False)])
def test_a_planted_direction_is_found_above_the_threshold_only(strength, found):
    # With y = out / in the outlier stands at (1 + t^2)(y + t^2) / t^2 once t > y^(1/4), and at the edge
    # before (Benaych-Georges & Nadakuditi 2012, section 3.1).
    rng, shape, variance = np.random.default_rng(0), (250, 500), 1 / 500
    u, v = rng.standard_normal(250), rng.standard_normal(500)
    u, v = u / np.linalg.norm(u), v / np.linalg.norm(v)
    t = strength * detection_threshold(variance, shape)
    noisy = t * np.outer(u, v) + rng.standard_normal(shape) * np.sqrt(variance)
    _, vectors = scipy.linalg.eigh(noisy @ noisy.T, subset_by_index=[249, 249])
    overlap, largest = abs(u @ vectors[:, 0]), singular_values(noisy)[0]
    if found:
        assert largest**2 == pytest.approx((1 + t**2) * (0.5 + t**2) / t**2, rel=0.06)
        assert largest > 1.1 * noise_edge(variance, shape)
        assert overlap > 0.9
    else:
        assert largest == pytest.approx(noise_edge(variance, shape), rel=0.03)
        assert overlap < 0.25


@given(st.integers(2, 8), st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(2, 40))
@settings(max_examples=40, deadline=None)
def test_weyl_no_singular_value_moves_by_more_than_the_norm_of_the_error(bits, seed, out, inner):
    w = np.random.default_rng(seed).standard_normal((out, inner))
    edge = NoiseEdge.measure(w, rounded(w, bits))
    assert edge.largest_shift <= edge.error_norm + 1e-9
    assert edge.error_norm == pytest.approx(np.linalg.norm(rounded(w, bits) - w, 2), rel=1e-9, abs=1e-12)


def test_weyl_is_reached_by_an_error_along_the_first_direction():
    w = np.diag([3.0, 2.0, 1.0])
    edge = NoiseEdge.measure(w, np.diag([3.5, 2.0, 1.0]))
    assert edge.largest_shift == pytest.approx(0.5)
    assert edge.error_norm == pytest.approx(0.5)


def test_lost_and_kept_count_the_directions_on_either_side_of_the_edge():
    w = np.diag([10.0, 9.0, 8.0, *[1e-3] * 61])
    w_hat = w + np.random.default_rng(0).uniform(-0.5, 0.5, w.shape)
    edge = NoiseEdge.measure(torch.from_numpy(w), torch.from_numpy(w_hat))
    assert edge.edge == pytest.approx(np.sqrt(1 / 12) * 16, rel=0.03)  # about 4.6
    assert (edge.kept, edge.lost, edge.undetectable) == (3, 61, 61)
    np.testing.assert_allclose(edge.before, np.diag(w), rtol=1e-9)
    np.testing.assert_allclose(edge.after, np.linalg.svd(w_hat, compute_uv=False), rtol=1e-7)


def test_between_threshold_and_edge_a_direction_is_lost_but_detectable():
    w = np.diag([10.0, 3.0, *[1e-3] * 62])
    edge = NoiseEdge.measure(w, w + np.random.default_rng(0).uniform(-0.5, 0.5, w.shape))
    assert edge.threshold < 3 < edge.edge
    assert (edge.lost, edge.undetectable) == (63, 62)


@given(st.floats(1e-12, 1e6), st.integers(1, 5000), st.integers(1, 5000))
def test_the_threshold_is_at_most_half_the_edge(variance, out, inner):
    assert detection_threshold(variance, (out, inner)) <= noise_edge(variance, (out, inner)) / 2 * (1 + 1e-12)


def test_an_unchanged_copy_loses_nothing():
    w = np.random.default_rng(0).standard_normal((8, 12))
    edge = NoiseEdge.measure(w, w)
    assert (edge.edge, edge.threshold, edge.error_norm, edge.lost, edge.kept) == (0, 0, 0, 0, 8)


def test_a_bias_shows_as_an_error_norm_above_the_edge():
    w = np.random.default_rng(0).standard_normal((64, 64))
    edge = NoiseEdge.measure(w, w + 0.1 + 0.01 * np.random.default_rng(1).standard_normal((64, 64)))
    assert edge.error_variance == pytest.approx(1e-4, rel=0.1)
    assert edge.error_norm > 10 * edge.edge


@pytest.mark.parametrize(
    ("variance", "shape", "words"),
    [
        (-1.0, (2, 2), "error_variance is -1"),
        (float("nan"), (2, 2), "error_variance is nan"),
        (1.0, (0, 2), r"shape is \[0, 2\]"),
        (1.0, (2, 2, 2), r"shape is \[2, 2, 2\]"),
    ],
)
def test_senseless_edges_are_refused(variance, shape, words):
    for function in (noise_edge, detection_threshold):
        with pytest.raises(Refused, match=words):
            function(variance, shape)


def test_different_shapes_are_refused_before_the_work():
    with pytest.raises(Refused, match=r"\[2, 3\] and its copy \[3, 2\].*same orientation"):
        NoiseEdge.measure(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(Refused, match="at least one weight"):
        NoiseEdge.measure(np.ones((0, 3)), np.ones((0, 3)))


def test_the_variance_of_rounding_is_known_from_the_levels_alone():
    x = np.random.default_rng(0).uniform(-7, 7, 200_000)
    whole = np.arange(-7, 8)
    np.testing.assert_allclose(predicted_variance(x, whole, 0.5), 0.25 / 12)
    uneven = np.array([-7.0, -3, -1, 0, 2, 7])
    nearest = uneven[np.abs(x[:, None] - uneven).argmin(1)]
    assert predicted_variance(x, uneven).mean() == pytest.approx(np.square(nearest - x).mean(), rel=0.01)


def test_what_is_clipped_errs_by_its_distance():
    assert predicted_variance(np.array([3.0, 10.0, -9.0]), np.arange(-4, 5), 2.0).tolist() == pytest.approx(
        [4 / 12, 4 * 36, 4 * 25]
    )


@pytest.mark.parametrize("levels", [[1.0], [2.0, 1.0], [1.0, 1.0], [[0.0, 1.0]]])
def test_levels_that_are_no_grid_are_refused(levels):
    with pytest.raises(Refused, match="two levels or more, ascending"):
        predicted_variance(np.zeros(3), np.array(levels))
