"""Figures of sensitivities: which layers cost the model most, and what a budget of bits buys. Tables in, plotly out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from .charts import described
from .colors import AFTER_DARK, CATEGORIES, EDGE
from .style import INK, styled

if TYPE_CHECKING:
    import pandas as pd

TOP = 60  # layers that are shown: more bars cannot be read on one screen
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star")


def sensitivity_figure(
    table: pd.DataFrame,
    *,
    title: str = "",
    data: str = "",
    chosen: Mapping[str, str] | None = None,
    theme: str = "light",
) -> go.Figure:
    """The KL of each layer if it alone is compressed: bars on a log axis, the worst layer on top.

    table: name, role, method, bits_per_weight, kl, top1_agreement, a row for each layer and method. Of one method the
    colours are the layers' roles; of several, a colour and a mark for each method. At most the 60 worst layers are
    shown, and the title says so. `customdata` of a mark begins with (layer, method), which a click hands on. `chosen`,
    layer -> method, are ringed.
    """
    worst = _worst(table)
    shown = list(worst)[-TOP:]
    several = len(set(table["method"])) > 1
    rows = table.loc[table["name"].isin(shown)]
    kl = rows["kl"].to_numpy(float)
    positive = kl[kl > 0]
    low, high = (positive.min() / 1.4, positive.max() * 1.4) if len(positive) else (1e-6, 1e-3)
    rows = rows.assign(begin=np.maximum(_begins(rows["name"].to_numpy(), kl), low))
    figure = go.Figure()
    for index, (value, part) in enumerate(rows.groupby("method" if several else "role", sort=False)):
        _bars(
            figure,
            part,
            str(value),
            CATEGORIES[index % len(CATEGORIES)],
            SYMBOLS[index % len(SYMBOLS)],
            several,
        )
    if chosen:
        _ring(figure, rows, chosen, theme)
    methods = "" if several else f" under {table['method'].iloc[0]}"
    said = f"the {TOP} worst of {len(worst)} layers" if len(worst) > TOP else f"{len(worst)} layers"
    styled(
        figure,
        theme,
        title or f"Sensitivity{methods}",
        f"{said}, each compressed alone{f'; {data}' if data else ''}",
    )
    figure.update_xaxes(
        title_text="KL, nats", type="log", exponentformat="power", dtick=1,
        range=[np.log10(low), np.log10(high)], side="top", title_standoff=4,  # many bars: the axis is seen first
    )  # fmt: skip
    figure.update_yaxes(
        title_text="layer", categoryorder="array", categoryarray=shown, showgrid=False, range=[-0.7, len(shown) - 0.3],
        tickmode="array", tickvals=shown, ticktext=_short(shown), tickfont={"size": 9 if len(shown) < 40 else 7},
    )  # fmt: skip
    tall = max(110, 13 * len(shown))
    figure.update_layout(
        barmode="overlay", bargap=0.25, height=tall + 124, margin={"t": 112, "b": 12},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1 + 40 / tall, "yanchor": "bottom",
                "title": {"text": "method" if several else "role"}},
    )  # fmt: skip
    caption = f"KL divergence from the unchanged model with one layer compressed at a time{methods}, {said}."
    return described(
        figure, caption + (f" Worst: {shown[-1]}, {worst[shown[-1]]:.3g} nats." if len(positive) else "")
    )


def _worst(table: pd.DataFrame) -> dict[str, float]:
    """The greatest KL of each layer, the worst layer last; a layer without any counts as 0."""
    found: dict[str, float] = {}
    for name, kl in zip(table["name"], np.nan_to_num(table["kl"].to_numpy(float)), strict=True):
        found[str(name)] = max(found.get(str(name), 0.0), float(kl))
    return dict(sorted(found.items(), key=lambda entry: entry[1]))


def _begins(names: np.ndarray, kl: np.ndarray) -> np.ndarray:
    """Where each bar begins, so that it hides no other: at the next smaller KL of the same layer, or at 0."""
    begin, last = np.zeros(len(kl)), {}
    for place in np.argsort(kl, kind="stable"):
        begin[place] = last.get(names[place], 0.0)
        last[names[place]] = kl[place]
    return begin


def _bars(figure: go.Figure, part: pd.DataFrame, name: str, color: str, symbol: str, marks: bool) -> None:
    data = part[["name", "method", "bits_per_weight", "top1_agreement", "kl"]].to_numpy()
    hover = (
        "%{customdata[0]}<br>%{customdata[1]}, %{customdata[2]:.3f} bits per weight<br>"
        "KL %{customdata[4]:.3g} nats, top-1 agreement %{customdata[3]:.1%}<extra></extra>"
    )
    common = {"y": part["name"].to_numpy(), "customdata": data, "hovertemplate": hover}
    kl = part["kl"].to_numpy()
    figure.add_bar(
        **common, base=part["begin"].to_numpy(), x=np.maximum(kl - part["begin"].to_numpy(), 0), orientation="h",
        name=name, legendgroup=name, showlegend=not marks, marker={"color": color, "opacity": 0.45 if marks else 1},
    )  # fmt: skip
    if marks:
        figure.add_scatter(
            **common, x=kl, mode="markers", name=name, legendgroup=name,
            marker={"color": color, "symbol": symbol, "size": 7},
        )  # fmt: skip


def _ring(figure: go.Figure, rows: pd.DataFrame, chosen: Mapping[str, str], theme: str) -> None:
    part = rows.loc[[chosen.get(n) == m for n, m in zip(rows["name"], rows["method"], strict=True)]]
    figure.add_scatter(
        x=part["kl"].to_numpy(), y=part["name"].to_numpy(), mode="markers", name="chosen", hoverinfo="skip",
        marker={"symbol": "circle-open", "size": 13, "color": INK[theme], "line": {"width": 2}},
    )  # fmt: skip


def _short(names: Sequence[str]) -> list[str]:
    """Names without the parts that all of them begin with: layers.3.mlp.down_proj."""
    parts = [name.split(".") for name in names]
    common = 0
    while len(parts) > 1 and all(len(p) > common + 1 and p[common] == parts[0][common] for p in parts):
        common += 1
    return [".".join(part[common:]) for part in parts]


def budget_figure(
    bits: np.ndarray,
    kl: np.ndarray,
    uniform: pd.DataFrame,
    measured: Sequence[tuple[float, float, str]] = (),
    *,
    name: str = "",
    theme: str = "light",
) -> go.Figure:
    """What a budget buys: the least sum of the layers' KL against bits per weight.

    bits, kl [points]: the frontier of `engine.frontier`. uniform: method, bits_per_weight, kl of every layer under one
    method, predicted the same way. measured: (bits per weight, KL of the whole model, its name) of recipes that ran.
    """
    figure = go.Figure()
    blue = CATEGORIES[0] if theme == "light" else AFTER_DARK
    figure.add_scatter(
        x=bits, y=np.where(kl > 0, kl, np.nan), mode="lines", name="mixed, predicted",
        line={"color": blue, "width": 1.5, "shape": "hv"},
        hovertemplate="%{x:.3f} bits per weight<br>sum of KL %{y:.3g} nats<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=uniform["bits_per_weight"].to_numpy(), y=uniform["kl"].to_numpy(), text=uniform["method"].to_numpy(),
        mode="markers+text", textposition="top right", textfont={"size": 10}, name="one method for all, predicted",
        marker={"color": INK[theme], "symbol": "circle-open", "size": 9}, cliponaxis=False,
        hovertemplate="%{text}: %{x:.3f} bits per weight<br>sum of KL %{y:.3g} nats<extra></extra>",
    )  # fmt: skip
    if measured:
        x, y, names = zip(*measured, strict=True)
        figure.add_scatter(
            x=x, y=y, text=names, mode="markers", name="measured", cliponaxis=False,
            marker={"color": EDGE, "symbol": "x", "size": 9},
            hovertemplate="%{text}: %{x:.3f} bits per weight<br>KL %{y:.3g} nats<extra></extra>",
        )  # fmt: skip
    styled(figure, theme, "What a budget buys", name)
    figure.update_layout(height=340, legend={"x": 0.99, "xanchor": "right", "y": 0.98, "yanchor": "top"})
    figure.update_xaxes(title_text="bits per weight (scales, zeros and masks counted)")
    figure.update_yaxes(title_text="sum of the layers' KL, nats", type="log", exponentformat="power", dtick=1)
    said = " with measured recipes" if measured else ""
    return described(
        figure, f"Least sum of the layers' KL against the budget of bits per weight{said}, log scale."
    )
