"""The look of every figure: two themes, one font size, room for what is needed and no more."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go

INK = {"light": "#333333", "dark": "#d0d0d0"}
GRID = {"light": "#e3e3e3", "dark": "#3d3d3d"}
FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"


def styled(figure: go.Figure, theme: str = "light", title: str = "", subtitle: str = "") -> go.Figure:
    """Apply the house's style; transparent ground, so that a figure sits on whatever page it is on."""
    ink, line = INK[theme], GRID[theme]
    axis = {
        "gridcolor": line,
        "zerolinecolor": line,
        "linecolor": line,
        "ticks": "outside",
        "tickcolor": line,
    }
    axis |= {"title": {"standoff": 4, "font": {"size": 11}}, "tickfont": {"size": 10}, "automargin": True}
    figure.update_layout(
        template="none",
        font={"family": FONT, "size": 11, "color": ink},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 52, "r": 12, "t": 44 if title else 8, "b": 30},
        # Inside the axes, in the corner that a falling curve leaves empty; a figure may choose another.
        legend={"x": 0.01, "xanchor": "left", "y": 0.02, "yanchor": "bottom", "font": {"size": 10}},
        hoverlabel={"font": {"family": FONT, "size": 11}},
        xaxis=axis,
        yaxis=axis,
    )
    if title:
        text = f"<b>{title}</b>" + (f"<br><span style='font-size:11px'>{subtitle}</span>" if subtitle else "")
        figure.update_layout(title={"text": text, "x": 0, "xref": "paper", "font": {"size": 13}, "y": 0.97})
    return figure


# What every axis takes over from the first of its kind.
LOOKS = ("gridcolor", "zerolinecolor", "linecolor", "ticks", "tickcolor", "tickfont", "automargin", "title")


def all_axes(figure: go.Figure) -> go.Figure:
    """Give every axis of a figure with several the look that `styled` gave to the first. Titles are set afterwards."""
    looked = figure.layout["xaxis"].to_plotly_json()
    look = {key: looked[key] for key in LOOKS}
    figure.update_xaxes(**look)
    figure.update_yaxes(**look)
    return figure


def log_axis(values: np.ndarray, decades: float = 6) -> dict[str, Any]:
    """A log axis for values > 0, as properties: the upper `decades` of them at most, ticks at 1, 2 and 5, or at powers
    of ten where many decades are shown."""
    live = values[np.isfinite(values) & (values > 0)]
    low, high = (np.log10(live.min()), np.log10(live.max())) if len(live) else (0.0, 1.0)
    low = max(low, high - decades)
    room = 0.06 * (high - low) + 0.02
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    if high - low < 0.35:
        steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9)
    ticks = [step * 10.0**power for power in range(int(low) - 2, int(high) + 2) for step in steps]
    return {
        "type": "log",
        "range": [low - room, high + room],
        "tickvals": ticks,
        "ticktext": [tick_text(tick) for tick in ticks],
    }


def tick_text(value: float) -> str:
    """A tick value > 0, with a power of ten from 1000 up and below 0.001: 1e+03 is no number on an axis."""
    power = math.floor(math.log10(value) + 1e-9)
    if -3 <= power < 3:
        return f"{value:.3g}"
    digits = f"{value / 10.0**power:.3g}"
    return f"10<sup>{power}</sup>" if digits == "1" else f"{digits}·10<sup>{power}</sup>"
