"""The look of every figure: two themes, one font size, room for what is needed and no more."""

from __future__ import annotations

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
