"""Other tails than a power law: right answers on samples of each, and the likelihoods of the `powerlaw` package."""

from collections import Counter

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


def best_of(kind: str, n: int = 400, tries: int = 24) -> Counter[str]:
    """How often which distribution is found for samples of one."""
    makers = {
        "power_law": lambda rng: rng.pareto(1.5, n) + 1,
        "exponential": lambda rng: rng.exponential(1, n) + 1,
        "lognormal": lambda rng: rng.lognormal(1, 0.4, n),
        "truncated_power_law": lambda rng: cut_off(rng)[:n],
    }
    found: Counter[str] = Counter()
    for seed in range(tries):
        values = makers[kind](np.random.default_rng(seed))
        found[best_tail(compare_tails(values, fit_from(values, 0, threshold=0)))] += 1
    return found


def cut_off(rng: np.random.Generator) -> np.ndarray:
    """t^-1.8 exp(-0.05 (t - 1)) from t = 1 up."""
    raw = rng.pareto(0.8, 20_000) + 1
    return raw[rng.random(len(raw)) < np.exp(-0.05 * (raw - 1))]


@pytest.mark.parametrize("kind", ["power_law", "exponential", "truncated_power_law", "lognormal"])
def test_each_distribution_is_found_on_its_own_samples(kind):
    """The nested test keeps the simpler one in 95 of 100 samples."""
    found = best_of(kind)
    assert found.most_common(1)[0][0] == kind
    assert found[kind] >= 20, found


def test_an_exponential_is_chosen_though_the_law_that_contains_it_is_likelier():
    values = sample("exponential")
    fit = fit_from(values, 0, threshold=0)
    found = compare_tails(values, fit)
    assert found["truncated_power_law"].loglikelihood >= found["exponential"].loglikelihood
    assert best_tail(found) == "exponential"
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
    lognormal = spectrum_row(np.diag(np.sqrt(sample("lognormal"))), Reading(extra=("tails",)))
    tail = compare_tails(sample("lognormal"), fit_tail(sample("lognormal")))["lognormal"]
    assert (lognormal["R_lognormal"], lognormal["p_lognormal"]) == pytest.approx((tail.R, tail.p), rel=1e-6)
