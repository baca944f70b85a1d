"""Eigenvalues of tridiagonal matrices by Sturm counts, against LAPACK and against closed forms."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workbench.spectra.tridiagonal import LANES, tridiagonal_eigenvalues

EPS = np.finfo(np.float64).eps
# Zeros and repetitions are what makes such a matrix fall apart and its eigenvalues coincide.
ELEMENTS = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 1e-8, 1e-200]), st.floats(-4, 4))
PAIRS = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=ELEMENTS), arrays(np.float64, n - 1, elements=ELEMENTS)
    )
)


def norm(d, e):
    return max(np.abs(d).max(initial=0), np.abs(e).max(initial=0))


@given(PAIRS)
@settings(max_examples=300, deadline=None)
def test_agrees_with_lapack(pair):
    d, e = pair
    found = tridiagonal_eigenvalues(d, e)
    expected = scipy.linalg.eigvalsh_tridiagonal(d, e) if len(d) > 1 else d
    np.testing.assert_allclose(found, expected, rtol=0, atol=40 * EPS * norm(d, e))
    assert (np.diff(found) >= -4 * EPS * norm(d, e)).all()


@pytest.mark.parametrize("n", [LANES - 1, LANES, LANES + 1, 300])
def test_the_second_difference_has_the_eigenvalues_of_the_book(n):
    found = tridiagonal_eigenvalues(np.full(n, 2.0), np.full(n - 1, -1.0))
    expected = 4 * np.sin(np.arange(1, n + 1) * np.pi / (2 * (n + 1))) ** 2
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * EPS)


def test_pairs_that_agree_to_all_digits_are_both_found():
    # Wilkinson's W21+: the two largest agree to 14 digits (The Algebraic Eigenvalue Problem, section 5.45).
    found = tridiagonal_eigenvalues(np.abs(np.arange(-10.0, 11)), np.ones(20))
    assert found[-1] == pytest.approx(10.746194182903393, abs=1e-13)
    assert found[-2] == pytest.approx(10.746194182903322, abs=1e-13)


@pytest.mark.parametrize("exponent", [-900, -300, 300, 900])
def test_a_power_of_two_passes_through(exponent):
    rng = np.random.default_rng(0)
    d, e = rng.standard_normal(50), rng.standard_normal(49)
    scaled = tridiagonal_eigenvalues(np.ldexp(d, exponent), np.ldexp(e, exponent))
    np.testing.assert_array_equal(scaled, np.ldexp(tridiagonal_eigenvalues(d, e), exponent))


def test_a_matrix_of_one_value_and_one_that_is_zero():
    np.testing.assert_allclose(tridiagonal_eigenvalues(np.full(100, 3.0), np.zeros(99)), 3, rtol=4 * EPS)
    np.testing.assert_array_equal(tridiagonal_eigenvalues(np.zeros(5), np.zeros(4)), 0)
    assert len(tridiagonal_eigenvalues(np.zeros(0), np.zeros(0))) == 0


def test_the_small_eigenvalues_of_a_gram_matrix_keep_their_digits():
    # A Gram matrix knows an eigenvalue of 1e-10 of the largest to six digits; nothing may be lost on the way.
    rng = np.random.default_rng(1)
    sigmas = np.geomspace(1, 1e-5, 120)
    left, right = (np.linalg.qr(rng.standard_normal((k, 120)))[0] for k in (120, 200))
    w = (left * sigmas) @ right.T
    (_, d, e, _, info) = scipy.linalg.lapack.dsytrd(w @ w.T, lower=1)
    assert info == 0
    np.testing.assert_allclose(np.sqrt(tridiagonal_eigenvalues(d, e)[::-1]), sigmas, rtol=1e-6)
