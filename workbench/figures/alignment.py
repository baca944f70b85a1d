"""Two networks: the loss between them, their difference, who matches whom, and how singular directions lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .charts import described
from .colors import AFTER, AFTER_DARK, BEFORE, CATEGORIES, EDGE, plotly_scale
from .style import all_axes, styled

if TYPE_CHECKING:
    import pandas as pd

# Dark blue to light to dark orange: the safe pair, for values with a sign.
DIVERGING = ("#084a76", "#0072B2", "#8fbfdc", "#f5f5f5", "#f0c27a", "#E69F00", "#8a5f00")


def barrier_figure(
    lines: Mapping[str, pd.DataFrame], a: str, b: str, data: str, *, theme: str = "light"
) -> go.Figure:
    """Loss and accuracy along the line from network a (t = 0) to b (t = 1); lines: t, loss, accuracy, barrier by name
    (naive, matched)."""
    figure = make_subplots(1, 2, horizontal_spacing=0.12)
    looks = _looks(theme)
    for place, (name, frame) in enumerate(lines.items()):
        color, symbol, dash = looks[place % len(looks)]
        t = frame["t"].to_numpy(float)
        for column, what in enumerate(("loss", "accuracy"), 1):
            figure.add_scatter(
                x=t, y=frame[what].to_numpy(float) * (100 if what == "accuracy" else 1), name=name,
                mode="lines+markers", legendgroup=name, showlegend=column == 1, row=1, col=column,
                line={"color": color, "dash": dash, "width": 2}, marker={"symbol": symbol, "size": 6},
                hovertemplate=f"t %{{x:.2f}}<br>{what} %{{y:.4g}}<extra>{name}</extra>",
            )  # fmt: skip
    barriers = ", ".join(f"{name} {frame['barrier'].max():.3g}" for name, frame in lines.items())
    styled(figure, theme, f"From {a} to {b}", f"highest barrier in nats: {barriers}<br>{data}")
    all_axes(figure)
    figure.update_xaxes(title_text="t: place on the line", range=[-0.02, 1.02])
    figure.update_yaxes(title_text="cross-entropy, nats", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="accuracy, %", row=1, col=2)
    figure.update_layout(
        height=320, margin={"t": 84, "l": 56, "r": 14, "b": 44},
        legend={"x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom", "orientation": "h"},
    )  # fmt: skip
    return described(
        titled(figure), f"Loss along the line from {a} to {b} on {data}; highest barrier {barriers} nats."
    )


def difference_figure(
    before: np.ndarray,
    after: np.ndarray,
    totals: Sequence[float],
    shape: tuple[int, ...],
    name: str,
    *,
    theme: str = "light",
) -> go.Figure:
    """|W_A - W_B| of one layer [out, in] before and after matching, as cells [rows, columns] of root mean squares on
    one colour scale; `totals`: the norms of the whole differences."""
    norm = "‖W<sub>A</sub> − W<sub>B</sub>‖"
    heads = [f"before: {norm} = {totals[0]:.4g}", f"after: {norm} = {totals[1]:.4g}"]
    figure = make_subplots(1, 2, horizontal_spacing=0.1, subplot_titles=heads)
    for column, cells in enumerate((before, after), 1):
        out, into = shape[0] / cells.shape[0], shape[1] / cells.shape[1]
        figure.add_heatmap(
            z=cells, x0=into / 2, dx=into, y0=out / 2, dy=out, coloraxis="coloraxis", row=1, col=column,
            hovertemplate="output %{y:.0f}, input %{x:.0f}<br>%{z:.3g}<extra></extra>",
        )  # fmt: skip
    styled(figure, theme, f"Difference of {name}", "root mean square of the cells, in the weights' units")
    all_axes(figure)
    figure.update_xaxes(title_text="input")
    figure.update_yaxes(autorange="reversed")
    figure.update_yaxes(title_text="output", row=1, col=1)
    figure.update_layout(
        height=380, margin={"t": 84, "l": 56, "r": 14, "b": 44},
        coloraxis={
            "colorscale": plotly_scale(), "cmin": 0, "cmax": float(max(before.max(), after.max())) or 1.0,
            "colorbar": _bar("rms difference"),
        },
    )  # fmt: skip
    figure.update_annotations(font_size=11)
    said = f"before and after matching: {totals[0]:.4g} and {totals[1]:.4g}."
    return described(titled(figure), f"Difference of {name} between two networks, {said}")


def units_figure(
    partner: np.ndarray, before: np.ndarray, after: np.ndarray, name: str, *, theme: str = "light"
) -> go.Figure:
    """The assignment matrix of one group of units as dots, and the cosine of each pair, sorted, before and after."""
    figure = make_subplots(
        1,
        2,
        horizontal_spacing=0.14,
        subplot_titles=["assignment: one dot in each row and column", "likeness"],
    )
    n, looks = len(partner), _looks(theme)
    figure.add_scatter(
        x=partner, y=np.arange(n), mode="markers", showlegend=False, row=1, col=1, cliponaxis=False,
        marker={"size": 7 if n <= 64 else 3, "color": looks[1][0], "symbol": "square"},
        hovertemplate="unit %{y} of A<br>unit %{x} of B<extra></extra>",
    )  # fmt: skip
    for label, values, (color, _symbol, dash) in zip(
        ("before", "after"), (before, after), looks, strict=False
    ):
        figure.add_scatter(
            x=(np.arange(n) + 0.5) / n * 100, y=np.sort(values)[::-1], name=f"{label}, mean {values.mean():.2f}",
            mode="lines", line={"color": color, "dash": dash, "width": 2}, row=1, col=2,
            hovertemplate="%{x:.0f} % of units have more than %{y:.3f}<extra></extra>",
        )  # fmt: skip
    styled(figure, theme, f"Units: {name}", f"{n} units and their partners")
    all_axes(figure)
    figure.update_xaxes(title_text="unit of the second network", range=[-0.02 * n, 1.02 * n], row=1, col=1)
    figure.update_yaxes(title_text="unit of the first", range=[1.02 * n, -0.02 * n], row=1, col=1)
    figure.update_xaxes(title_text="share of units, %", range=[0, 100], row=1, col=2)
    figure.update_yaxes(title_text="cosine of the units' weights", row=1, col=2)
    figure.update_layout(
        height=360, margin={"t": 84, "l": 60, "r": 14, "b": 44},
        legend={"x": 0.99, "xanchor": "right", "y": 0.99, "yanchor": "top"},
    )  # fmt: skip
    figure.update_annotations(font_size=11)
    said = f"mean {before.mean():.2f} before and {after.mean():.2f} after"
    return described(titled(figure), f"Which units of {name} match, and the cosine between them: {said}.")


def directions_figure(
    before: np.ndarray, after: np.ndarray, scores: pd.DataFrame, name: str, *, theme: str = "light"
) -> go.Figure:
    """M_ij [directions of A, of B] of the leading singular directions before and after matching, and R_gamma."""
    titles = ["M before", "M after", "R<sub>γ</sub>"]
    figure = make_subplots(
        1, 3, horizontal_spacing=0.12, column_widths=[0.31, 0.31, 0.38], subplot_titles=titles
    )
    limit = float(max(np.abs(before).max(), np.abs(after).max(), 1e-6))
    for column, m in enumerate((before, after), 1):
        figure.add_heatmap(
            z=m, x0=1, dx=1, y0=1, dy=1, coloraxis="coloraxis", row=1, col=column,
            hovertemplate="direction %{y} of A, %{x} of B<br>M %{z:.3f}<extra></extra>",
        )  # fmt: skip
    _scores(figure, scores, theme, row=1, col=3)
    m = "M<sub>ij</sub> = (u<sub>i</sub>·u<sub>j</sub>)(v<sub>i</sub>·v<sub>j</sub>)"
    styled(figure, theme, f"Singular directions of {name}", f"{m}; number 1 has the largest singular value")
    all_axes(figure)
    for column in (1, 2):
        figure.update_xaxes(title_text="direction of B", row=1, col=column)
        figure.update_yaxes(autorange="reversed", row=1, col=column)
    figure.update_yaxes(title_text="direction of A", row=1, col=1)
    _score_axes(figure, row=1, col=3)
    figure.update_layout(
        height=360, margin={"t": 84, "l": 52, "r": 14, "b": 84},
        legend={"x": 0.99, "xanchor": "right", "y": 0.12, "yanchor": "bottom"},
        coloraxis={"colorscale": plotly_scale(DIVERGING), "cmin": -limit, "cmax": limit,
                   "colorbar": _bar("M", across=True)},
    )  # fmt: skip
    figure.update_annotations(font_size=11)
    said = f"Overlap of the leading singular directions of {name} in two networks, before and after matching."
    return described(titled(figure), said)


def score_figure(scores: pd.DataFrame, name: str, *, theme: str = "light") -> go.Figure:
    """R_gamma over gamma before and after matching; scores: gamma, before, after."""
    figure = make_subplots(1, 1)
    _scores(figure, scores, theme, row=1, col=1)
    said = "1: all directions coincide; normalisation and threshold are a reconstruction"
    styled(figure, theme, f"Alignment of singular directions, {name}", said)
    _score_axes(figure, row=1, col=1)
    figure.update_layout(height=300, margin={"t": 56, "l": 56, "r": 14, "b": 44})
    figure.update_layout(legend={"x": 0.01, "y": 0.98, "yanchor": "top"})
    return described(titled(figure), f"R_gamma over gamma of {name}, before and after matching.")


def merge_figure(table: pd.DataFrame, data: str, *, theme: str = "light") -> go.Figure:
    """Loss and accuracy of networks, of their plain mean and of their mean after matching; table: network, loss,
    accuracy."""
    figure = make_subplots(1, 2, horizontal_spacing=0.08, shared_yaxes=True)
    names, limits = list(table["network"]), []
    looks = _looks(theme)
    colors = {"plain mean": EDGE, "merged": looks[1][0]}
    for column, (what, factor, unit) in enumerate((("loss", 1, "nats"), ("accuracy", 100, "%")), 1):
        values = table[what].to_numpy(float) * factor
        figure.add_bar(
            y=names, x=values, orientation="h", row=1, col=column, showlegend=False, cliponaxis=False,
            marker={"color": [colors.get(name, BEFORE) for name in names]},
            text=[f"{value:.3g}" for value in values], textposition="outside",
            hovertemplate=f"%{{y}}<br>{what} %{{x:.4g}} {unit}<extra></extra>",
        )  # fmt: skip
        limits.append([0, 1.18 * float(np.nanmax(values))])
    styled(figure, theme, f"Mean of {len(names) - 2} networks", f"on {data}")
    all_axes(figure)
    figure.update_xaxes(range=limits[0], title_text="cross-entropy, nats", row=1, col=1)
    figure.update_xaxes(range=limits[1], title_text="accuracy, %", row=1, col=2)
    figure.update_yaxes(autorange="reversed", title_text="network", row=1, col=1)
    figure.update_layout(height=110 + 30 * len(names), margin={"t": 56, "l": 90, "r": 26, "b": 44})
    said = "of the plain mean of their weights and of the mean after matching"
    return described(titled(figure), f"Loss and accuracy of {len(names) - 2} networks, {said}.")


def _scores(figure: go.Figure, scores: pd.DataFrame, theme: str, *, row: int, col: int) -> None:
    for name, (color, symbol, dash) in zip(("before", "after"), _looks(theme), strict=False):
        figure.add_scatter(
            x=scores["gamma"].to_numpy(float), y=scores[name].to_numpy(float), name=name, mode="lines+markers",
            line={"color": color, "dash": dash, "width": 2}, marker={"symbol": symbol, "size": 5}, row=row, col=col,
            hovertemplate=f"γ %{{x:.2f}}<br>R %{{y:.3f}}<extra>{name}</extra>",
        )  # fmt: skip


def _score_axes(figure: go.Figure, *, row: int, col: int) -> None:
    figure.update_xaxes(title_text="γ: s ≥ γ s<sub>1</sub>", range=[-0.02, 1.0], row=row, col=col)
    figure.update_yaxes(title_text="R<sub>γ</sub>", rangemode="tozero", row=row, col=col)


def titled(figure: go.Figure) -> go.Figure:
    """Its title a few pixels below the upper edge, whatever the height."""
    height = figure.to_dict()["layout"]["height"]
    figure.update_layout(title={"y": 1 - 18 / height, "yanchor": "top"})
    return figure


def _looks(theme: str) -> list[tuple[str, str, str]]:
    """(colour, symbol, dash) of before and after: told apart without their colour too."""
    blue = AFTER if theme == "light" else AFTER_DARK
    return [(BEFORE, "circle", "dash"), (blue, "diamond", "solid"), (CATEGORIES[1], "square", "dot")]


def _bar(title: str, *, across: bool = False) -> dict[str, Any]:
    """A colour bar beside the plot, or below it."""
    bar: dict[str, Any] = {"title": {"text": title, "side": "right", "font": {"size": 11}}}
    bar |= {"tickfont": {"size": 10}, "thickness": 10, "outlinewidth": 0, "nticks": 5}
    if across:  # there is no place for a title that does not cover the bar: the panels name the quantity
        bar |= {"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0.3, "len": 0.45, "title": {"text": ""}}
    return bar
