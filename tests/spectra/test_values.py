"""The singular values: right, in order, and the same whatever road they came by."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workbench.errors import Refused
from workbench.spectra import live_singular_values, singular_values, spectral_norm

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))
# Integers over 16 are exact in every dtype, so that only the singular values can differ.
ENTRIES = st.integers(-64, 64).map(lambda number: number / 16)
MATRICES = SHAPES.flatmap(lambda shape: arrays(np.float64, shape, elements=ENTRIES))


def with_spectrum(sigmas, shape, seed=0):
    """A matrix of `shape` with these singular values and random singular vectors."""
    rng = np.random.default_rng(seed)
    u = np.linalg.qr(rng.standard_normal((shape[0], len(sigmas))))[0]
    v = np.linalg.qr(rng.standard_normal((shape[1], len(sigmas))))[0]
    return (u * sigmas) @ v.T


@given(MATRICES)
@settings(max_examples=60, deadline=None)
def test_agrees_with_the_svd(w):
    values, expected = singular_values(w), np.linalg.svd(w, compute_uv=False)
    np.testing.assert_allclose(values, expected, rtol=1e-7, atol=1e-14 * max(expected[0], 1))
    assert (np.diff(values) <= 0).all()


@given(MATRICES, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_permutations_change_nothing(w, random):
    rows, columns = list(range(w.shape[0])), list(range(w.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    np.testing.assert_allclose(
        singular_values(w[rows][:, columns]), singular_values(w), rtol=1e-7, atol=1e-12
    )


@given(MATRICES)
@settings(max_examples=40, deadline=None)
def test_squares_sum_to_the_squared_frobenius_norm(w):
    np.testing.assert_allclose(np.square(singular_values(w)).sum(), np.square(w).sum(), rtol=1e-12)


@given(MATRICES, st.integers(-1060, 1000))
@settings(max_examples=40, deadline=None)
def test_a_power_of_two_passes_through_without_overflow(w, exponent):
    # Down to denormals, where the entries themselves lose digits: hence the absolute tolerance.
    scaled = singular_values(np.ldexp(w, exponent))
    np.testing.assert_allclose(scaled, np.ldexp(singular_values(w), exponent), rtol=1e-7, atol=1e-321)


@pytest.mark.parametrize("smallest", [1e-3, 2e-5, 1e-6, 1e-9])
def test_small_values_keep_six_digits_on_both_sides_of_the_gram_floor(smallest):
    sigmas = np.geomspace(1, smallest, 40)
    np.testing.assert_allclose(singular_values(with_spectrum(sigmas, (40, 90))), sigmas, rtol=1e-6)


def test_the_gram_road_alone_would_fail_where_the_rule_changes_road():
    # Why the rule exists: without it this spectrum would come out wrong in its last values.
    w = with_spectrum(np.geomspace(1, 1e-9, 40), (40, 90))
    squared = np.sqrt(np.maximum(scipy.linalg.eigvalsh(w @ w.T)[::-1], 0))
    assert not np.allclose(squared, np.geomspace(1, 1e-9, 40), rtol=1e-3, atol=0)


def test_zeroed_rows_and_columns_give_exact_zeros():
    w = np.random.default_rng(0).standard_normal((30, 50))
    w[::2], w[:, :10] = 0, 0
    values = singular_values(w)
    assert np.count_nonzero(values) == 15
    assert values.shape == (30,)
    np.testing.assert_allclose(values[:15], np.linalg.svd(w[1::2, 10:], compute_uv=False), rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_dtype_of_torch_is_read_exactly(dtype):
    w = torch.arange(-12, 12, dtype=torch.float64).reshape(4, 6)  # integers are exact in all of them
    values = singular_values(w.to(dtype, copy=True).requires_grad_())
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, singular_values(w.numpy()), rtol=0, atol=0)


def test_the_input_is_not_changed():
    w = with_spectrum(np.geomspace(1, 1e-9, 20), (20, 20))  # takes the SVD road, which overwrites its copy
    before = w.copy()
    singular_values(w)
    np.testing.assert_array_equal(w, before)


def test_transposed_and_strided_views_are_read_as_they_are():
    w = np.random.default_rng(1).standard_normal((20, 34))
    np.testing.assert_allclose(singular_values(w.T), singular_values(w), rtol=1e-10)
    np.testing.assert_allclose(
        singular_values(torch.from_numpy(w)[::2, ::3]), singular_values(w[::2, ::3].copy()), rtol=1e-12
    )


def test_the_spectral_norm_is_the_first_value():
    w = np.random.default_rng(2).standard_normal((64, 33))
    assert spectral_norm(w) == pytest.approx(np.linalg.norm(w, 2), rel=1e-12)
    assert spectral_norm(np.zeros((3, 4))) == 0.0


def test_the_preview_is_float32_and_close_where_it_claims_to_be():
    sigmas = np.geomspace(1, 1e-2, 100)
    preview = live_singular_values(with_spectrum(sigmas, (100, 300)).astype(np.float32))
    assert preview.dtype == np.float32
    np.testing.assert_allclose(preview, sigmas, rtol=1e-3)


@pytest.mark.parametrize("size", [1e-44, 3e38])
def test_the_preview_stands_the_ends_of_float32(size):
    w = np.diag(np.array([size, size / 2], dtype=np.float32))
    np.testing.assert_allclose(live_singular_values(w), np.diag(w), rtol=1e-5)


def test_empty_and_zero_matrices_have_their_zeros():
    assert singular_values(np.zeros((0, 5))).shape == (0,)
    assert singular_values(np.zeros((3, 5))).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("w", "words"),
    [
        (np.zeros(5), r"\[5\].*reshape"),
        (torch.zeros(2, 3, 3, 3), r"\[2, 3, 3, 3\].*convolution"),
        ([[1.0, 2.0]], "list.*reshape"),
        (torch.zeros(4, 4, dtype=torch.int8), r"\[4, 4\].*int8.*dequantize"),
        (np.zeros((4, 4), dtype=complex), "complex128"),
        (np.array([[1.0, 2.0], [np.nan, np.inf]]), r"2 of 4 .* NaN or Inf, the first at \[1, 0\].*repair"),
        (torch.tensor([[1.0, float("inf")]], dtype=torch.bfloat16), r"first at \[0, 1\]"),
    ],
)
def test_what_is_no_finite_float_matrix_is_refused_with_a_way_out(w, words):
    for function in (singular_values, live_singular_values, spectral_norm):
        with pytest.raises(Refused, match=words):
            function(w)
