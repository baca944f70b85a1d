"""Rich and lazy: kernel alignments and ranks by golden numbers, low-rank weights of the full norm."""

from __future__ import annotations

import math

import numpy as np
import pytest

from workbench.errors import Refused
from workbench.spectra.regime import (
    kernel,
    kernel_alignment,
    kernel_distance,
    low_rank,
    ranks,
    sign_agreement,
)

K0, KF = np.diag([2.0, 1.0]), np.array([[2.0, 1.0], [1.0, 1.0]])


def test_golden_alignments_and_no_effect_of_scale():
    # <K0, Kf> = 5, norms sqrt(5) and sqrt(7).
    assert kernel_alignment(K0, KF) == pytest.approx(5 / math.sqrt(35), abs=1e-12)
    assert kernel_alignment(K0, 7 * KF) == pytest.approx(0.8451543, abs=1e-7)
    assert kernel_distance(K0, KF) == pytest.approx(0.1548457, abs=1e-7)
    assert kernel_alignment(np.eye(3), np.ones((3, 3))) == pytest.approx(0.5773503, abs=1e-7)


def test_a_common_mean_hides_a_change_and_centring_shows_it():
    random = np.random.default_rng(0)
    one, two = (kernel(random.standard_normal((20, 5)) + 10) for _ in range(2))
    assert kernel_alignment(one, two) > 0.99
    assert kernel_alignment(one, two, centred=True) < 0.5
    assert kernel_alignment(one, one, centred=True) == pytest.approx(1.0)


def test_golden_ranks_of_eigenvalues_4_1_1_0():
    found = ranks(np.diag([2.0, 1, 1, 0]))
    assert found["hard_rank"] == 3
    assert found["stable_rank"] == pytest.approx(1.5)
    assert found["participation_ratio"] == pytest.approx(2.0)
    assert found["energy_rank"] == pytest.approx(2.3811016, abs=1e-7)
    assert found["entropy_rank"] == pytest.approx(2.8284271, abs=1e-7)
    assert set(ranks(np.zeros((3, 2))).values()) == {0.0}


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_a_low_rank_weight_keeps_the_norm_and_the_directions(rank):
    w = np.random.default_rng(rank).standard_normal((12, 20))
    made = low_rank(w, rank)
    assert np.linalg.norm(made) == pytest.approx(np.linalg.norm(w))
    assert ranks(made)["hard_rank"] == rank
    u = np.linalg.svd(w)[0][:, :rank]
    np.testing.assert_allclose(u @ (u.T @ made), made, atol=1e-10)
    if rank == 12:
        np.testing.assert_allclose(made, w, atol=1e-12)


def test_signs_agree_where_both_are_on_or_both_off():
    assert sign_agreement(np.array([[1.0, 0, -2, 3]]), np.array([[2.0, 0, 1, -1]])) == 0.5


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda: low_rank(np.ones((3, 4)), 0), "take 1 to 3"),
        (lambda: low_rank(np.ones((3, 4)), 4), "take 1 to 3"),
        (lambda: low_rank(np.full((3, 4), np.nan), 1), "NaN"),
        (lambda: kernel_alignment(K0, np.eye(3)), "two square ones"),
        (lambda: kernel_alignment(K0, KF * np.nan), "diverged"),
        (lambda: kernel(np.ones(3)), "flatten the rest"),
        (lambda: sign_agreement(np.ones(3), np.ones(4)), "same units"),
    ],
)
def test_what_has_no_alignment_is_refused(act, reason):
    with pytest.raises(Refused, match=reason):
        act()


def test_kernels_of_silence_have_no_alignment():
    assert math.isnan(kernel_alignment(np.zeros((2, 2)), K0))


@pytest.mark.parametrize("w", [np.full((3, 4), np.nan), np.ones(4)])
def test_ranks_of_what_is_no_matrix_are_refused(w):
    with pytest.raises(Refused, match="finite weights"):
        ranks(w)
