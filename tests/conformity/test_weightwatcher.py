"""The spectra table against WeightWatcher 0.7.7 itself, in float64, on the same small weights.

What differs by design, and is looked at here: fewer than 50 eigenvalues are refused a fit (there 8, and under 20 with
another formula); a Marchenko-Pastur fit at the end of its grid is said and not returned; of a convolution `sv_min` is
the smallest singular value (there the largest of the slices' smallest); and N and M of a convolution with an even
number of slices are not exchanged.

Skipped where WeightWatcher is missing: pip install -e ".[dev]" -c constraints.txt
"""

from __future__ import annotations

import logging
import math

import numpy as np
import pandas as pd
import pytest
import torch

from workbench.spectra import Reading, spectrum_row
from workbench.spectra.matrices import Matrices

ww = pytest.importorskip("weightwatcher", reason="WeightWatcher is not installed: pip install -e '.[dev]'")

EXACT = (
    "num_evals",
    "matrix_rank",
    "rank_loss",
    "weak_rank_loss",
    "num_pl_spikes",
    "N",
    "M",
    "rf",
    "detX_num",
    "ERG_gap",
)
RELATIVE = (
    "Q", "norm", "log_norm", "spectral_norm", "log_spectral_norm", "lambda_max", "stable_rank", "entropy", "sv_max",
    "alpha_weighted", "log_alpha_norm", "xmax", "detX_val", "detX_val_unrescaled",
)  # fmt: skip
RANDOMIZED = ("max_rand_eval", "rand_distance", "ww_softrank", "rand_bulk_max")
BULK = ("sigma_mp", "mp_softrank", "W_scale", "bulk_max", "bulk_min")


def heavy(rows: int, columns: int, seed: int) -> np.ndarray:
    """A random matrix with some strong directions: a heavy tail, as trained layers have."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((rows, columns)) / math.sqrt(max(rows, columns))
    k = min(rows, columns) // 4
    strengths = 0.3 * (rng.pareto(2.5, k) + 1)
    left, right = (np.linalg.qr(rng.standard_normal((size, k)))[0] for size in (rows, columns))
    return w + (left * strengths) @ right.T


def deficient() -> np.ndarray:
    """Rank 60 of 90, and equal eigenvalues."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((size, 60)))[0] for size in (120, 90))
    return (u * np.repeat(np.linspace(0.5, 3, 30), 2)) @ v.T


def spiked() -> np.ndarray:
    """Square noise with one strong direction: the fit stretches its circle far beyond the noise."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((120, 120)) / 11 + np.outer(rng.standard_normal(120), rng.standard_normal(120))


# WeightWatcher reads weights as float32, and computes in float64 from there on.
WEIGHTS: list[np.ndarray] = [w.astype(np.float32) for w in [
    *(heavy(rows, columns, seed) for seed, (rows, columns) in enumerate(
        [(64, 64), (128, 64), (100, 300), (192, 512), (200, 60), (256, 256), (80, 81), (320, 96)]
    )),
    *(np.random.default_rng(seed).standard_normal((150, 100)) / 12 for seed in range(4)),
    spiked(),
    deficient(),
    np.random.default_rng(9).standard_normal((32, 16, 3, 3)) / 10,
    np.random.default_rng(8).standard_normal((64, 60, 1, 1)) / 8,
]]  # fmt: skip


@pytest.fixture(scope="module")
def both() -> list[tuple[pd.Series, dict]]:
    logging.getLogger("weightwatcher").setLevel(logging.ERROR)
    layers = []
    for w in WEIGHTS:
        shape = w.shape
        layer = (
            torch.nn.Linear(shape[1], shape[0], bias=False)
            if w.ndim == 2
            else torch.nn.Conv2d(shape[1], shape[0], shape[2:], bias=False)
        )
        layer.weight.data = torch.from_numpy(w)
        layers.append(layer)
    details = ww.WeightWatcher(model=torch.nn.Sequential(*layers)).analyze(mp_fit=True, detX=True)
    assert len(details) == len(WEIGHTS)
    reading = Reading(extra=("mp", "detX"))
    return [(row, spectrum_row(w, reading)) for (_, row), w in zip(details.iterrows(), WEIGHTS, strict=True)]


def test_the_tail(both):
    for theirs, ours in both:
        assert ours["status"] == theirs["status"] == "success"
        assert ours["alpha"] == pytest.approx(theirs["alpha"], abs=1e-8)
        assert ours["sigma"] == pytest.approx(theirs["sigma"], abs=1e-8)
        assert ours["D"] == pytest.approx(theirs["D"], abs=1e-10)
        assert ours["xmin"] == pytest.approx(
            theirs["xmin"], rel=1e-9
        )  # the same eigenvalue: the next is not so near
        assert ours["warning"] == theirs["warning"]


def test_counts_are_equal(both):
    for theirs, ours in both:
        assert {name: ours[name] for name in EXACT} == {name: int(theirs[name]) for name in EXACT}


def test_norms_and_ranks(both):
    for theirs, ours in both:
        for name in RELATIVE:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-9, abs=1e-12), name


def test_the_bulk_agrees_or_says_that_it_is_none(both):
    fitted = [(theirs, ours) for theirs, ours in both if not ours["mp_problem"]]
    assert len(fitted) >= len(both) - 1  # the deficient one has a third of zeros: no bulk fits it
    for theirs, ours in fitted:
        assert ours["num_spikes"] == theirs["num_spikes"]
        for name in BULK:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-6, abs=1e-9), name
    # Where the edge is far from that of the median's bulk the numbers are WeightWatcher's, and said to be doubtful.
    doubted = [ours for _, ours in fitted if ours["mp_doubt"]]
    assert len(doubted) == 1
    assert doubted[0]["bulk_max"] > 5 * doubted[0]["bulk_max_median"]
    for theirs, ours in both:
        if ours["mp_problem"]:
            assert math.isnan(ours["sigma_mp"])
            assert theirs["sigma_mp"] < 0.06 * math.sqrt(theirs["lambda_max"]) * theirs["W_scale"]


def test_every_column_of_details_is_ours_too(both):
    from workbench.engine.spectra import SPECTRA_COLUMNS

    theirs = set(both[0][0].index)
    assert theirs <= set(both[0][1]) | set(SPECTRA_COLUMNS)


def test_sv_min_of_a_convolution_is_the_smallest_of_all(both):
    theirs, ours = both[-2]
    slices = [
        np.linalg.svd(WEIGHTS[-2][:, :, a, b], compute_uv=False)[-1] for a in range(3) for b in range(3)
    ]
    assert ours["sv_min"] == pytest.approx(min(slices) * math.sqrt(0.5))
    assert theirs["sv_min"] == pytest.approx(max(slices) * math.sqrt(0.5))
    for theirs, ours in both[:12]:
        assert ours["sv_min"] == pytest.approx(theirs["sv_min"], rel=1e-6)


def test_randomized_columns_agree_on_the_same_shuffle(monkeypatch):
    """WeightWatcher draws two orders from NumPy's global state; here both are one, and ours has the same."""
    w = WEIGHTS[3]
    order = np.random.default_rng(0).permutation(w.size)

    def ordered(values: np.ndarray) -> None:
        values[:] = values[order]

    def same_order(read: Matrices, seed: int = 0) -> Matrices:
        [part] = read.parts
        return Matrices((part.ravel()[order].reshape(part.shape),))

    layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight.data = torch.from_numpy(w)
    monkeypatch.setattr(np.random, "shuffle", ordered)
    monkeypatch.setattr("workbench.spectra.randomized.shuffled", same_order)
    theirs = ww.WeightWatcher(model=torch.nn.Sequential(layer)).analyze(randomize=True).iloc[0]
    ours = spectrum_row(w, Reading(extra=("randomize",)))
    assert ours["num_traps"] == theirs["num_traps"]
    for name in RANDOMIZED:
        assert ours[name] == pytest.approx(theirs[name], rel=1e-6), name


def test_another_shuffle_gives_columns_of_the_same_size():
    """Ours against ours: what the columns scatter by from one order to the next."""
    rows = pd.DataFrame(
        [spectrum_row(WEIGHTS[3], Reading(extra=("randomize",), seed=seed)) for seed in range(5)]
    )
    assert rows["num_traps"].nunique() == 1
    for name in RANDOMIZED:
        assert rows[name].std() < 0.15 * rows[name].mean(), name
