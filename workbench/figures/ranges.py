"""Figure of static activation ranges: what each point of a network spans before learning and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .charts import described, note_figure
from .colors import AFTER, AFTER_DARK, BEFORE, CATEGORIES
from .style import GRID, styled

if TYPE_CHECKING:
    import pandas as pd

ACROSS = 3  # panels side by side
HIGH = 190  # pixels of a panel
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
    names = [f"{kind}, {_bits(panel)} bits" for kind, panel in zip(shown, panels, strict=True)]
    figure = make_subplots(
        down, ACROSS, subplot_titles=names, vertical_spacing=0.38 / down, horizontal_spacing=0.07
    )
    for index, panel in enumerate(panels):
        _panel(figure, panel, theme, index)
    said = _change(moved, len(table))
    styled(figure, theme, title or "Activation ranges", said)
    axis = {"gridcolor": GRID[theme], "zerolinecolor": GRID[theme], "tickfont": {"size": 10}}
    axis["title"] = {"font": {"size": 11}, "standoff": 4}
    figure.update_xaxes(axis)
    figure.update_yaxes(axis)
    figure.update_annotations(font_size=11)
    figure.update_layout(
        barmode="group", bargap=0.25, height=110 + HIGH * down, margin={"t": 70, "b": 40},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.02 + 0.06 / down, "yanchor": "bottom"},
    )  # fmt: skip
    return described(figure, f"Static ranges of activations by block, before learning and after. {said}.")


def _bits(panel: pd.DataFrame) -> str:
    return "/".join(str(bits) for bits in sorted(set(panel["bits"])))


def _change(moved: pd.DataFrame, points: int) -> str:
    """How much wider or narrower the learned ranges are than those of the start."""
    if not len(moved):
        return "no range was learned"
    width, start = moved["high"] - moved["low"], moved["start_high"] - moved["start_low"]
    change = np.abs(width / start - 1)
    widths = f"their width changed by {np.median(change):.1%} (median), {np.max(change):.1%} at most"
    return f"{len(moved)} of {points} ranges were learned; {widths}"


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
    figure.update_yaxes(title_text="value" if column == 1 else "", nticks=5, row=row, col=column)
