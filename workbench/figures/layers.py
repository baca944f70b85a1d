"""Figures of all layers of a model: one number by depth and role, what it gives to each; and of noise by its shape."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .charts import described
from .colors import BEFORE, CATEGORIES
from .spectra import BULK
from .style import INK, all_axes, styled

if TYPE_CHECKING:
    import pandas as pd

SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagon")
WELL = (2.0, 6.0)  # alpha of well-trained layers, by the fit that WeightWatcher makes
FITTED = ("alpha", "after_alpha")  # the columns that this range is of
SIGNED = ("log_",)  # columns that do not begin at 0
LINE = 18  # px of height that a line under the title takes
LONGEST = 72  # characters of such a line, which a plot half a page wide has room for
LOWER = 13  # px by which plotly draws a title lower than its `pad` says, for each line after the first
ALIKE = 0.02  # relative: noise values that are one line

# Column -> (title, axis).
WORDS = {
    "alpha": ("Tail exponent alpha", "alpha (no unit)"),
    "alpha_hill": ("Upper-half exponent alpha_hill", "alpha_hill (no unit)"),
    "alpha_peak": ("Exponent from the peak, alpha_peak", "alpha_peak (no unit)"),
    "alpha_farms": ("Window exponent alpha_farms", "alpha_farms (no unit)"),
    "stable_rank": ("Stable rank", "stable rank, directions"),
    "effective_rank": ("Effective rank", "effective rank, directions"),
    "participation_ratio": ("Participation ratio", "participation ratio, directions"),
    "log_norm": ("Squared norm", "log<sub>10</sub> of the sum of w², weights squared"),
    "lost": ("Directions under the noise edge", "directions under the noise edge, count"),
    "lost_share": ("Directions under the noise edge", "directions under the noise edge, share"),
    "left_overlap": ("Leading output directions left", "output directions left, mean cos²"),
    "right_overlap": ("Leading input directions left", "input directions left, mean cos²"),
}
UNITS = ("count", "no unit", "weights squared", "unit of the weights", "degrees", "nats")


def words(metric: str, told: str = "") -> tuple[str, str]:
    """(title, axis) of a column; `told`: what its table says it is, where the unit stands."""
    if metric in WORDS:
        return WORDS[metric]
    unit = next((part for part in told.removesuffix(" (ours)").split("; ") if part in UNITS), "")
    return metric, f"{metric}, {unit}" if unit else metric


def layers_figure(
    table: pd.DataFrame,
    metric: str = "alpha",
    *,
    noise: np.ndarray | None = None,
    done: str = "",
    title: str = "",
    theme: str = "light",
) -> go.Figure:
    """One number of all layers, by depth (block) and role; after compression, where the table has it, as open marks.

    table: name, role, block, `metric`, and perhaps after_`metric`, reason, method; what its `attrs` say of columns
    gives the unit. Layers outside blocks stand before the first and after the last. `noise` [n]: what a Gaussian matrix
    of each layer's shape has. `done`: what the compressed layers went through. Of alpha the range of well-trained
    layers is a band. What has no value is counted and said. A click hands on the layer's name."""
    value = table[metric].to_numpy(float)
    shown = np.isfinite(value)
    block = table["block"].astype(float).to_numpy(float)[shown]
    names, roles = (table[column].to_numpy(str)[shown] for column in ("name", "role"))
    after = table[f"after_{metric}"].to_numpy(float)[shown] if f"after_{metric}" in table else None
    depth, value = _depths(block), value[shown]
    figure = go.Figure()
    # Of the whole table: a role keeps its colour and its mark whichever layers have a value.
    kinds = list(dict.fromkeys(table["role"].astype(str)))
    # Yellow marks are hard to see on white.
    colors = (*CATEGORIES[:6], BEFORE, INK[theme])
    place = np.full(len(value), np.nan)
    for index, role in enumerate(kinds):
        own = roles == role
        # Roles of one block stand side by side, so that no mark hides another.
        place[own] = depth[own] + 0.7 * ((index + 0.5) / len(kinds) - 0.5)
        look = role, colors[index % len(colors)], SYMBOLS[index % len(SYMBOLS)]
        if own.any():
            _layer_marks(
                figure,
                place[own],
                value[own],
                None if after is None else after[own],
                names[own],
                metric,
                look,
            )
    opened = after is not None and np.isfinite(after).any()
    said = [f"open marks: after {done or 'compression'}"] if opened else [f"after {done}"] if done else []
    missing = _missing(table, metric)
    styled(figure, theme)
    _block_axis(figure, block, depth)
    if metric in FITTED:
        figure.add_hrect(y0=WELL[0], y1=WELL[1], fillcolor=BULK, opacity=0.1, line_width=0)
        said.append("band: well-trained layers")
    if noise is not None:
        said += _noise_marks(figure, place, np.asarray(noise, float)[shown], theme)
    drawn = [value, *([] if after is None else [after]), *([] if noise is None else [noise[shown]])]
    _value_axis(figure, np.concatenate(drawn), metric)
    figure.update_yaxes(title_text=words(metric, table.attrs.get("columns", {}).get(metric, ""))[1])
    _title(figure, title, ["; ".join(said)] * bool(said) + missing[:1])
    # Beside the plot: above it, many roles would take two lines and cover the title.
    figure.update_layout(legend={"x": 1.01, "y": 1, "yanchor": "top", "tracegroupgap": 0})
    return described(
        figure, "; ".join([f"{metric} of {len(value)} layers by block and role", *missing]) + "."
    )


def _title(figure: go.Figure, title: str, below: Sequence[str], room: int = 8) -> None:
    """A title and texts under it, `room` px above the plot, and the margin that all of it needs."""
    bold = [f"<b>{line}</b>" for line in textwrap.wrap(title, LONGEST, max_lines=1, placeholder="…")]
    wrapped = [line for text in below for line in textwrap.wrap(text, LONGEST, max_lines=2, placeholder="…")]
    lines = bold + [f"<span style='font-size:11px'>{line}</span>" for line in wrapped]
    figure.update_layout(
        title={
            "text": "<br>".join(lines), "x": 0, "xref": "paper", "font": {"size": 13},
            "y": 1, "yref": "paper", "yanchor": "bottom", "pad": {"b": room + LOWER * (len(lines) - 1)},
        },
        margin={"t": room + 6 + LINE * len(lines)},
    )  # fmt: skip


def _missing(table: pd.DataFrame, metric: str) -> list[str]:
    """How many layers have no value and why; then the layers of each reason. Reasons that differ in their numbers only
    are one: few eigenvalues are 9 here and 16 there."""
    without = table.loc[~np.isfinite(table[metric].to_numpy(float))]
    if not len(without):
        return []
    reasons: dict[str, tuple[str, list[str]]] = {}
    for row in without.to_dict("records"):
        # A layer with its own columns, but none of what compression did, was not compressed.
        untouched = "method" in row and not isinstance(row["method"], str)
        reason = str(row.get("reason") or ("not compressed" if untouched else "no value"))
        reason = reason.removeprefix("tail fit: ").partition(":")[0]
        reasons.setdefault(re.sub(r"\d+", "0", reason), (reason, []))[1].append(str(row["name"]))
    groups = sorted(reasons.values(), key=lambda group: -len(group[1]))
    others = f" (and {len(groups) - 1} other reasons)" if len(groups) > 2 else " (and another reason)"
    count = f"{len(without)} of {len(table)} layers {'has' if len(without) == 1 else 'have'} none"
    example = f"{groups[0][1][0]}: " if len(without) > 1 else ""
    first = f"{count}; {example}{groups[0][0]}" + (others if len(groups) > 1 else "")
    return [first, *(f"{_some(names)}: {reason}" for reason, names in groups)]


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _noise_marks(figure: go.Figure, x: np.ndarray, noise: np.ndarray, theme: str) -> list[str]:
    """What noise has: one line where it is the same for all layers, else a stroke at each; what they are, in words."""
    known = noise[np.isfinite(noise)]
    if not len(known):
        return []
    if np.ptp(known) <= ALIKE * known.mean():
        figure.add_scatter(
            x=[np.floor(x.min()) - 1, np.ceil(x.max()) + 1], y=[known.mean()] * 2, mode="lines", name="noise",
            line={"color": INK[theme], "width": 1.2, "dash": "dash"}, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
        return [f"dashed: Gaussian noise of the same shape, {known.mean():.2f}"]
    gap = np.full(len(x), np.nan)
    figure.add_scatter(
        x=np.c_[x - 0.06, x + 0.06, gap].ravel(), y=np.c_[noise, noise, gap].ravel(), mode="lines", name="noise",
        line={"color": INK[theme], "width": 2}, showlegend=False,
        hovertemplate="Gaussian noise %{y:.3g}<extra></extra>",
    )  # fmt: skip
    return ["strokes: Gaussian noise of the same shape"]


def _value_axis(figure: go.Figure, values: np.ndarray, metric: str) -> None:
    """From 0 on, with room for marks at 0 and at the top, where nothing is below."""
    live = values[np.isfinite(values)]
    if not len(live) or live.min() < 0 or metric.startswith(SIGNED):
        return
    high = float(live.max()) or 1.0
    figure.update_yaxes(range=[-0.05 * high, 1.07 * high])


def _layer_marks(
    figure: go.Figure,
    x: np.ndarray,
    before: np.ndarray,
    after: np.ndarray | None,
    names: np.ndarray,
    metric: str,
    look: tuple[str, str, str],
) -> None:
    """Marks of one role at x: filled before, open after, joined to their own."""
    (role, color, symbol), shared = look, {"legendgroup": look[0]}
    figure.add_scatter(
        x=x, y=before, name=role, mode="markers", customdata=names[:, None],
        marker={"color": color, "symbol": symbol, "size": 7},
        hovertemplate=f"%{{customdata[0]}}<br>{metric} %{{y:.3g}}<extra></extra>", **shared,
    )  # fmt: skip
    if after is None:
        return
    changed = np.isfinite(after)
    gap = np.full(len(x), np.nan)
    figure.add_scatter(
        x=np.c_[x, x, gap][changed].ravel(), y=np.c_[before, after, gap][changed].ravel(), mode="lines",
        line={"color": color, "width": 1}, showlegend=False, hoverinfo="skip", **shared,
    )  # fmt: skip
    figure.add_scatter(
        x=x[changed], y=after[changed], mode="markers", showlegend=False, customdata=names[changed, None],
        marker={"color": color, "symbol": f"{symbol}-open", "size": 8},
        hovertemplate=f"%{{customdata[0]}}<br>{metric} after %{{y:.3g}}<extra></extra>", **shared,
    )  # fmt: skip


def _block_axis(figure: go.Figure, block: np.ndarray, depth: np.ndarray) -> None:
    """Ticks at blocks, at most sixteen or so, and what stands before and after them."""
    blocks = sorted(set(block[np.isfinite(block)].astype(int).tolist()))
    ticks = {each: str(each) for each in blocks[:: max(1, len(blocks) // 16)]}
    first, last = (int(depth.min()), int(depth.max())) if len(depth) else (0, 0)
    if blocks and first < blocks[0]:
        ticks[first] = "before"
    if blocks and last > blocks[-1]:
        ticks[last] = "after"
    figure.update_xaxes(
        title_text="block" if blocks else "layer", tickvals=list(ticks) or None, ticktext=list(ticks.values()) or None,
        range=[first - 0.7, last + 0.7], showgrid=False, zeroline=False,
    )  # fmt: skip


def _depths(block: np.ndarray) -> np.ndarray:
    """Where rows of these blocks [n] stand (NaN: outside blocks): what is outside stands before the first or, after
    blocks in order, behind the last; in order, where there are no blocks at all."""
    inside = np.isfinite(block)
    if not inside.any():
        return np.arange(len(block), dtype=float)
    last = np.flatnonzero(inside)[-1]
    outside = np.where(np.arange(len(block)) < last, np.nanmin(block) - 1, np.nanmax(block) + 1)
    return np.where(inside, block, outside)


def aspect_figure(
    table: pd.DataFrame, *, title: str = "Alpha of pure noise depends on the shape", theme: str = "light"
) -> go.Figure:
    """alpha of random matrices over their aspect ratio. table: series, aspect_ratio, alpha, spread (half the range of
    the repetitions)."""
    figure = go.Figure()
    for index, (series, part) in enumerate(table.groupby("series", sort=False)):
        color = CATEGORIES[index % len(CATEGORIES)]
        figure.add_scatter(
            x=part["aspect_ratio"], y=part["alpha"], name=str(series), mode="lines+markers",
            error_y={"type": "data", "array": part["spread"], "width": 4, "thickness": 1},
            line={"color": color, "dash": ("solid", "dash", "dot", "dashdot")[index % 4]},
            marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7},
        )  # fmt: skip
    styled(figure, theme)
    figure.update_xaxes(title_text="rows / columns", type="log", tickvals=[1, 2, 4, 8, 16, 32])
    figure.update_yaxes(title_text="alpha (Hill, upper half), no unit", rangemode="tozero")
    _title(figure, title, ["the same Gaussian entries, other shapes"])
    figure.update_layout(legend={"y": 0.98, "yanchor": "top"})
    return described(figure, title)


def allocation_figure(
    names: Sequence[str],
    alphas: np.ndarray,
    given: np.ndarray,
    what: str,
    *,
    metric: str = "alpha",
    note: str = "",
    theme: str = "light",
) -> go.Figure:
    """The `metric` of each layer, and what it was given of `what` ("sparsity, share of weights", "bits"), on one axis
    of layers. `note`: said under the title."""
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    place = np.arange(len(names))
    figure.add_bar(
        x=place, y=given, name=what, marker={"color": BEFORE, "opacity": 0.6}, secondary_y=False,
        customdata=np.array(names)[:, None], hovertemplate="%{customdata[0]}<br>%{y:.3g}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=place, y=alphas, name=metric, mode="markers", marker={"color": CATEGORIES[0], "size": 7},
        customdata=np.array(names)[:, None], secondary_y=True,
        hovertemplate=f"%{{customdata[0]}}<br>{metric} %{{y:.3g}}<extra></extra>",
    )  # fmt: skip
    styled(figure, theme)
    all_axes(figure)
    figure.update_xaxes(title_text="layer, in the order of the model")
    figure.update_yaxes(title_text=what, secondary_y=False, rangemode="tozero")
    figure.update_yaxes(
        title_text=words(metric)[1], secondary_y=True, rangemode="tozero", showgrid=False, tickmode="auto", nticks=6,
        tickformat="~g",
    )  # fmt: skip
    _title(figure, f"What {metric} gives to each layer", [note] if note else [], room=36)
    figure.update_layout(
        margin={"r": 52}, legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"}
    )
    return described(figure, f"{metric} and {what} of {len(names)} layers{'; ' + note if note else ''}.")
