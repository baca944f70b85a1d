"""The tail fit: golden numbers, the definition written out as a slow loop, and what it does at its limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import Refused
from workbench.spectra import fit_tail, scan_tail

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
    fit = fit_tail(np.array(TEN))
    assert fit.alpha == pytest.approx(1.7037646, abs=1e-7)
    assert fit.D == pytest.approx(0.1596390, abs=1e-7)
    assert fit.sigma == pytest.approx(0.2873107, abs=1e-7)
    assert (fit.xmin, fit.tail, fit.xmin_index, fit.num_evals) == (0.8, 6, 4, 10)
    assert not fit.reliable


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
    assert fit.reliable


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
    assert fit_tail(eigenvalues * 4e-6).num_evals < 200
    assert fit_tail(eigenvalues * 4e-6, threshold=0).alpha == pytest.approx(
        fit_tail(eigenvalues).alpha, rel=1e-9
    )


def test_small_eigenvalues_are_dropped_and_the_threshold_itself_too():
    fit = fit_tail(np.array([0.0, 1e-7, 1e-5, *TEN]))
    assert fit == fit_tail(np.array(TEN))


def test_ties_are_candidates_that_cannot_win_with_an_infinite_alpha():
    scan = scan_tail(np.array([*TEN, 20, 20]))
    assert scan.alpha[-2:].tolist() == [np.inf, np.inf]
    assert scan.D[-2:].tolist() == [1, 1]
    assert np.isfinite(fit_tail(np.array([*TEN, 20, 20])).alpha)


@pytest.mark.parametrize(("n", "reliable"), [(10, False), (49, False), (50, True)])
def test_under_fifty_eigenvalues_the_fit_is_marked(n, reliable):
    assert fit_tail(pareto(3, n)).reliable is reliable


@pytest.mark.parametrize(
    ("eigenvalues", "words"),
    [
        (TEN[:9], "9 of 9 eigenvalues lie above 1e-05, and a fit needs 10; take"),
        ([], "0 of 0"),
        ([1e-6] * 30, "0 of 30"),
        ([2.0] * 30, "all 30 eigenvalues equal 2.*orthogonal"),
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
