"""How weights become matrices, and their pooled spectra."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import Refused
from workbench.spectra import ESD, esd, head_matrices, matrices, singular_values
from workbench.spectra import values as values_of
from workbench.spectra.matrices import sizes


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_convolution_has_a_slice_for_each_place_of_the_kernel(rng):
    w = rng.standard_normal((6, 4, 3, 2))
    read = matrices(w)
    assert (len(read.parts), read.N, read.M) == (6, 6, 4)
    np.testing.assert_allclose(read.parts[1], w[:, :, 0, 1] * np.sqrt(0.5))
    np.testing.assert_allclose(read.parts[4], w[:, :, 2, 0] * np.sqrt(0.5))


def test_im2col_is_the_matrix_that_patches_are_multiplied_with():
    w = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    product = matrices(w, "im2col").parts[0] @ x.flatten().numpy()
    np.testing.assert_allclose(product, torch.nn.functional.conv2d(x, w).flatten().numpy(), rtol=1e-5)


def test_the_squared_norm_of_a_convolution_is_kept_by_im2col_and_halved_by_slices(rng):
    w = rng.standard_normal((8, 4, 3, 3))
    assert esd(w, conv="im2col").eigenvalues.sum() == pytest.approx(np.square(w).sum())
    assert esd(w).eigenvalues.sum() == pytest.approx(np.square(w).sum() / 2)


@given(st.integers(0, 10**6), st.integers(2, 20), st.integers(2, 20))
@settings(max_examples=25, deadline=None)
def test_permutations_keep_the_spectrum_and_its_sum_is_the_norm(seed, out, inner):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((out, inner))
    found = esd(w)
    moved = esd(w[rng.permutation(out)][:, rng.permutation(inner)])
    # Of the Gram matrix: an eigenvalue is right to some eps of the largest, however small it is itself.
    np.testing.assert_allclose(
        moved.eigenvalues, found.eigenvalues, rtol=0, atol=2e-14 * found.eigenvalues.max()
    )
    assert found.eigenvalues.sum() == pytest.approx(np.square(w).sum())


def test_heads_are_rows_of_q_and_columns_of_o(rng):
    w = rng.standard_normal((12, 8))
    np.testing.assert_array_equal(head_matrices(w, 3)[1], w[4:8])
    np.testing.assert_array_equal(head_matrices(w, 4, columns=True)[3], w[:, 6:])
    with pytest.raises(Refused, match="12 rows cannot be cut into 5 heads"):
        head_matrices(w, 5)


@pytest.mark.parametrize("conv", ["slices", "im2col"])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3), (6, 4, 3, 2), (4, 6, 1, 1)])
def test_sizes_are_those_of_the_matrices(rng, shape, conv):
    read = matrices(rng.standard_normal(shape), conv)
    assert sizes(shape, conv) == (read.N, read.M, len(read.parts))


def test_ranks_lost_are_counted_in_each_slice(rng):
    w = rng.standard_normal((6, 4, 1, 2))
    w[:, 0, :, 0] = 0  # one slice loses a direction
    assert esd(w).rank_loss == 1


@pytest.mark.parametrize(
    ("w", "words"),
    [
        (np.zeros(3), "a vector .* has no spectrum"),
        (np.zeros((2, 2, 2, 2, 2)), r"got \[2, 2, 2, 2, 2\]"),
        (np.zeros((3, 3), int), "int64, not floats"),
        (np.zeros((5, 4, 0, 3)), r"\[5, 4, 0, 3\] has no place"),
        (np.array([[1.0, np.inf]]), r"1 of 2 weights .* the first at \[0, 1\]"),
    ],
)
def test_what_has_no_spectrum_is_refused(w, words):
    with pytest.raises(Refused, match=words):
        matrices(w)
    with pytest.raises(Refused, match="near: slices"):
        matrices(np.zeros((2, 2)), "slice")


def test_the_exact_road_is_an_svd():
    w = np.diag([1.0, 1e-4, 1e-7])
    np.testing.assert_allclose(esd(w, exact=True).sigmas, [1.0, 1e-4, 1e-7], rtol=1e-9)
    assert esd(w, exact=True).sure(1e-14)
    found = ESD.of(singular_values(np.eye(3)), (3, 3))
    assert found.sure(1.0)
    assert not found.sure(1e-7)


def test_the_solvers_agree_and_the_fastest_is_one_of_them(rng):
    noise = rng.standard_normal((60, 90))
    gram = noise @ noise.T
    expected = np.linalg.eigvalsh(gram)
    for name in ("sturm", "scipy", "torch"):
        np.testing.assert_allclose(values_of.SOLVERS[name](gram.copy()), expected, rtol=1e-10)
    assert values_of.fastest_solver() in values_of.SOLVERS


def test_a_large_matrix_is_multiplied_in_blocks(rng, monkeypatch):
    w = rng.standard_normal((50, 30)).astype(np.float32)
    whole = singular_values(w), singular_values(w.T)
    monkeypatch.setattr(values_of, "BLOCK", 7 * 30)
    np.testing.assert_allclose(singular_values(w), whole[0], rtol=1e-12)
    np.testing.assert_allclose(singular_values(w.T), whole[1], rtol=1e-12)


def test_a_gpu_without_room_is_not_the_end(rng, monkeypatch):
    def full(gram):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setitem(values_of.SOLVERS, "cuda", full)
    monkeypatch.setattr(values_of, "fastest_solver", lambda: "cuda")
    monkeypatch.setattr(values_of, "MEASURED_FROM", 10)
    w = rng.standard_normal((20, 30))
    np.testing.assert_allclose(singular_values(w), np.linalg.svd(w, compute_uv=False), rtol=1e-9)
