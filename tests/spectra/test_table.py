"""The row of the spectra table: golden numbers, WeightWatcher's definitions, and odd matrices."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import Refused
from workbench.spectra import COLUMNS, EXTRAS, Reading, effective_rank, participation_ratio, spectrum_row
from workbench.spectra.columns import EXTRA_WORDS

TEN = [0.1, 0.2, 0.3, 0.5, 0.8, 1.3, 2.1, 3.4, 8.9, 20]


def diagonal(eigenvalues):
    """The matrix whose eigenvalues lambda are these."""
    return np.diag(np.sqrt(eigenvalues))


def test_golden_row_of_ten_eigenvalues():
    # Fewer than 50 are refused a fit; five copies of the ten have the same distribution, but not the same D.
    row = spectrum_row(diagonal(TEN))
    assert (row["status"], row["num_evals"]) == ("failed", 10)
    assert "10 of 10 eigenvalues" in row["reason"]
    assert row["stable_rank"] == pytest.approx(sum(TEN) / 20)
    assert row["log_norm"] == pytest.approx(math.log10(sum(TEN)))
    fifty = spectrum_row(diagonal(np.repeat(TEN, 5)))
    assert (fifty["status"], fifty["reason"], fifty["warning"]) == ("success", "", "over-trained")
    assert fifty["xmin"] == pytest.approx(0.8)
    assert fifty["alpha"] == pytest.approx(1.7037646, abs=1e-7)  # as of the ten: the tail's mean logarithm
    assert fifty["alpha_weighted"] == pytest.approx(2.2166488, abs=1e-7)
    assert fifty["log_alpha_norm"] == pytest.approx(2.3433810 + math.log10(5), abs=1e-7)
    assert fifty["sigma"] == pytest.approx(0.7037646 / math.sqrt(30), abs=1e-7)
    assert (fifty["xmax"], fifty["num_pl_spikes"]) == (pytest.approx(20), 30)


def test_golden_ranks_of_four_one_one_zero():
    row = spectrum_row(diagonal([4, 1, 1, 0]))
    assert row["stable_rank"] == pytest.approx(1.5, abs=1e-9)
    assert row["entropy"] == pytest.approx(0.7896901, abs=1e-7)
    assert row["participation_ratio"] == pytest.approx(2.0, abs=1e-9)
    assert row["effective_rank"] == pytest.approx(2.8284271, abs=1e-7)
    assert (row["matrix_rank"], row["rank_loss"], row["num_evals"]) == (3, 1, 4)
    assert (row["norm"], row["spectral_norm"]) == (pytest.approx(6), pytest.approx(4))
    assert row["log_norm"] == pytest.approx(math.log10(6))
    assert math.isnan(row["alpha"])
    assert "3 of 4 eigenvalues" in row["reason"]


def test_every_row_has_every_column_in_order_and_every_column_is_explained():
    for w in (diagonal(TEN), np.zeros((3, 4)), np.full((2, 2), np.nan)):
        assert list(spectrum_row(w)) == list(COLUMNS)
    assert all(len(words) > 10 for words in COLUMNS.values())


@pytest.mark.parametrize("shape", [(60, 200), (200, 60)])
def test_orientation_does_not_matter(shape):
    w = np.random.default_rng(0).standard_normal((60, 200))
    row, expected = spectrum_row(w if shape == (60, 200) else w.T), spectrum_row(w)
    assert (row["N"], row["M"], row["Q"]) == (200, 60, 200 / 60)
    for name in ("status", "reason", "warning"):
        assert row.pop(name) == expected.pop(name)
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-9), name


@given(st.integers(0, 2**32 - 1), st.floats(0.5, 100))
@settings(max_examples=15, deadline=None)
def test_scaling_leaves_what_has_no_unit_and_shifts_the_logarithms(seed, scale):
    w = np.random.default_rng(seed).standard_normal((60, 180))  # smallest eigenvalue far above 1e-5
    row, scaled = spectrum_row(w), spectrum_row(w * scale)
    for name in ("alpha", "D", "sigma", "stable_rank", "entropy", "effective_rank", "participation_ratio"):
        assert scaled[name] == pytest.approx(row[name], rel=1e-7), name
    assert scaled["num_pl_spikes"] == row["num_pl_spikes"]
    for name in ("log_norm", "log_spectral_norm"):
        assert scaled[name] - row[name] == pytest.approx(2 * math.log10(scale), abs=1e-9), name


@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_ranks_lie_between_one_and_the_smaller_dimension(out, inner, seed):
    row = spectrum_row(np.random.default_rng(seed).standard_normal((out, inner)))
    slack = 1 + 1e-9
    for name in ("stable_rank", "participation_ratio", "effective_rank"):
        assert 1 / slack <= row[name] <= min(out, inner) * slack, name
    # Renyi entropies of one distribution fall with their order: exp(H_2) >= exp(H_inf).
    assert row["stable_rank"] <= row["participation_ratio"] * slack


def test_equal_directions_have_every_rank_in_full():
    row = spectrum_row(np.eye(16, 32) * 0.5)
    for name in ("stable_rank", "participation_ratio", "effective_rank"):
        assert row[name] == pytest.approx(16), name
    assert row["entropy"] == pytest.approx(1)
    assert "16 of 16" in row["reason"]
    assert "all 64 eigenvalues equal" in spectrum_row(np.eye(64))["reason"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rank_of_a_low_rank_product_is_seen_through_storage_rounding_of_float32(dtype):
    generator = torch.Generator().manual_seed(0)
    # Small integers: the product is exact in bfloat16 as well, so its rank is the promised one in all dtypes.
    left = torch.randint(-1, 2, (40, 5), generator=generator).to(dtype)
    right = torch.randint(-1, 2, (5, 90), generator=generator).to(dtype)
    row = spectrum_row(left @ right)
    assert (row["matrix_rank"], row["rank_loss"]) == (5, 35)


def test_rounding_a_low_rank_matrix_to_float32_is_seen_in_float64():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((40, 5)) @ rng.standard_normal((5, 90))
    assert spectrum_row(w)["matrix_rank"] == 5
    # As in WeightWatcher: what the rounding left is above the precision of float64, and far under 1e-6.
    rounded = spectrum_row(w.astype(np.float32))
    assert (rounded["matrix_rank"], rounded["weak_rank_loss"]) == (40, 35)


@pytest.mark.parametrize(
    ("w", "words"),
    [
        (np.zeros((12, 20)), "zero"),
        (np.zeros((0, 20)), "no weights"),
        (np.full((12, 20), 0.25), "1 of 12 eigenvalues"),
        (np.outer(np.arange(1, 13), np.ones(20)), "1 of 12 eigenvalues"),
        (np.array([[3.0]]), "1 of 1 eigenvalues"),
        (np.full((12, 20), np.nan), "NaN or Inf"),
        (np.full((12, 20), 1e200), "range of float64"),
        (np.full((12, 20), 1e-200), "range of float64"),
        (np.eye(30) * 1e-3, "0 of 30 eigenvalues"),
    ],
)
def test_odd_matrices_give_a_row_with_the_reason(w, words):
    row = spectrum_row(w)
    assert words in row["reason"]
    assert row["status"] == "failed"
    assert math.isnan(row["alpha"])
    assert (row["N"], row["M"]) == (max(w.shape), min(w.shape))


@pytest.mark.parametrize("w", [np.zeros(4), torch.zeros(4, 4, dtype=torch.int32)])
def test_what_is_no_weight_matrix_is_refused(w):
    with pytest.raises(Refused, match="spectrum: "):
        spectrum_row(w)


@pytest.mark.parametrize(
    ("shape", "sizes"), [((8, 4, 3, 3), (8, 4, 9)), ((64, 32, 5), (64, 32, 5)), ((12, 20), (20, 12, 1))]
)
@pytest.mark.parametrize("fill", [np.nan, 1.0])
def test_what_is_not_finite_has_the_sizes_that_it_would_have(shape, sizes, fill):
    row = spectrum_row(np.full(shape, fill))
    assert (row["N"], row["M"], row["rf"]) == sizes


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 5, 3, 3)])
def test_empty_weights_have_a_row_with_every_extra(shape):
    row = spectrum_row(np.zeros(shape), Reading(extra=tuple(EXTRAS)))
    assert (row["status"], row["reason"]) == ("failed", "no weights")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"conv": "slice"}, "near: slices"),
        ({"extra": ("farm",)}, "no extra columns 'farm'; near: farms"),
        ({"extra": "mp,farm"}, "no extra columns 'farm'; near: farms"),
        ({"rows": 0}, "rows 0"),
        ({"ratio": float("nan")}, "ratio nan"),
        ({"windows": 0}, "windows 0"),
        ({"estimator": "best"}, "'best' is none of median, peak, search"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_a_reading_that_makes_no_sense_is_refused_before_the_work(arguments, words):
    with pytest.raises(Refused, match=words):
        Reading(**arguments)


def test_extra_columns_may_be_a_text():
    assert Reading(extra="mp, farms").extra == ("mp", "farms")
    assert Reading(extra="mp") == Reading(extra=("mp",))
    assert Reading(extra="").extra == ()


def test_weights_that_are_small_are_not_taken_for_a_small_matrix():
    w = np.random.default_rng(0).standard_normal((200, 300))
    row, small = spectrum_row(w), spectrum_row(w * 1e-5)
    assert small["reason"].endswith(
        "0 of 200 eigenvalues lie above 1e-05, though 200 are more than rounding: the weights are small"
    )
    assert (small["status"], math.isnan(small["alpha"])) == ("failed", True)
    assert small["alpha_hill"] == pytest.approx(row["alpha_hill"], rel=1e-9)
    assert math.isnan(spectrum_row(w[:20])["alpha_hill"])  # twenty eigenvalues are few at any scale


def test_the_reason_says_where_only_the_windows_have_no_fit():
    w = np.random.default_rng(0).standard_normal((80, 90))
    row = spectrum_row(w, Reading(extra=("farms",), rows=10, windows=1))
    assert (row["status"], row["reason"][:45]) == ("success", "FARMS: tail fit: 10 of 10 eigenvalues lie abo")
    assert math.isnan(row["alpha_farms"])


def test_rank_one_has_entropy_zero():
    assert spectrum_row(np.ones((12, 20)))["entropy"] == 0


def test_the_rank_tolerance_is_sigma_max_times_n_times_eps_of_float64():
    w = np.diag([1.0] * 98 + [3e-14, 1e-14])  # the tolerance at N = 100: 2.2e-14
    assert spectrum_row(w)["matrix_rank"] == 99


@pytest.mark.filterwarnings("error")
def test_pruned_rows_are_counted_and_raise_no_warnings():
    w = np.random.default_rng(0).standard_normal((90, 150))
    w[::3] = 0
    row, dense = spectrum_row(w), spectrum_row(w[w.any(axis=1)])
    assert (row["num_evals"], row["rank_loss"]) == (90, 30)
    for name in ("alpha", "log_alpha_norm", "effective_rank", "stable_rank"):
        assert row[name] == pytest.approx(dense[name], rel=1e-9), name
    assert row["entropy"] == pytest.approx(dense["entropy"], rel=1e-7)  # 1e-10 is added to every share


def test_ranks_stand_spectra_at_the_ends_of_float64():
    assert effective_rank(np.array([1e10, 1e-320])) == 1
    assert participation_ratio(np.array([1e200, 1e200])) == 2


def test_ranks_of_nothing_are_nan():
    assert math.isnan(participation_ratio(np.zeros(3)))
    assert math.isnan(effective_rank(np.zeros(3)))


def test_a_fit_without_a_hill_estimate_keeps_its_row():
    row = spectrum_row(np.diag(np.r_[np.ones(60), 2 * np.ones(60)]))
    assert np.isnan(row["alpha_hill"])
    assert row["num_evals"] == 120


def test_every_group_of_columns_has_the_words_of_its_button():
    assert list(EXTRA_WORDS) == list(EXTRAS)
    assert all(word and about for word, about in EXTRA_WORDS.values())
