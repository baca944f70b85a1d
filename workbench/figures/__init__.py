"""Figures: data in, plotly out. No torch, no state, nothing fetched."""

from .charts import (
    error_bits_figure,
    histogram_figure,
    note_figure,
    pareto_figure,
    profile_figure,
    spectrum_figure,
)
from .picture import error_map_figure

__all__ = [
    "error_bits_figure",
    "error_map_figure",
    "histogram_figure",
    "note_figure",
    "pareto_figure",
    "profile_figure",
    "spectrum_figure",
]
