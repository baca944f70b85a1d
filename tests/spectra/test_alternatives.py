"""Other tails than a power law: right answers on samples of each, and the likelihoods of the `powerlaw` package."""

import numpy as np
import pytest

from workbench.spectra import Reading, best_tail, compare_tails, fit_from, fit_tail, spectrum_row


def sample(kind: str, n: int = 500) -> np.ndarray:
    rng = np.random.default_rng(0)
    if kind == "power_law":
        return rng.pareto(1.5, n) + 1
    if kind == "exponential":
        return rng.exponential(1, n) + 1
    return rng.lognormal(1, 0.4, n)


def test_an_exponential_beats_the_power_law_on_its_own_sample_only():
    for kind, best in (("power_law", {"power_law"}), ("exponential", {"exponential", "truncated_power_law"})):
        values = sample(kind)
        fit = fit_from(values, 0, threshold=0)
        found = compare_tails(values, fit)
        assert best_tail(found) in best, kind
        assert found["power_law"].parameters["alpha"] == fit.alpha
    assert found["exponential"].parameters["Lambda"] == pytest.approx(1, rel=0.1)


def test_the_cut_off_of_a_truncated_power_law_is_found_again():
    rng = np.random.default_rng(0)
    raw = rng.pareto(0.8, 400_000) + 1
    values = raw[rng.random(len(raw)) < np.exp(-0.05 * (raw - 1))][:20_000]
    found = compare_tails(values, fit_from(values, 0, threshold=0))["truncated_power_law"]
    assert found.parameters["alpha"] == pytest.approx(1.8, abs=0.05)
    assert found.parameters["Lambda"] == pytest.approx(0.05, rel=0.1)
    assert found.p < 1e-6


@pytest.mark.parametrize("kind", ["power_law", "exponential", "lognormal"])
def test_likelihoods_are_those_of_the_powerlaw_package(kind):
    powerlaw = pytest.importorskip("powerlaw", reason="it comes with weightwatcher, an extra of the tests")
    values = sample(kind)
    fit = fit_tail(values)
    theirs = powerlaw.Fit(values, xmin=fit.xmin, verbose=False)
    for name, ours in compare_tails(values, fit).items():
        with np.errstate(all="ignore"):
            expected = getattr(theirs, name).loglikelihoods(values[values >= fit.xmin]).sum()
        # Where the package stops at a bound of its own, ours is at least as likely.
        assert ours.loglikelihood == pytest.approx(expected, abs=2e-3) or ours.loglikelihood > expected, name


def test_the_columns_say_which_fits_best():
    row = spectrum_row(np.diag(np.sqrt(sample("power_law"))), Reading(extra=("tails",)))
    assert row["best_fit"] == "power_law"
    assert row["R_exponential"] < 0
    assert row["p_exponential"] < 0.05
