"""Figures of number formats: their values on lines, and how well each fits some data. Arrays and tables in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from .charts import described
from .colors import AFTER_DARK, CATEGORIES, EDGE, SEQUENTIAL, plotly_scale
from .style import INK, styled

if TYPE_CHECKING:
    import pandas as pd


def number_line_figure(
    lines: Mapping[str, np.ndarray], *, log: bool = False, theme: str = "light"
) -> go.Figure:
    """A line for each format with a tick at every value, the first format on top; values over the format's largest.

    lines: ascending values by format. log: the positive values alone on a log axis, where a format whose neighbours
    have equal ratios is even.
    """
    figure = go.Figure()
    names = list(lines)
    blue = CATEGORIES[0] if theme == "light" else AFTER_DARK
    least = 1.0
    for name, values in lines.items():
        size = np.abs(values).max(initial=0) or 1.0
        shown = values / size
        shown = shown[shown > 0] if log else shown
        least = min(least, shown.min(initial=1.0)) if log else least
        figure.add_scatter(
            x=shown, y=[name] * len(shown), customdata=values[-len(shown) :], mode="markers",
            name=name, showlegend=False,
            marker={"symbol": "line-ns", "size": 15, "line": {"width": 1.2, "color": blue}},
            hovertemplate=f"{name}: %{{customdata:.4g}}<br>%{{x:.4g}} of the largest<extra></extra>",
        )  # fmt: skip
    styled(figure, theme)
    figure.update_layout(height=70 + 26 * len(names))
    figure.update_yaxes(title_text="format", categoryorder="array", categoryarray=names[::-1], showgrid=True)
    if log:
        figure.update_xaxes(type="log", range=[np.log10(least) - 0.1, 0.05], exponentformat="power", dtick=1)
    else:
        figure.update_xaxes(range=[-1.03, 1.03], zeroline=False)
    figure.update_xaxes(title_text="value over the largest" + (", log scale" if log else ""))
    return described(
        figure, f"All values of {', '.join(names)}{' that are positive, log scale' if log else ''}."
    )


def sqnr_figure(table: pd.DataFrame, *, theme: str = "light") -> go.Figure:
    """SQNR of every format (across) on every set of data (down), as colours and numbers; the best of a width is framed.

    table: data, format, bits, sqnr_db, a row for each pair; formats in the order in which they come.
    """
    formats, data = (list(dict.fromkeys(table[column])) for column in ("format", "data"))
    bits = dict(zip(table["format"], table["bits"], strict=True))
    cells = np.full((len(data), len(formats)), np.nan)
    for row in table.to_dict("records"):
        cells[data.index(row["data"]), formats.index(row["format"])] = row["sqnr_db"]
    wide = len(data) <= 24  # more lines than that leave no room for numbers
    figure = go.Figure()
    figure.add_heatmap(
        z=cells, x=formats, y=data, colorscale=plotly_scale(SEQUENTIAL), xgap=1, ygap=1,
        text=np.round(cells, 1), texttemplate="%{text}" if wide else None, textfont={"size": 9},
        colorbar={"title": {"text": "SQNR, dB", "side": "right"}, "thickness": 12},
        hovertemplate="%{y}<br>%{x}: %{z:.2f} dB<extra></extra>",
    )  # fmt: skip
    for width in dict.fromkeys(bits.values()):
        columns = [i for i, name in enumerate(formats) if bits[name] == width]
        for row in range(len(data)):
            if len(columns) < 2 or np.isnan(cells[row, columns]).all():
                continue
            best = columns[int(np.nanargmax(cells[row, columns]))]
            figure.add_shape(
                type="rect", x0=best - 0.47, x1=best + 0.47, y0=row - 0.46, y1=row + 0.46,
                line={"color": EDGE, "width": 2},
            )  # fmt: skip
    styled(figure, theme)
    figure.update_layout(height=max(220, 90 + (30 if wide else 14) * len(data)), font={"color": INK[theme]})
    figure.update_xaxes(title_text="format", showgrid=False)
    figure.update_yaxes(
        title_text="data", autorange="reversed", showgrid=False, tickfont={"size": 10 if wide else 7}
    )
    return described(
        figure, f"Signal to quantization noise of {len(formats)} formats on {len(data)} sets of data, dB; "
        "the best format of each width is framed.",
    )  # fmt: skip
