"""Histogram, Spectrum and Profile: what the lower half of the bench shows of a weight before and after.

A spectrum, a density and a histogram are also of a weight alone.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..errors import Refused
from ..grid import CompressedWeight, uncompressed
from ..measure import error_cells
from ..spectra import NoiseEdge, singular_values
from .view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

BINS = 160
SAMPLE = 1_000_000  # weights a histogram is made from at most, in whole rows spread over the matrix


Weights: TypeAlias = Tensor | np.ndarray


class Curve(Viewable):
    """What they share: made of a weight [out, in], a tensor or array of any float dtype, and its compressed form; or of
    another matrix of this shape instead, which is taken as its copy. float64 stays, everything else becomes float32.

    Raises `Refused` for what is no matrix of floats, for a copy of another shape, and for a missing copy where there is
    nothing to show without one."""

    alone = False  # whether there is something to show of a weight without a copy

    def __init__(
        self, w: Weights, compressed: CompressedWeight | Weights | None = None, name: str = "weight"
    ):
        kind = type(self).__name__
        self.w, self.name = _matrix(w, kind), name
        self._copy: Tensor | None = None  # where the copy was given as a matrix: in its own precision
        if compressed is not None and not isinstance(compressed, CompressedWeight):
            self._copy = _matrix(compressed, kind)
            compressed = uncompressed(self._copy) if self._copy.shape == self.w.shape else None
        self._compressed = compressed
        shape = (
            self._copy.shape if self._copy is not None else compressed.shape if compressed else self.w.shape
        )
        if tuple(shape) != tuple(self.w.shape):
            raise Refused(
                f"{kind}: the weight is {list(self.w.shape)} and its copy {list(shape)}; compare a matrix with its own "
                "compressed form, same orientation"
            )
        if compressed is None and not self.alone:
            raise Refused(
                f"{kind} compares a weight with its copy, and none was given; pass what a method made of it: "
                f"{kind}(w, RTN(bits=4).compress(w))"
            )

    @property
    def compressed(self) -> CompressedWeight:
        """Refused where there is none."""
        if self._compressed is None:
            raise Refused(
                f"{type(self).__name__} of {self.name} was made of the weight alone; pass a copy too"
            )
        return self._compressed

    @property
    def copy(self) -> Tensor | None:
        """The copy's values [out, in], or None."""
        if self._compressed is None:
            return None
        return self._compressed.dequantize() if self._copy is None else self._copy


def _matrix(w: Weights, kind: str) -> Tensor:
    """w [out, in] as a tensor of float32 or float64."""
    found = w
    if isinstance(w, np.ndarray):  # in the order of bytes and the layout that torch knows
        found = torch.from_numpy(np.require(w, w.dtype.newbyteorder("="), ["C", "W"]))
    if not isinstance(found, Tensor):
        raise Refused(
            f"{kind} takes a weight matrix [out, in] as a tensor or array, not {type(w).__name__}; of a model take "
            "model.base_weight(name)"
        )
    if found.ndim != 2 or not found.is_floating_point() or not found.numel():
        raise Refused(
            f"{kind}: expected a weight matrix [out, in] of floats, got {list(found.shape)} of {found.dtype}; a "
            "convolution is one as w.flatten(1)"
        )
    return found.detach() if found.dtype == torch.float64 else found.detach().float()


class Histogram(Curve):
    """How the weights, and what they became, are distributed."""

    alone = True

    @cached_property
    def table(self) -> pd.DataFrame:
        """bin (its left edge, in the weight's units), before and, where there is a copy, after: shares of the
        weights."""
        import pandas as pd

        step = max(1, self.w.numel() // SAMPLE)
        rows = slice(0, self.w.shape[0], step)
        shown = {"before": self.w[rows].flatten().numpy()}
        if self._compressed is not None:
            shown["after"] = self._sampled(step).flatten().numpy()
        limit = float(max(np.abs(values).max(initial=0) for values in shown.values())) or 1.0
        edges = np.linspace(-limit, limit, BINS + 1)
        shares = {
            label: np.histogram(values, edges)[0] / max(1, len(values)) for label, values in shown.items()
        }
        return pd.DataFrame({"bin": edges[:-1], **shares})

    def _sampled(self, step: int) -> Tensor:
        if step == 1:
            return self.compressed.dequantize()
        picked = range(0, self.w.shape[0], step)
        return torch.cat([self.compressed.dequantize(slice(row, row + 1)) for row in picked])

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures import histogram_figure

        t = self.table
        after = t["after"].to_numpy() if "after" in t else None
        return histogram_figure(t["bin"].to_numpy(), t["before"].to_numpy(), after, self.name, theme=theme)


class Edged(Curve):
    """A curve of the singular values before and after."""

    @cached_property
    def edge(self) -> NoiseEdge:
        """Refused where there is no copy."""
        _ = self.compressed
        assert self.copy is not None
        return NoiseEdge.measure(self.w, self.copy)

    @cached_property
    def before(self) -> np.ndarray:
        """Singular values of the weight [min(out, in)], descending."""
        return singular_values(self.w) if self._compressed is None else self.edge.before

    @property
    def after(self) -> np.ndarray | None:
        """Those of the copy; None where there is none."""
        return None if self._compressed is None else self.edge.after


class Spectrum(Edged):
    """Singular values before and after, and the noise edge under which directions are lost; or of a weight alone."""

    alone = True

    @property
    def table(self) -> pd.DataFrame:
        """index (from 1), before: singular values in the weight's units; where there is a copy also after, and lost:
        under the noise edge."""
        import pandas as pd

        columns = {"index": np.arange(1, len(self.before) + 1), "before": self.before}
        if self.after is not None:
            columns |= {"after": self.after, "lost": self.before < self.edge.edge}
        return pd.DataFrame(columns)

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures import spectrum_figure

        edge, lost = (0.0, 0) if self.after is None else (self.edge.edge, self.edge.lost)
        return spectrum_figure(self.before, self.after, edge, lost, self.name, theme=theme)


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
