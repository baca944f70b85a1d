"""The tail fit: golden numbers, the definition written out as a slow loop, and what it does at its limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import Refused
from workbench.spectra import fit_from, fit_tail, scan_tail

TEN = [0.1, 0.2, 0.3, 0.5, 0.8, 1.3, 2.1, 3.4, 8.9, 20]


def pareto(exponent, n, seed=0):
    """n samples of density ~ x^-exponent from 1 up, by inverting the distribution function."""
    return (1 - np.random.default_rng(seed).random(n)) ** (-1 / (exponent - 1))


def slow_scan(eigenvalues):
    """Alpha and D of every candidate, as the definition reads: one loop, one candidate at a time."""
    x = np.sort(eigenvalues)
    alphas, distances = [], []
    for i in range(len(x) - 1):
        tail = x[i:]
        alpha = 1 + len(tail) / np.log(tail / tail[0]).sum()
        fitted = 1 - (tail / tail[0]) ** (1 - alpha)
        alphas.append(alpha)
        distances.append(np.abs(fitted - np.arange(len(tail)) / len(tail)).max())
    return np.array(alphas), np.array(distances)


def test_golden_ten_eigenvalues():
    # Computed with WeightWatcher's WWFit and with the `powerlaw` package, which agree; 7 printed digits.
    fit = fit_tail(np.array(TEN), least=10)
    assert fit.alpha == pytest.approx(1.7037646, abs=1e-7)
    assert fit.D == pytest.approx(0.1596390, abs=1e-7)
    assert fit.sigma == pytest.approx(0.2873107, abs=1e-7)
    assert (fit.xmin, fit.tail, fit.xmin_index, fit.num_evals) == (0.8, 6, 4, 10)


def test_golden_powers_of_two():
    # Six eigenvalues are too few to call it a fit, so the scan is asked.
    scan = scan_tail(np.array([1, 2, 4, 8, 16, 32]))
    best = scan.D.argmin()
    assert scan.alpha[best] == pytest.approx(1.5770780, abs=1e-7)
    assert scan.D[best] == pytest.approx(0.2173377, abs=1e-7)
    assert scan.eigenvalues[best] == 1


# 700 and more candidates make several bands of the distance matrix, so their seams are covered.
@pytest.mark.parametrize("n", [2, 3, 50, 255, 700])
def test_the_vectorised_scan_is_the_loop(n):
    eigenvalues = np.random.default_rng(n).lognormal(0, 2, n) + 1e-4
    scan, (alpha, distance) = scan_tail(eigenvalues), slow_scan(eigenvalues)
    np.testing.assert_allclose(scan.alpha, alpha, rtol=1e-9)
    np.testing.assert_allclose(scan.D, distance, atol=1e-9)


@pytest.mark.parametrize(("exponent", "expected"), [(2, 1.9594), (3, 2.9188), (4, 3.8782)])
def test_pareto_samples_give_back_their_exponent(exponent, expected):
    fit = fit_tail(pareto(exponent, 800))
    assert abs(fit.alpha - exponent) < 2 * fit.sigma  # the claim
    assert fit.alpha == pytest.approx(expected, abs=1e-4)  # the regression, seed 0


@given(
    st.lists(st.floats(0.01, 1e3), min_size=10, max_size=60, unique=True),
    st.floats(0.1, 1e6),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_scale_and_order_leave_alpha(eigenvalues, scale, random):
    shuffled = list(eigenvalues)
    random.shuffle(shuffled)
    original, scaled = scan_tail(np.array(eigenvalues)), scan_tail(np.array(shuffled) * scale)
    # Neighbours that differ in the last digit have an alpha of 1e13, which scaling rounds anew.
    apart = original.alpha < 1e4
    np.testing.assert_allclose(scaled.alpha[apart], original.alpha[apart], rtol=1e-8)
    np.testing.assert_allclose(scaled.D[apart], original.D[apart], atol=1e-8)


def test_alpha_does_change_when_scaling_pushes_eigenvalues_under_the_threshold():
    eigenvalues = pareto(3, 200)
    assert fit_tail(eigenvalues * 6e-6).num_evals < 200
    assert fit_tail(eigenvalues * 6e-6, threshold=0).alpha == pytest.approx(
        fit_tail(eigenvalues).alpha, rel=1e-9
    )


def test_small_eigenvalues_are_dropped_and_the_threshold_itself_too():
    fit = fit_tail(np.array([0.0, 1e-7, 1e-5, *TEN]), least=10)
    assert fit == fit_tail(np.array(TEN), least=10)


def test_ties_are_candidates_that_cannot_win_with_an_infinite_alpha():
    scan = scan_tail(np.array([*TEN, 20, 20]))
    assert scan.alpha[-2:].tolist() == [np.inf, np.inf]
    assert scan.D[-2:].tolist() == [1, 1]
    assert np.isfinite(fit_tail(np.array([*TEN, 20, 20]), least=10).alpha)


def test_under_fifty_eigenvalues_there_is_no_fit_unless_it_is_asked_for():
    with pytest.raises(Refused, match="49 of 49 eigenvalues lie above 1e-05, and a fit needs 50"):
        fit_tail(pareto(3, 49))
    assert fit_tail(pareto(3, 49), least=49).num_evals == 49
    assert fit_tail(pareto(3, 50)).num_evals == 50


@given(st.integers(0, 10**6), st.integers(2, 400), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_search_that_leaves_early_finds_what_the_full_scan_does(seed, n, rounded):
    eigenvalues = np.random.default_rng(seed).lognormal(0, 1.5, n) + 1e-3
    if rounded:  # many equal eigenvalues
        eigenvalues = np.ceil(eigenvalues * 4) / 4
    scan = scan_tail(eigenvalues)
    if not np.isfinite(scan.alpha).any():
        return
    fit = fit_tail(eigenvalues, least=2)
    best = int(np.argmin(scan.D))
    assert fit.D == pytest.approx(scan.D[best], abs=1e-12)
    # Two candidates may be equal to the last digit.
    assert scan.D[fit.xmin_index] <= scan.D[best] + 1e-12
    assert fit.alpha == scan.alpha[fit.xmin_index]


def test_the_tail_from_a_given_place():
    scan = scan_tail(np.array(TEN))
    fit = fit_from(np.array(TEN), 3)
    assert (fit.alpha, fit.xmin, fit.tail) == (scan.alpha[3], 0.5, 7)
    assert fit.D == pytest.approx(scan.D[3], abs=1e-15)
    with pytest.raises(Refused, match="no tail begins at place 9 of 10"):
        fit_from(np.array(TEN), 9)


@pytest.mark.parametrize(
    ("eigenvalues", "words"),
    [
        (TEN, "10 of 10 eigenvalues lie above 1e-05, and a fit needs 50: .*; take"),
        ([], "0 of 0"),
        ([1e-6] * 30, "0 of 30"),
        ([2.0] * 60, "all 60 eigenvalues equal 2.*orthogonal"),
        ([*TEN, np.nan], r"nan at \[10\]"),
        ([*TEN, -1.0], r"-1 at \[10\]"),
        ([TEN], r"shape \[1, 10\]"),
    ],
)
def test_what_cannot_be_fitted_is_refused_with_the_reason(eigenvalues, words):
    with pytest.raises(Refused, match=words):
        fit_tail(np.array(eigenvalues))


def test_a_negative_threshold_is_refused():
    with pytest.raises(Refused, match="threshold -1"):
        scan_tail(np.array(TEN), threshold=-1)
