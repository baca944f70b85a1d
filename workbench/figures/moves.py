"""Which codes moved: how far, and from where between two points of the grid. Tables in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .charts import described
from .colors import CATEGORIES
from .style import all_axes, styled

if TYPE_CHECKING:
    import pandas as pd

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "star", "cross")


def moves_figure(
    table: pd.DataFrame, by_distance: pd.DataFrame, name: str, *, theme: str = "light"
) -> go.Figure:
    """Left: share of the weights by how many points they moved, log scale. Right: share that moved, by how far the
    weight was from its nearest point.

    table: method, move, share. by_distance: method, distance (steps, 0 to 0.5), moved (share).
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.13, column_widths=[0.5, 0.5])
    styled(figure, theme)
    all_axes(figure)
    for index, method in enumerate(dict.fromkeys(table["method"])):
        color = CATEGORIES[index % len(CATEGORIES)]
        rows, near = table.query("method == @method"), by_distance.query("method == @method")
        figure.add_bar(
            x=rows["move"].to_numpy(), y=100 * rows["share"].to_numpy(float), name=method, marker_color=color,
            legendgroup=method, hovertemplate=f"{method}: %{{x:+d}} points<br>%{{y:.3g}} %<extra></extra>",
            row=1, col=1,
        )  # fmt: skip
        figure.add_scatter(
            x=near["distance"].to_numpy(), y=100 * near["moved"].to_numpy(float), name=method,
            line={"color": color, "width": 1.5}, marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7},
            mode="lines+markers", legendgroup=method, showlegend=False,
            hovertemplate=f"{method}<br>%{{x:.2f}} steps away: %{{y:.3g}} % moved<extra></extra>", row=1, col=2,
        )  # fmt: skip
    moves = table["move"]
    figure.update_xaxes(title_text="points moved from the nearest", dtick=1, row=1, col=1)
    figure.update_xaxes(range=[moves.min() - 0.6, moves.max() + 0.6], row=1, col=1)
    figure.update_yaxes(
        title_text="% of the weights, log scale", type="log", dtick=1, exponentformat="none", tickformat="~g",
        range=[-2.2, 2.1], row=1, col=1,
    )  # fmt: skip
    figure.update_xaxes(title_text="distance from the nearest point, steps", range=[0, 0.5], row=1, col=2)
    figure.update_yaxes(title_text="% of the weights there that moved", rangemode="tozero", row=1, col=2)
    figure.update_layout(
        height=320, barmode="group", bargap=0.25, margin={"t": 34, "l": 60, "r": 14, "b": 44},
        legend={"x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom", "orientation": "h"},
    )  # fmt: skip
    return described(
        figure, f"Codes of {name} that are not those of round to nearest: how far they moved, and from where."
    )
