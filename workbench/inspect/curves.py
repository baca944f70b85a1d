"""Histogram, Spectrum and Profile: what the lower half of the bench shows of a weight before and after."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..grid import CompressedWeight
from ..measure import error_cells
from ..spectra import NoiseEdge
from .view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BINS = 160
SAMPLE = 1_000_000  # weights a histogram is made from at most, in whole rows spread over the matrix


class Curve(Viewable):
    """What they share: made of a weight and its compressed form."""

    def __init__(self, w: Tensor, compressed: CompressedWeight, name: str = "weight"):
        self.w, self.compressed, self.name = w.float(), compressed, name


class Histogram(Curve):
    """How the weights, and what they became, are distributed."""

    @cached_property
    def table(self) -> pd.DataFrame:
        """bin (its left edge, in the weight's units), before, after: shares of the weights."""
        import pandas as pd

        step = max(1, self.w.numel() // SAMPLE)
        rows = slice(0, self.w.shape[0], step)
        w = self.w[rows].flatten().numpy()
        after = self._sampled(step).flatten().numpy()
        limit = float(max(np.abs(w).max(initial=0), np.abs(after).max(initial=0))) or 1.0
        edges = np.linspace(-limit, limit, BINS + 1)
        return pd.DataFrame(
            {
                "bin": edges[:-1],
                "before": np.histogram(w, edges)[0] / len(w),
                "after": np.histogram(after, edges)[0] / len(after),
            }
        )

    def _sampled(self, step: int) -> Tensor:
        if step == 1:
            return self.compressed.dequantize()
        picked = range(0, self.w.shape[0], step)
        return torch.cat([self.compressed.dequantize(slice(row, row + 1)) for row in picked])

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures import histogram_figure

        t = self.table
        return histogram_figure(
            t["bin"].to_numpy(), t["before"].to_numpy(), t["after"].to_numpy(), self.name, theme=theme
        )


class Edged(Curve):
    """A curve of the singular values before and after."""

    @cached_property
    def edge(self) -> NoiseEdge:
        return NoiseEdge.measure(self.w, self.compressed.dequantize())


class Spectrum(Edged):
    """Singular values before and after, and the noise edge under which directions are lost."""

    @property
    def table(self) -> pd.DataFrame:
        """index (from 1), before, after: singular values in the weight's units; lost: under the noise edge."""
        import pandas as pd

        edge = self.edge
        return pd.DataFrame(
            {
                "index": np.arange(1, len(edge.before) + 1),
                "before": edge.before,
                "after": edge.after,
                "lost": edge.before < edge.edge,
            }
        )

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures import spectrum_figure

        e = self.edge
        return spectrum_figure(e.before, e.after, e.edge, e.lost, self.name, theme=theme)


class Profile(Curve):
    """The error along rows and columns: which outputs and which inputs suffer."""

    @cached_property
    def table(self) -> pd.DataFrame:
        """axis (row or column), index (of the first row of a strip of 8, or of the column), rms error."""
        import pandas as pd

        cells = error_cells(self.w, self.compressed).error
        out, inputs = self.w.shape
        heights = np.minimum(8, out - 8 * np.arange(len(cells.strips)))
        rows = np.sqrt(cells.strips / (heights * inputs))
        columns = np.sqrt(cells.columns / out)
        return pd.DataFrame(
            {
                "axis": ["row"] * len(rows) + ["column"] * len(columns),
                "index": np.r_[8 * np.arange(len(rows)), np.arange(len(columns))],
                "rms_error": np.r_[rows, columns],
            }
        )

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures import profile_figure

        t = self.table
        index, error, axis = t["index"].to_numpy(), t["rms_error"].to_numpy(), t["axis"].to_numpy()
        rows, columns = ((index[axis == name], error[axis == name]) for name in ("row", "column"))
        return profile_figure(rows, columns, self.name, theme=theme)
