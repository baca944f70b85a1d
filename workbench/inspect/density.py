"""Density and ErrorSpectrum: the eigenvalues of a weight with their tail and bulk, and the spectrum of the error that
compression made."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ..errors import Refused
from ..spectra import (
    TailFit,
    fit_tail,
    kept_directions,
    median_bulk,
    mp_density,
    noise_density,
    predicted_spike,
    scan_tail,
)
from .curves import Edged

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

DIRECTIONS = 32  # of which it is said how much is left


class Density(Edged):
    """The empirical spectral density before and after, the fitted tail, the bulk of noise and the noise edge."""

    @cached_property
    def eigenvalues(self) -> tuple[np.ndarray, np.ndarray]:
        """Before and after [n], ascending, weights squared."""
        return np.square(self.edge.before[::-1]), np.square(self.edge.after[::-1])

    @cached_property
    def tails(self) -> tuple[TailFit | None, TailFit | None]:
        """Of both; None where there is no fit, `why` says why."""
        return _fit(self.eigenvalues[0]), _fit(self.eigenvalues[1])

    @property
    def why(self) -> str:
        """Why the weight has no tail; empty where it has one."""
        try:
            fit_tail(self.eigenvalues[0])
        except Refused as reason:
            return str(reason).split("; ")[0].removeprefix("tail fit: ")
        return ""

    @property
    def table(self) -> pd.DataFrame:
        """eigenvalue (ascending, weights squared), after, and for each as a beginning of the tail: alpha, D."""
        import pandas as pd

        scan = scan_tail(self.eigenvalues[0], threshold=0)
        zeros = len(self.eigenvalues[0]) - len(scan.eigenvalues)
        pad = (np.full(zeros, np.nan), [np.nan] * (len(self.eigenvalues[0]) > zeros))
        columns = {
            name: np.r_[pad[0], values, pad[1]] for name, values in (("alpha", scan.alpha), ("D", scan.D))
        }
        return pd.DataFrame({"eigenvalue": self.eigenvalues[0], "after": self.eigenvalues[1], **columns})

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures.spectra import density_figure

        before, after = self.eigenvalues
        fit = self.tails[0]
        return density_figure(
            before,
            after,
            tail=None if fit is None else (fit.alpha, fit.sigma, fit.xmin, fit.tail),
            bulk=_bulk(before, self.edge.shape),
            edge=self.edge.edge**2,
            name=self.name,
            note="" if fit else self.why,
            theme=theme,
        )

    def scan(self, theme: str = "light") -> go.Figure:
        """D and alpha of every place where the tail may begin. Refused where there is no fit."""
        from ..figures.spectra import scan_figure

        fit = fit_tail(self.eigenvalues[0])
        scan = scan_tail(self.eigenvalues[0])
        return scan_figure(scan.eigenvalues, scan.alpha, scan.D, fit.xmin_index, self.name, theme=theme)


class ErrorSpectrum(Edged):
    """The singular values of the error beside those of white noise, and how much of the leading directions is left."""

    @cached_property
    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the leading output and input directions [k]: squared cosine of the angle to those of the copy."""
        return kept_directions(self.w, self.compressed.dequantize(), DIRECTIONS)

    @property
    def table(self) -> pd.DataFrame:
        """direction (from 1), strength (singular value of the weight), lost (under the edge); outputs, inputs: share
        that is left; outputs_expected, inputs_expected: the same under white noise."""
        import pandas as pd

        (left, right), (left_expected, right_expected) = self.kept, self._expected
        k = len(left)
        return pd.DataFrame(
            {
                "direction": np.arange(1, k + 1),
                "strength": self.edge.before[:k],
                "lost": self.edge.before[:k] < self.edge.edge,
                "outputs": left,
                "inputs": right,
                "outputs_expected": left_expected,
                "inputs_expected": right_expected,
            }
        )

    @property
    def _expected(self) -> tuple[np.ndarray, np.ndarray]:
        e = self.edge
        spikes = [predicted_spike(float(s), e.error_variance, e.shape) for s in e.before[: len(self.kept[0])]]
        return np.array([spike.left for spike in spikes]), np.array([spike.right for spike in spikes])

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures import note_figure
        from ..figures.spectra import error_spectrum_figure

        e = self.edge
        if e.error_variance == 0:
            return note_figure("the copy is the weight itself: there is no error", theme=theme)
        values = np.linspace(0, e.edge * 1.02, 300)
        predicted = values, noise_density(values, e.error_variance, e.shape)
        return error_spectrum_figure(
            e.error, predicted, e.edge, e.lost, self.kept, self._expected, self.name, theme=theme
        )


def _fit(eigenvalues: np.ndarray) -> TailFit | None:
    try:
        return fit_tail(eigenvalues)
    except Refused:
        return None


def _bulk(eigenvalues: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """Eigenvalues and densities of the noise whose median is that of the weight; None for a weight of zeros."""
    try:
        bulk = median_bulk(eigenvalues, max(shape), min(shape))
    except Refused:
        return None
    if bulk.problem:
        return None
    x = np.geomspace(max(bulk.low, bulk.high * 1e-4), bulk.high, 200)
    unit = bulk.scale**2
    return x, mp_density(x * unit, bulk.Q, bulk.sigma) * unit
