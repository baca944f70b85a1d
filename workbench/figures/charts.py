"""Charts of one layer and of all variants. Data in, plotly figure out; units on the axes, nothing fetched.

Every function takes plain arrays and returns a `go.Figure` whose `layout.meta` holds an alt text and a caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from .colors import AFTER, AFTER_DARK, BEFORE, CATEGORIES, EDGE
from .style import log_axis, styled

if TYPE_CHECKING:
    import pandas as pd

POINTS = 400  # of a curve: more cannot be told apart on a screen


def histogram_figure(
    left: np.ndarray, before: np.ndarray, after: np.ndarray | None, name: str, *, theme: str = "light"
) -> go.Figure:
    """Shares of weights in equal bins before and after (None: of a weight alone), log scale. left, before, after
    [bins]."""
    figure = go.Figure()
    width = left[1] - left[0]
    blue = AFTER if theme == "light" else AFTER_DARK
    if after is not None:
        figure.add_bar(
            x=left + width / 2,
            y=np.where(after > 0, after, np.nan),
            name="compressed",
            marker_color=blue,
            width=width,
        )
    figure.add_scatter(
        x=left + width / 2, y=np.where(before > 0, before, np.nan), name="weight", mode="lines",
        line={"color": BEFORE, "width": 1.5, "shape": "hvh"},
    )  # fmt: skip
    styled(figure, theme)
    shown = (before,) if after is None else (before, after)
    smallest = min((a[a > 0].min() for a in shown if (a > 0).any()), default=1e-6)
    figure.update_layout(bargap=0, legend={"y": 0.98, "yanchor": "top"})
    figure.update_xaxes(title_text="weight")
    figure.update_yaxes(
        title_text="share of weights",
        type="log",
        range=[np.log10(smallest) - 0.1, 0],
        dtick=1,
        exponentformat="power",
    )
    when = "" if after is None else " before and after compression"
    return described(figure, f"Distribution of the weights of {name}{when}, log scale.")


def spectrum_figure(
    before: np.ndarray, after: np.ndarray | None, edge: float, lost: int, name: str, *, theme: str = "light"
) -> go.Figure:
    """Singular values by rank on log axes, with the noise edge. before, after [min(out, in)] descending; after None,
    edge 0: of a weight alone."""
    pick = np.unique(np.geomspace(1, max(len(before), 1), POINTS).round().astype(int)) - 1
    figure = go.Figure()
    blue = AFTER if theme == "light" else AFTER_DARK
    figure.add_scatter(x=pick + 1, y=before[pick], name="weight", line={"color": BEFORE, "width": 2})
    if after is not None:
        figure.add_scatter(
            x=pick + 1, y=after[pick], name="compressed", line={"color": blue, "width": 2, "dash": "dot"}
        )
    styled(figure, theme)
    shown = before if after is None else np.r_[before, after]
    values = np.concatenate([shown[shown > 0], [edge] if edge > 0 else []])
    if edge > 0:
        # A trace, not a shape: shapes have no legend and no hover.
        figure.add_scatter(
            x=[1, len(before)], y=[edge, edge], name=f"noise edge: {lost} of {len(before)} below", mode="lines",
            line={"color": EDGE, "width": 1.5, "dash": "dash"},
        )  # fmt: skip
    low, high = (values.min(), values.max()) if len(values) else (0.1, 1.0)
    # Rank-deficient tails would stretch the axis over ten empty decades.
    low = max(low, high * 1e-4)
    figure.update_xaxes(
        title_text="rank of the singular value", type="log", range=[0, np.log10(max(len(before), 2))]
    )
    narrow = high < 100 * low
    figure.update_yaxes(
        title_text="singular value", type="log", range=[np.log10(low * 0.8), np.log10(high * 1.15)],
        dtick="D2" if narrow else 1,
        tickformat=".2~g",
    )  # fmt: skip
    figure.update_xaxes(dtick=1)
    under = f"; {lost} of {len(before)} directions are under the noise edge {edge:.3g}"
    return described(figure, f"Singular values of {name}{'' if after is None else under}.")


def profile_figure(
    rows: tuple[np.ndarray, np.ndarray],
    columns: tuple[np.ndarray, np.ndarray],
    name: str,
    *,
    theme: str = "light",
) -> go.Figure:
    """Root mean square error along rows (outputs) and columns (inputs); each (index, rms error)."""
    figure = go.Figure()
    for (index, values), title, color, dash in (
        (rows, "rows (outputs)", CATEGORIES[0] if theme == "light" else AFTER_DARK, "solid"),
        (columns, "columns (inputs)", CATEGORIES[1], "dot"),
    ):
        step = max(1, len(index) // POINTS)
        # The largest of each run of points: thinning must not lose an outlier.
        starts = np.arange(0, len(index), step)
        share = index[starts] / max(1, index[-1]) if len(index) else index
        peaks = np.maximum.reduceat(values, starts) if len(index) else values
        figure.add_scatter(
            x=100 * share, y=peaks, name=title, mode="lines", line={"color": color, "width": 1.5, "dash": dash},
            customdata=index[starts], hovertemplate="%{customdata}: %{y:.3g}<extra></extra>",
        )  # fmt: skip
    styled(figure, theme)
    figure.update_xaxes(title_text="place along the axis, %")
    figure.update_yaxes(title_text="rms error", rangemode="tozero", exponentformat="power", nticks=5)
    return described(figure, f"Root mean square error of {name} along its rows and columns.")


def pareto_figure(
    points: Sequence[dict[str, Any]], active: int | None = None, *, quality: str = "kl", theme: str = "light"
) -> go.Figure:
    """What has been tried: bits per weight against KL, one mark a variant; the best are joined.

    Each point: bits_per_weight, kl, short (its name beside the mark), hover, and index, which a click hands on
    (by default its place among the points). The point at place `active` is ringed.
    """
    figure = go.Figure()
    x = np.array([p["bits_per_weight"] for p in points], float)
    y = np.array([p[quality] for p in points], float)
    # The unchanged model has a KL of 0, which a log axis cannot show: it is left out and said so.
    shown = y > 0
    order = np.lexsort((y[shown], x[shown]))
    lowest = np.minimum.accumulate(np.r_[np.inf, y[shown][order]])
    best = lowest[1:] < lowest[:-1]
    blue = CATEGORIES[0] if theme == "light" else AFTER_DARK
    figure.add_scatter(
        x=x[shown][order][best], y=y[shown][order][best], mode="lines", name="best so far", hoverinfo="skip",
        line={"color": blue, "width": 1, "dash": "dot", "shape": "hv"},
    )  # fmt: skip
    indices = np.flatnonzero(shown).tolist()
    rings = [2.5 if i == active else 0 for i in indices]
    figure.add_scatter(
        x=x[shown], y=y[shown], mode="markers+text", name="variant", text=[points[i]["short"] for i in indices],
        textposition="top center", textfont={"size": 10},
        customdata=[[points[i].get("index", i), points[i]["hover"]] for i in indices],
        hovertemplate="%{customdata[1]}<extra></extra>", cliponaxis=False,
        marker={"size": 10, "color": blue, "line": {"width": rings, "color": EDGE}},
    )  # fmt: skip
    styled(figure, theme)
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title_text="bits per weight (scales, zeros and masks counted)", rangemode="tozero")
    figure.update_yaxes(title_text="KL, nats", type="log", exponentformat="power", dtick=1)
    if not shown.any():
        figure.update_yaxes(range=[-4, 0])
        figure.update_xaxes(range=[0, 16.5])
        figure.add_annotation(
            text="Apply a method to put a first point here",
            showarrow=False,
            x=0.5,
            y=0.5,
            xref="paper",
            yref="paper",
        )
    else:
        logs = np.log10(y[shown])
        figure.update_yaxes(range=[logs.min() - 0.35, logs.max() + 0.5])
        figure.update_xaxes(range=[max(0, x[shown].min() - 1), x[shown].max() + 1])
    return described(
        figure, "Bits per weight against KL divergence from the unchanged model, one mark a variant."
    )


def error_bits_figure(
    table: pd.DataFrame,
    by: str,
    *,
    x: str = "bits_per_weight",
    y: str = "relative_error",
    theme: str = "light",
) -> go.Figure:
    """An error (log axis) against bits, one line for each value of the column `by`; rows as `inspect` returns them."""
    figure = go.Figure()
    for index, (value, rows) in enumerate(table.groupby(by, sort=False)):
        rows = rows.sort_values(x)
        figure.add_scatter(
            x=rows[x].to_numpy(), y=rows[y].to_numpy(), name=str(value), mode="lines+markers",
            line={"color": CATEGORIES[index % len(CATEGORIES)], "width": 1.5}, marker={"symbol": index, "size": 8},
        )  # fmt: skip
    styled(figure, theme)
    figure.update_layout(height=320, legend_title_text=by.replace("_", " "))
    across, up = (_AXES.get(name, name.replace("_", " ")) for name in (x, y))
    figure.update_xaxes(title_text=across, dtick=1 if x == "bits" else None)
    figure.update_yaxes(title_text=up, **log_axis(table[y].to_numpy(float)))
    return described(figure, f"{up} against {across}, one line for each {by.replace('_', ' ')}; log scale.")


_AXES = {
    "bits": "bits of a code",
    "bits_per_weight": "bits per weight (scales, zeros and masks counted)",
    "relative_error": "relative error ‖w′ − w‖ / ‖w‖",
    "output_relative_error": "output error ‖x (w′ − w)ᵀ‖ / ‖x wᵀ‖",
    "alpha": "alpha: how much of the range moves into the weight",
    "kl": "KL, nats",
}


def note_figure(text: str, *, theme: str = "light") -> go.Figure:
    """One sentence in the place of a chart that cannot be drawn."""
    figure = styled(go.Figure(), theme)
    figure.add_annotation(text=text, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return described(figure, text)


def described(figure: go.Figure, caption: str) -> go.Figure:
    """Put the caption where screen readers and exports find it."""
    figure.update_layout(meta={"caption": caption})
    return figure
