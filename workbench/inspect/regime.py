"""RichLazy: what a short training moves, by the rank of the initial weight. Bandlimited: what random bounded weights
cannot reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..engine.regime import Regime, Sequences, train_regimes
from ..errors import Refused, near
from ..jobs import Job, in_cell
from ..spectra.bandlimited import FEATURES, RIDGE, SWEEP_COLUMNS, circle_residual, sweep
from .view import Viewable

if TYPE_CHECKING:
    import plotly.graph_objects as go

BY = ("rank", "stable_rank", "participation_ratio", "entropy_rank")
RIDGES = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)


class RichLazy(Viewable):
    """Small recurrent networks trained from weights of several ranks and one norm. `compute` trains them; the figure
    and the tables do so themselves when they are first asked.

    task: "images" (embedded) or "two-choice"; ranks of `units`; seeds for each rank; steps of SGD at this rate. by: the
    rank that the figure shows: "rank", "stable_rank", "participation_ratio" or "entropy_rank". Which effective rank the
    paper plots could not be seen, so it is a choice, and the axis says which.
    """

    def __init__(
        self,
        task: str | Sequences = "images",
        *,
        ranks: Sequence[int] = (1, 3, 10, 30, 100),
        seeds: int = 4,
        units: int = 100,
        steps: int = 300,
        rate: float = 0.01,
        by: str = "rank",
    ):
        if by not in BY:
            raise Refused(f"no rank is called {by!r}{near(by, BY)}")
        self.by = by
        self.task, self.ranks, self.seeds, self.units = task, tuple(ranks), seeds, units
        self.steps, self.rate = steps, rate
        self._found: Regime | None = None

    @in_cell("rich and lazy")
    def compute(self, job: Job | None = None) -> RichLazy:
        if self._found is None:
            self._found = train_regimes(
                self.task, ranks=self.ranks, seeds=self.seeds, units=self.units, steps=self.steps, rate=self.rate,
                job=job,
            )  # fmt: skip
        return self

    @property
    def found(self) -> Regime:
        found = self.compute()._found
        assert found is not None
        return found

    @property
    def what(self) -> str:
        """The task and the training in words."""
        return f"{self.found.what}; {self.steps} steps"

    @property
    def table(self) -> pd.DataFrame:
        """One row a network; the columns are described in the frame's `attrs`."""
        return self.found.table

    @cached_property
    def summary(self) -> pd.DataFrame:
        """Means over seeds by rank, and the standard deviations of change, RA and KA."""
        grouped: Any = self.table.groupby("rank")
        mean = grouped[["change", "ra", "ka", "ka_centred", "signs", "loss", "accuracy"]].mean()
        spread = grouped[["change", "ra", "ka"]].std()
        return mean.join(spread.add_suffix("_sd")).reset_index()

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures.regime import regime_figure

        return regime_figure(self.table, self.what, by=self.by, theme=theme)

    def kernels(self, rank: int, theme: str = "light") -> go.Figure:
        """Tangent kernels of the first seed of a rank, before and after."""
        from ..figures.regime import kernels_figure
        from ..spectra.regime import kernel_alignment

        if rank not in self.found.kernels:
            raise Refused(f"no network began with rank {rank}; there are {', '.join(map(str, self.ranks))}")
        before, after = self.found.kernels[rank]
        return kernels_figure(
            before, after, kernel_alignment(before, after), f"initial rank {rank}", theme=theme
        )

    def spectra(self, theme: str = "light") -> go.Figure:
        """Singular values of the initial weights."""
        from ..figures.regime import initial_figure

        return initial_figure(self.found.spectra, theme=theme)

    def losses(self, theme: str = "light") -> go.Figure:
        """Training loss by step for each rank."""
        from ..figures.regime import losses_figure

        return losses_figure(self.found.losses, self.what, theme=theme)


class Bandlimited(Viewable):
    """Sines fitted by random tanh features whose hidden weights lie in [-bound, bound].

    frequencies of the sines, bounds, seeds (draws of the hidden weights), number of features, ridge of the fit."""

    def __init__(
        self,
        frequencies: Sequence[float] = (1, 2, 4),
        bounds: Sequence[float] = (1, 2, 5, 10, 20, 40, 80),
        *,
        seeds: int = 5,
        features: int = FEATURES,
        ridge: float = RIDGE,
    ):
        self.frequencies, self.bounds, self.seeds = tuple(frequencies), tuple(bounds), seeds
        self.features, self.ridge = features, ridge
        self._table: pd.DataFrame | None = None

    @in_cell("bandlimited weights")
    def compute(self, job: Job | None = None) -> Bandlimited:
        if self._table is None:
            rows = sweep(
                self.frequencies, self.bounds, ridges=(self.ridge,), seeds=self.seeds, features=self.features,
                step=(lambda done, total: None) if job is None else job.step,
            )  # fmt: skip
            self._table = _framed(rows)
        return self

    @property
    def table(self) -> pd.DataFrame:
        """One row a fit, columns as in SWEEP_COLUMNS."""
        found = self.compute()._table
        assert found is not None
        return found

    def figure(self, theme: str = "light") -> go.Figure:
        """Error and norm of the coefficients over the bound."""
        from ..figures.regime import bandlimited_figure

        return bandlimited_figure(self.table, self.features, theme=theme)

    def ridges(self, frequency: float = 2, bound: float = 1, theme: str = "light") -> go.Figure:
        """Error against the norm of the coefficients, for one frequency and bound and falling ridges."""
        from ..figures.regime import ridge_figure

        rows = sweep([frequency], [bound], ridges=RIDGES, seeds=self.seeds, features=self.features)
        return ridge_figure(_framed(rows), theme=theme)

    @staticmethod
    def circle(points: int = 64, theme: str = "light") -> go.Figure:
        """The exact case: sin 3t + sin 7t / 2 on a circle, by cosines and sines up to every band."""
        from ..figures.regime import circle_figure

        turn = 2 * np.pi * np.arange(points) / points
        y = np.sin(3 * turn) + 0.5 * np.sin(7 * turn)
        bands = np.arange(11)
        error, outside = np.array([circle_residual(y, int(band)) for band in bands]).T
        return circle_figure(
            bands, error, outside, f"sin 3t + ½ sin 7t at {points} points of a circle", theme=theme
        )


def _framed(rows: list[dict[str, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(SWEEP_COLUMNS))
    frame.attrs["columns"] = SWEEP_COLUMNS
    return frame
