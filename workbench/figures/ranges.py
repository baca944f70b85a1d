"""Figure of static activation ranges: what each point of a network spans before learning and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .charts import described, note_figure
from .colors import AFTER, AFTER_DARK, BEFORE, CATEGORIES
from .style import styled

if TYPE_CHECKING:
    import pandas as pd

ACROSS = 3  # panels side by side
HIGH = 170  # pixels of a panel
SERIES = (
    ("min-max", "minmax_low", "minmax_high"),
    ("SmoothQuant", "start_low", "start_high"),
    ("learned", "low", "high"),
)


def ranges_figure(
    table: pd.DataFrame, *, kinds: Sequence[str] = (), title: str = "", theme: str = "light"
) -> go.Figure:
    """A panel for each kind of point; in it for each block three bars from the lowest value of the range to the
    highest: of the calibration text, the same under SmoothQuant's scales, learned.

    table: point, block, kind, bits, and minmax_, start_ and learned low and high, a row for each point, in the point's
    own units. `kinds` chooses the panels; by default those whose range was learned.
    """
    inside = table.loc[table["block"].notna()]
    moved = inside.loc[(inside["low"] != inside["start_low"]) | (inside["high"] != inside["start_high"])]
    shown = list(kinds) or list(dict.fromkeys(moved["kind"]))
    panels = [inside.loc[inside["kind"] == kind] for kind in shown]
    if not any(len(panel) for panel in panels):
        return note_figure("no range was learned: every one is that of the start", theme=theme)
    down = -(-len(panels) // ACROSS)
    names = [
        f"{kind}, {'/'.join(map(str, sorted(set(p['bits']))))} bits"
        for kind, p in zip(shown, panels, strict=True)
    ]
    figure = make_subplots(
        down, ACROSS, subplot_titles=names, vertical_spacing=0.3 / down, horizontal_spacing=0.08
    )
    for index, panel in enumerate(panels):
        _panel(figure, panel, theme, index)
    change = moved["high"] - moved["low"]
    change = np.abs(change / (moved["start_high"] - moved["start_low"]) - 1)
    said = f"{len(moved)} of {len(table)} ranges were learned; " if len(moved) else ""
    said += (
        f"their width changed by {change.median():.1%} (median), {change.max():.1%} at most"
        if len(moved)
        else ""
    )
    styled(figure, theme, title or "Activation ranges", said)
    figure.update_annotations(font_size=11)
    figure.update_layout(
        barmode="group", bargap=0.25, height=110 + HIGH * down, margin={"t": 70, "b": 40},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02 + 0.06 / down, "yanchor": "bottom"},
    )  # fmt: skip
    return described(figure, f"Static ranges of activations by block, before learning and after. {said}.")


def _panel(figure: go.Figure, panel: pd.DataFrame, theme: str, index: int) -> None:
    row, column = index // ACROSS + 1, index % ACROSS + 1
    colors = (BEFORE, CATEGORIES[1], AFTER if theme == "light" else AFTER_DARK)
    for (name, low, high), color in zip(SERIES, colors, strict=True):
        figure.add_bar(
            x=panel["block"].to_numpy(int), base=panel[low].to_numpy(), y=(panel[high] - panel[low]).to_numpy(),
            name=name, legendgroup=name, showlegend=index == 0, marker={"color": color},
            customdata=panel[["point", low, high]].to_numpy(),
            hovertemplate="%{customdata[0]}<br>%{customdata[1]:.4g} to %{customdata[2]:.4g}<extra>" + name + "</extra>",
            row=row, col=column,
        )  # fmt: skip
    figure.update_xaxes(title_text="block", dtick=1, showgrid=False, row=row, col=column)
    figure.update_yaxes(title_text="value", nticks=5, row=row, col=column)
