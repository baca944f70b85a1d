"""The Marchenko-Pastur bulk, spikes, Tracy-Widom, and what shuffling the weights shows."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad

from workbench.errors import Refused
from workbench.spectra import (
    Reading,
    fit_bulk,
    matrices,
    median_bulk,
    mp_density,
    mp_edges,
    randomized_eigenvalues,
    shuffled,
    singular_values,
    spectrum_row,
    tracy_widom_edge,
)
from workbench.spectra.bulk import doubt


def noise(N: int, M: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((N, M)) / np.sqrt(N)


def eigenvalues(w: np.ndarray) -> np.ndarray:
    return np.sort(singular_values(w) ** 2)


def test_golden_edges():
    assert mp_edges(2) == pytest.approx((0.0857864, 2.9142136), abs=1e-7)


@pytest.mark.parametrize("Q", [1.0, 1.5, 4.0])
def test_the_density_integrates_to_one_and_is_zero_outside(Q):
    low, high = mp_edges(Q, 0.7)
    mass, _ = quad(lambda x: float(mp_density(np.array(x), Q, 0.7)), low, high, limit=400)
    assert mass == pytest.approx(1, abs=1e-3)
    assert mp_density(np.array([low / 2 - 1e-9, high * 1.01]), Q, 0.7).tolist() == [0, 0]


@pytest.mark.parametrize("fit", [fit_bulk, median_bulk])
def test_noise_has_its_own_sigma_and_no_spike(fit):
    bulk = fit(eigenvalues(noise(1000, 500)), 1000, 500)
    assert bulk.sigma == pytest.approx(1, abs=0.02)
    assert (bulk.spikes, bulk.problem) == (0, "")
    assert bulk.high == pytest.approx(2.914, rel=0.04)


def test_a_planted_direction_is_one_spike_where_it_is_predicted():
    w = noise(1000, 500)
    u, v = np.zeros(1000), np.zeros(500)
    u[0] = v[0] = 1
    bulk = median_bulk(eigenvalues(w + 2 * np.outer(u, v)), 1000, 500)
    assert bulk.spikes == 1
    # (1 + t^2)(y + t^2) / t^2 with y = 1/2, t = 2 is 5.625; measured 5.67 in the card's run
    assert eigenvalues(w + 2 * np.outer(u, v))[-1] == pytest.approx(5.625, rel=0.05)
    assert median_bulk(eigenvalues(w + 0.5 * np.outer(u, v)), 1000, 500).spikes == 0  # under the threshold


def test_the_median_is_not_moved_by_spikes_that_ruin_the_grid():
    w = noise(300, 150)
    w[:, :3] *= 100
    broken, robust = fit_bulk(eigenvalues(w), 300, 150), median_bulk(eigenvalues(w), 300, 150)
    assert "end of the grid" in broken.problem or "no sigma" in broken.problem
    assert robust.high == pytest.approx(2.9, rel=0.1)
    row = spectrum_row(w, Reading(extra=("mp",)))
    assert row["mp_problem"] == broken.problem
    assert np.isnan(row["bulk_max"])
    assert np.isnan(row["num_spikes"])


def test_the_largest_eigenvalue_of_noise_stays_under_its_quantiles_as_often_as_promised():
    N, M, tries = 80, 40, 400
    rng = np.random.default_rng(0)
    largest = np.array([np.linalg.norm(rng.standard_normal((N, M)), 2) ** 2 for _ in range(tries)])
    for quantile in (0.5, 0.9, 0.95):
        share = (largest < tracy_widom_edge(N, M, 1.0, quantile)).mean()
        assert share == pytest.approx(quantile, abs=0.06)
    with pytest.raises(Refused, match=r"0\.7 is none of"):
        tracy_widom_edge(N, M, 1.0, 0.7)


def test_shuffling_keeps_the_weights_and_loses_the_correlation():
    w = noise(120, 60) + np.outer(noise(120, 1)[:, 0], noise(60, 1)[:, 0]) * 30
    read = matrices(w)
    mixed = shuffled(read, 3)
    np.testing.assert_array_equal(np.sort(mixed.parts[0], None), np.sort(w, None))
    assert randomized_eigenvalues(read)[-1] < 0.5 * eigenvalues(w)[-1]
    assert len(randomized_eigenvalues(read)) == 300  # five shuffles under 100 eigenvalues
    np.testing.assert_array_equal(shuffled(read, 3).parts[0], mixed.parts[0])


def test_a_correlation_trap_is_a_single_weight_that_is_far_too_large():
    w = noise(200, 100)
    reading = Reading(extra=("randomize",))
    assert spectrum_row(w, reading)["num_traps"] == 0
    w[5, 7] = 5.0
    row = spectrum_row(w, reading)
    assert row["num_traps"] == row["rand_num_spikes"] == 1
    assert row["ww_softrank"] == pytest.approx(1, abs=0.02)


def test_a_strong_spike_stretches_the_circle_of_a_square_fit_and_both_edges_are_told():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((200, 200)) + 10 * np.outer(rng.standard_normal(200), rng.standard_normal(200))
    row = spectrum_row(w, Reading(extra=("mp",)))
    assert row["bulk_max"] > 5000  # WeightWatcher's number
    assert row["bulk_max_median"] == pytest.approx(800, rel=0.1)  # (sqrt 200 + sqrt 200)^2
    assert row["spikes_median"] == 1
    assert row["mp_problem"] == ""
    assert "times that of the median's bulk" in row["mp_doubt"]
    plain = spectrum_row(w - w + rng.standard_normal(w.shape), Reading(extra=("mp", "randomize")))
    assert (plain["mp_doubt"], plain["rand_mp_doubt"], plain["spikes_median"]) == ("", "", 0)


def test_a_bulk_beyond_which_everything_lies_is_none():
    w, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((100, 100)))
    row = spectrum_row(w, Reading(extra=("mp",)))
    assert row["mp_problem"] == "all 100 eigenvalues lie beyond the bulk: there is none"
    assert np.isnan(row["num_spikes"])


def test_doubt_is_of_edges_that_are_far_apart_or_of_half_the_eigenvalues():
    fit = median_bulk(eigenvalues(noise(300, 150)), 300, 150)
    assert doubt(fit, fit, 150) == ""
    assert (
        doubt(replace(fit, high=1.6 * fit.high), fit, 150)
        == "its edge is 1.6 times that of the median's bulk"
    )
    assert doubt(replace(fit, high=0.6 * fit.high), fit, 150).startswith("its edge is 0.6 times")
    assert doubt(replace(fit, spikes=75), fit, 150) == "75 of 150 eigenvalues lie beyond it"
    assert doubt(replace(fit, high=9 * fit.high, problem="none"), fit, 150) == ""


def test_dimensions_and_ratios_the_wrong_way_round_are_refused():
    for fit in (fit_bulk, median_bulk):
        with pytest.raises(Refused, match=r"N 128 and M 256.*max"):
            fit(eigenvalues(noise(256, 128)), 128, 256)
    with pytest.raises(Refused, match=r"Q 0\.5"):
        mp_density(np.ones(3), 0.5)
    with pytest.raises(Refused, match="deviation 0"):
        mp_density(np.ones(3), 2.0, 0.0)


def test_nothing_has_no_bulk():
    with pytest.raises(Refused, match="no eigenvalue above zero"):
        fit_bulk(np.zeros(5), 10, 5)


def test_a_median_that_is_zero_is_no_noise_and_says_so():
    w = noise(300, 150)
    w[:, :100] = 0
    bulk = median_bulk(eigenvalues(w), 300, 150)
    assert bulk.problem == "half of the eigenvalues are zero"
    low = noise(300, 40) @ noise(40, 150)  # zero but for rounding
    assert median_bulk(eigenvalues(low), 300, 150).problem


@pytest.mark.parametrize(("N", "M", "variance"), [(0, 5, 1.0), (5, 0, 1.0), (5, 5, -1.0), (5, 5, np.nan)])
def test_an_edge_of_nothing_is_refused(N, M, variance):
    with pytest.raises(Refused, match="dimensions from 1 and a variance from 0"):
        tracy_widom_edge(N, M, variance)


def test_a_bulk_needs_fifty_eigenvalues_as_a_tail_does():
    reading = Reading(extra=("mp", "randomize"))
    row = spectrum_row(noise(80, 49), reading)
    assert row["mp_problem"] == "49 eigenvalues, and a bulk needs 50"
    assert np.isnan(row["sigma_mp"])
    assert row["rand_mp_problem"] == ""  # five shuffles are pooled
    assert row["rand_sigma_mp"] == pytest.approx(1, abs=0.1)
    tiny = spectrum_row(noise(80, 9), reading)
    assert tiny["rand_mp_problem"] == "45 eigenvalues, and a bulk needs 50"
    assert np.isnan(tiny["num_traps"])


def test_shuffles_are_made_once(monkeypatch):
    from workbench.spectra import randomized

    seeds, shuffle = [], randomized.shuffled
    monkeypatch.setattr(
        randomized, "shuffled", lambda read, seed: (seeds.append(seed), shuffle(read, seed))[1]
    )
    row = spectrum_row(noise(200, 120), Reading(extra=("randomize",)))
    assert seeds == [0]  # 120 eigenvalues: one shuffle
    assert row["ww_softrank"] == row["max_rand_eval"] / row["lambda_max"]
