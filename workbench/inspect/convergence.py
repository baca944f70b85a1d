"""Convergence: how the method got there; the curves, facts and warnings of a compressed weight's report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .curves import Curve

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


class Convergence(Curve):
    """The report of `compressed`: a line for each curve."""

    @property
    def table(self) -> pd.DataFrame:
        """curve, step (from 1), value; facts and warnings are in the frame's `attrs`."""
        import pandas as pd

        report = self.compressed.report
        rows = [
            {"curve": name, "step": step, "value": float(value)}
            for name, values in report.curves.items()
            for step, value in enumerate(values, 1)
        ]
        frame = pd.DataFrame(rows, columns=["curve", "step", "value"])
        frame.attrs["facts"], frame.attrs["warnings"] = dict(report.facts), list(report.warnings)
        return frame

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures.convergence import curves_figure

        report = self.compressed.report
        return curves_figure(
            report.curves, self.name, facts=report.facts, warnings=report.warnings, theme=theme
        )
