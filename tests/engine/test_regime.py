"""Rich and lazy trainings: the effect of the rank, kernels against a direct computation, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workbench.engine.regime import (
    REGIME_COLUMNS,
    Sequences,
    _activity,
    _initial,
    _tangents,
    _traced,
    image_sequences,
    train_regimes,
    two_choice,
)
from workbench.errors import Refused
from workbench.jobs import Cancelled, Job
from workbench.spectra.regime import kernel, kernel_alignment


@pytest.fixture(scope="module")
def regime():
    return train_regimes("two-choice", ranks=(1, 60), seeds=4, units=60, steps=150, rate=0.01)


def test_low_rank_is_richer_than_full_rank_on_the_mean_of_four_seeds(regime):
    """The card's trend (rank 1 against full rank, means): RA and KA rise with the rank. One seed may not show it."""
    mean = regime.table.groupby("rank").mean(numeric_only=True)
    assert mean.loc[1, "ra"] < mean.loc[60, "ra"] - 0.1
    assert mean.loc[1, "ka"] < mean.loc[60, "ka"] - 0.1
    assert (regime.table["accuracy"] > 0.8).all(), "all have learned something"
    assert list(regime.table.columns) == list(REGIME_COLUMNS)
    assert len(regime.table) == 8


def test_all_begin_with_one_norm_and_the_rank_they_say(regime):
    norms = [np.linalg.norm(s) for s in regime.spectra.values()]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert [int((s > 1e-4 * s[0]).sum()) for s in regime.spectra.values()] == [1, 60]
    assert (regime.table.query("rank == 1")["stable_rank"] - 1).abs().max() < 1e-4


def test_the_loss_falls(regime):
    for curve in regime.losses.values():
        assert len(curve) == 150
        assert curve[-20:].mean() < 0.7 * curve[:5].mean()


def test_the_tangent_kernel_is_that_of_the_derivatives():
    data = two_choice(8, steps=3)
    net = list(_initial(5, 0, 6, data))
    j = _tangents(net, data.inputs)
    assert j.shape == (16, 36)
    w, step = net[0].double(), 1e-5
    for place in (0, 17, 35):
        moved = w.clone().flatten()
        moved[place] += step
        up, down = (
            (_activity(each.view(6, 6), net[1].double(), data.inputs.double()) @ net[2].double().T).flatten()
            for each in (moved, 2 * w.flatten() - moved)
        )
        np.testing.assert_allclose(j[:, place], ((up - down) / (2 * step)).numpy(), atol=1e-4)
    traced = _traced(kernel(j), 8)
    expected = np.einsum("iop,jop->ij", j.reshape(8, 2, -1), j.reshape(8, 2, -1))
    np.testing.assert_allclose(traced, expected, rtol=1e-10)


def test_without_steps_worth_the_name_nothing_moves():
    still = train_regimes("two-choice", ranks=(5,), seeds=1, units=20, steps=1, rate=1e-9)
    row = still.table.iloc[0]
    assert row["change"] < 1e-6
    assert row["ra"] == pytest.approx(1.0, abs=1e-6)
    assert row["ka"] == pytest.approx(1.0, abs=1e-6)
    before, after = still.kernels[5]
    assert kernel_alignment(before, after) == pytest.approx(1.0, abs=1e-6)


def test_networks_side_by_side_are_what_they_are_alone():
    kept = {"seeds": 1, "units": 20, "steps": 20, "rate": 0.01}
    both = train_regimes("two-choice", ranks=(2, 20), **kept).table
    alone = train_regimes("two-choice", ranks=(20,), **kept).table
    np.testing.assert_allclose(
        both.iloc[1][["change", "ra", "ka"]], alone.iloc[0][["change", "ra", "ka"]], rtol=1e-3
    )


def test_the_embedded_images_are_a_task():
    data = image_sequences(40)
    assert data.inputs.shape == (40, 14, 56)
    assert data.classes == 10
    found = train_regimes(data, ranks=(4,), seeds=1, units=16, steps=3)
    assert found.what == "40 images of Fashion-MNIST, two rows of pixels a step"


def test_progress_is_told_and_a_cancel_is_heard():
    seen = []

    def work(job):
        job.listen(lambda job: seen.append(job.text))
        return train_regimes("two-choice", ranks=(2,), seeds=1, units=10, steps=5, job=job)

    Job(work, "regime").run()
    assert any("step" in text for text in seen)

    def stopped(job):
        job.cancel()
        return train_regimes("two-choice", ranks=(2,), seeds=1, units=10, steps=5, job=job)

    with pytest.raises(Cancelled):
        Job(stopped, "regime").run()


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"task": "imags"}, "near: images"),
        ({"ranks": (0,)}, "ranks lie in 1 to 10"),
        ({"ranks": (11,)}, "ranks lie in 1 to 10"),
        ({"ranks": ()}, "ranks lie in"),
        (
            {"task": Sequences(torch.full((4, 2, 3), torch.nan), torch.zeros(4).long(), 2, "nan")},
            "diverged at step 0",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(keywords, reason):
    with pytest.raises(Refused, match=reason):
        train_regimes(
            **{"task": "two-choice", "ranks": (2,), "seeds": 1, "units": 10, "steps": 2, **keywords}
        )
