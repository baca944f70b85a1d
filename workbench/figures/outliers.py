"""Loud input channels: those of one layer on both sides of the product, and of all layers in short. Arrays in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .charts import POINTS, described
from .colors import AFTER, AFTER_DARK, BEFORE, EDGE
from .style import all_axes, log_axis, styled

if TYPE_CHECKING:
    import pandas as pd

Pair = tuple[np.ndarray, np.ndarray]  # (max |x| [in], max |w| [in])


def channels_figure(
    before: Pair, after: Pair | None, name: str, *, by_loudness: bool = True, theme: str = "light"
) -> go.Figure:
    """max |x| of each input channel above, max |w| of its column below, both on log axes; before and after a transform.

    by_loudness: channels by falling max |x| before, on a log axis, which gives the few loud ones room; else as they
    come. The place along the axis is the same channel in both panels, and before and after.
    """
    order = np.argsort(-before[0], kind="stable") if by_loudness else np.arange(len(before[0]))
    figure = make_subplots(
        2, 1, shared_xaxes=True, vertical_spacing=0.13,
        subplot_titles=[_headline(("input", "weight")[i], before[i], after and after[i]) for i in (0, 1)],
    )  # fmt: skip
    blue = AFTER if theme == "light" else AFTER_DARK
    looks = (("before", before, BEFORE, "circle"), ("after: x / s, w · s", after, blue, "diamond"))
    for row, what in enumerate(("max |x|", "max |w|")):
        for label, sides, color, symbol in looks:
            if sides is None:
                continue
            places, values, channels = _thinned(sides[row][order], order, by_loudness)
            figure.add_scatter(
                x=places, y=np.where(values > 0, values, np.nan), customdata=channels, name=label, mode="markers",
                legendgroup=label, showlegend=row == 0 and after is not None, row=row + 1, col=1,
                marker={"color": color, "symbol": symbol, "size": 5 if len(places) < 150 else 4},
                hovertemplate=f"channel %{{customdata}}<br>{what} %{{y:.3g}}<extra>{label}</extra>",
            )  # fmt: skip
    styled(figure, theme)
    all_axes(figure)
    for row, what in enumerate(("max |x|", "max |w|"), 1):
        values = np.concatenate([sides[row - 1] for sides in (before, after) if sides is not None])
        figure.update_yaxes(**log_axis(values), title_text=what, row=row, col=1)
    if by_loudness:
        figure.update_xaxes(type="log", dtick=1, range=[-0.03, np.log10(max(2, len(order))) + 0.03])
    else:
        figure.update_xaxes(range=[-0.01 * len(order), 1.01 * len(order)])
    across = "input channels, loudest first" if by_loudness else "input channel"
    figure.update_xaxes(title_text=across, showticklabels=True, row=2, col=1)
    figure.update_annotations(font_size=11, xanchor="left", x=0)
    figure.update_layout(
        height=420, margin={"t": 46, "l": 60, "r": 12, "b": 40},
        legend={"x": 1, "xanchor": "right", "y": 1.05, "yanchor": "bottom", "orientation": "h"},
    )  # fmt: skip
    said = "before and after a transform" if after is not None else "over the calibration data"
    return described(figure, f"Largest input and weight of each input channel of {name}, {said}; log scales.")


def outliers_figure(table: pd.DataFrame, what: str = "", *, theme: str = "light") -> go.Figure:
    """A line for each layer: its loudest input channel over the median one, before and after.

    table: name, ratio and, where something was done, ratio_after; a row for each layer.
    """
    figure = go.Figure()
    blue = AFTER if theme == "light" else AFTER_DARK
    names = _short(list(table["name"]))
    before = table["ratio"].to_numpy(float)
    after = table["ratio_after"].to_numpy(float) if "ratio_after" in table else None
    if after is not None:
        gap = np.full(len(before), np.nan)
        figure.add_scatter(
            x=np.c_[before, after, gap].ravel(), y=np.repeat(names, 3), mode="lines", hoverinfo="skip",
            showlegend=False, line={"color": BEFORE, "width": 1},
        )  # fmt: skip
    channels = table["loudest"].to_numpy() if "loudest" in table else np.zeros(len(before))
    sides = (("before", before, BEFORE, "circle"), (f"after {what}", after, blue, "diamond"))
    for label, values, color, symbol in sides:
        if values is not None:
            figure.add_scatter(
                x=values, y=names, name=label, mode="markers", customdata=channels,
                marker={"color": color, "symbol": symbol, "size": 8}, cliponaxis=False,
                hovertemplate="%{y}<br>%{x:.3g} × the median"
                + ("<br>channel %{customdata}" if label == "before" else "") + f"<extra>{label}</extra>",
            )  # fmt: skip
    known = np.concatenate([[1.0, 10.0], *(v for v in (before, after) if v is not None)])
    figure.add_vline(x=1, line={"color": EDGE, "width": 1, "dash": "dash"})
    styled(figure, theme)
    small = len(names) > 24
    figure.update_layout(
        height=max(180, 84 + (13 if small else 18) * len(names)), showlegend=after is not None,
        margin={"t": 28, "l": 60, "r": 14, "b": 40},
        legend={"x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom", "orientation": "h"},
    )  # fmt: skip
    figure.update_yaxes(
        autorange="reversed", type="category", tickmode="linear", dtick=1 if len(names) <= 80 else len(names) // 40,
        tickfont={"size": 8 if small else 10}, title_text="layer",
    )  # fmt: skip
    figure.update_xaxes(
        **log_axis(known),
        title_text="max |x| of the loudest input channel over the median channel, log scale",
    )
    said = f", before and after {what}" if after is not None else ""
    return described(
        figure, f"How far the loudest input channel of each layer is above the median one{said}."
    )


def _headline(side: str, before: np.ndarray, after: np.ndarray | None) -> str:
    """weight: largest over median 3.1 → 8.2"""
    found = [_ratio(each) for each in (before, after) if each is not None]
    return f"<b>{side}</b>: largest over median {' → '.join(f'{each:.3g}' for each in found)}"


def _ratio(values: np.ndarray) -> float:
    live = values[values > 0]
    return float(live.max() / np.median(live)) if len(live) else float("nan")


def _thinned(
    values: np.ndarray, channels: np.ndarray, log: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(places, values, channels): the largest of each run of places, so that no outlier is lost; places from 1 on a log
    axis, the channels themselves on a linear one."""
    count = len(values)
    edges = np.geomspace(1, count + 1, POINTS) - 1 if log else np.linspace(0, count, POINTS, endpoint=False)
    starts = np.unique(edges.astype(int))
    starts = starts[starts < count]
    ends = np.r_[starts[1:], count]
    peaks = np.array([a + int(np.argmax(values[a:b])) for a, b in zip(starts, ends, strict=True)], int)
    return peaks + 1 if log else channels[peaks], values[peaks], channels[peaks]


def _short(names: list[str]) -> list[str]:
    """Names without the words that all of them begin with: layers.0.self_attn.q_proj."""
    split = [name.split(".") for name in names]
    shared = 0
    while (
        all(len(parts) > shared + 1 and parts[shared] == split[0][shared] for parts in split)
        and len(names) > 1
    ):
        shared += 1
    return [".".join(parts[shared:]) for parts in split]
