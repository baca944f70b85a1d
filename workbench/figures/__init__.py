"""Figures: data in, plotly out. No torch, no state, nothing fetched."""

from .charts import histogram_figure, pareto_figure, profile_figure, spectrum_figure
from .picture import error_map_figure

__all__ = ["error_map_figure", "histogram_figure", "pareto_figure", "profile_figure", "spectrum_figure"]
