"""How a method converged: its curves by step, its facts and warnings in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from .charts import POINTS, described, note_figure
from .colors import CATEGORIES
from .style import log_axis, styled

DASHES = ("solid", "dot", "dash", "dashdot")
DECADES = 5  # of a log axis: a loss may begin at the rounding errors of float32


def curves_figure(
    curves: Mapping[str, Sequence[float]],
    name: str,
    *,
    facts: Mapping[str, float | str] | None = None,
    warnings: Sequence[str] = (),
    theme: str = "light",
) -> go.Figure:
    """A line for each curve, by step from 1; facts and warnings above it. A log axis where no value is below 0: zeros
    are left out, and what is under a 100,000th of the largest."""
    words = _words(facts or {}, warnings)
    known = {label: np.asarray(values, float) for label, values in curves.items() if len(values)}
    if not known:
        return note_figure(f"{name}: {words or 'its method has no steps to show'}", theme=theme)
    figure = go.Figure()
    together = np.concatenate(list(known.values()))
    log = bool((together >= 0).all() and (together > 0).any())
    for index, (label, values) in enumerate(known.items()):
        step = max(1, len(values) // POINTS)
        figure.add_scatter(
            x=np.arange(1, len(values) + 1)[::step], y=_shown(values[::step], log), name=label, mode="lines+markers",
            marker={"size": 4 if len(values) < 60 else 1},
            line={"color": CATEGORIES[index % len(CATEGORIES)], "width": 1.5, "dash": DASHES[index % len(DASHES)]},
        )  # fmt: skip
    styled(figure, theme)
    figure.update_xaxes(title_text="step", rangemode="tozero")
    figure.update_yaxes(title_text=next(iter(known)) if len(known) == 1 else "value")
    figure.update_yaxes(**log_axis(together, DECADES) if log else {"exponentformat": "power", "nticks": 5})
    figure.update_layout(
        legend={"x": 0.99, "xanchor": "right", "y": 0.98, "yanchor": "top"},
        showlegend=len(known) > 1,
        margin={"t": 24 if words else 8, "l": 56, "r": 12, "b": 30},
    )
    if words:
        figure.add_annotation(
            text=words, xref="paper", yref="paper", x=0, y=1.02, yanchor="bottom", xanchor="left", showarrow=False,
            font={"size": 10}, align="left",
        )  # fmt: skip
    return described(figure, f"Convergence of the method on {name}: {', '.join(known)} by step. {words}")


def _shown(values: np.ndarray, log: bool) -> np.ndarray:
    return np.where(values > 0, values, np.nan) if log else values


def _words(facts: Mapping[str, float | str], warnings: Sequence[str]) -> str:
    said = [
        f"{key} {value:.3g}" if isinstance(value, float | int) else f"{key}: {value}"
        for key, value in facts.items()
    ]
    return "<br>".join([*warnings, " · ".join(said)][: 2 if warnings else 1])
