"""Density and ErrorSpectrum: the eigenvalues of a weight with their tail and bulk, and the spectrum of the error that
compression made.

How much of a direction is left is compared with two things. White noise of the error's variance, added to the same
weight: what is like it is noise, and what is not is the method. And the law for a single direction in noise
(Benaych-Georges & Nadakuditi 2012), which holds only where no other is near: most of what is lost of a trained weight's
directions is mixing with their neighbours, beyond those that are counted as leading.
"""

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
from .noise import step_variance

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

DIRECTIONS = 32  # of which it is said how much is left
SEED = 0  # of the white noise
# Copies with white noise, of which the mean is drawn: from one to the next the last directions change by 0.1 to 0.2.
# One of a large weight, where each costs as much as the measurement.
COPIES, SMALL = 8, 1 << 18


class Density(Edged):
    """The empirical spectral density before and after, the fitted tail, the bulk of noise and the noise edge; or of a
    weight alone."""

    alone = True

    @cached_property
    def eigenvalues(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Before and after (None without a copy) [n], ascending, weights squared."""
        return np.square(self.before[::-1]), None if self.after is None else np.square(self.after[::-1])

    @cached_property
    def tails(self) -> tuple[TailFit | None, TailFit | None]:
        """Of both; None where there is no fit, `why` says why."""
        before, after = self.eigenvalues
        return _fit(before), None if after is None else _fit(after)

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
        """eigenvalue (ascending, weights squared), after (where there is a copy), and for each as a beginning of the
        tail: alpha, D."""
        import pandas as pd

        before, after = self.eigenvalues
        scan = scan_tail(before, threshold=0)
        zeros = len(before) - len(scan.eigenvalues)
        pad = (np.full(zeros, np.nan), [np.nan] * (len(before) > zeros))
        columns = {
            name: np.r_[pad[0], values, pad[1]] for name, values in (("alpha", scan.alpha), ("D", scan.D))
        }
        if after is not None:
            columns = {"after": after, **columns}
        return pd.DataFrame({"eigenvalue": before, **columns})

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures.spectra import density_figure

        before, after = self.eigenvalues
        fit = self.tails[0]
        return density_figure(
            before,
            after,
            tail=None if fit is None else (fit.alpha, fit.sigma, fit.xmin, fit.tail),
            bulk=_bulk(before, (self.w.shape[0], self.w.shape[1])),
            edge=0.0 if after is None else self.edge.edge**2,
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
    """The singular values of the error beside those of white noise, and how much of the leading directions is left,
    beside what white noise of the same variance leaves of them."""

    @cached_property
    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the leading output and input directions [k]: their share in the span of the copy's k leading ones, squared
        cosine of the angle to it."""
        assert self.copy is not None
        return kept_directions(self.w, self.copy, DIRECTIONS)

    @cached_property
    def white(self) -> tuple[np.ndarray, np.ndarray]:
        """The same [k] where the error is white noise of its variance, drawn from seed 0: mean of 8 copies, of weights
        beyond 2^18 one."""
        w, random = self.w.double().numpy(), np.random.default_rng(SEED)
        sd = np.sqrt(self.edge.error_variance)
        copies = (
            kept_directions(w, w + sd * random.standard_normal(w.shape), DIRECTIONS)
            for _ in range(COPIES if w.size <= SMALL else 1)
        )
        left, right = np.mean(list(copies), axis=0)
        return left, right

    @cached_property
    def isolated(self) -> tuple[np.ndarray, np.ndarray]:
        """What the law for a single direction in white noise leaves of each [k]; NaN where another singular value of
        the weight is nearer than the noise edge, so that the law does not hold (Davis & Kahan 1970)."""
        e, k = self.edge, len(self.kept[0])
        spikes = [predicted_spike(float(s), e.error_variance, e.shape) for s in e.before[:k]]
        gaps = -np.diff(e.before, append=0.0)  # to the next; the last one's to nothing
        apart = np.minimum(gaps, np.r_[np.inf, gaps[:-1]])[:k] > e.edge
        found = np.array([(spike.left, spike.right) for spike in spikes]).reshape(-1, 2)
        left, right = np.where(apart[:, None], found, np.nan).T
        return left, right

    @cached_property
    def predicted_variance(self) -> float:
        """Variance of the error that the grid's steps alone predict, before rounding, weights squared; NaN where there
        are none. Measured: `edge.error_variance`."""
        return step_variance(self.w, self.compressed)

    @property
    def table(self) -> pd.DataFrame:
        """direction (from 1), strength (singular value of the weight), lost (under the edge); outputs, inputs: share in
        the span of the copy's leading directions; _white: the same under white noise of the error's variance;
        _isolated: of a single direction, NaN where others are near. `attrs`: error_variance, predicted_variance."""
        import pandas as pd

        k = len(self.kept[0])
        columns = {
            "direction": np.arange(1, k + 1),
            "strength": self.edge.before[:k],
            "lost": self.edge.before[:k] < self.edge.edge,
        }
        for suffix, pair in (("", self.kept), ("_white", self.white), ("_isolated", self.isolated)):
            columns |= {f"outputs{suffix}": pair[0], f"inputs{suffix}": pair[1]}
        frame = pd.DataFrame(columns)
        frame.attrs |= {
            "error_variance": self.edge.error_variance,
            "predicted_variance": self.predicted_variance,
        }
        return frame

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures import note_figure
        from ..figures.spectra import error_spectrum_figure

        e = self.edge
        if e.error_variance == 0:
            return note_figure("the copy is the weight itself: there is no error", theme=theme)
        values = np.linspace(0, e.edge * 1.02, 300)
        density = values, noise_density(values, e.error_variance, e.shape)
        return error_spectrum_figure(
            e.error, density, e.edge, e.lost, self.kept, self.white, self.isolated, self.name,
            variances=(self.predicted_variance, e.error_variance), theme=theme,
        )  # fmt: skip


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
