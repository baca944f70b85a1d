"""Figures of spectra: the density with its fitted tail, the spectrum of the error, all layers by depth. Arrays in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .charts import POINTS, described
from .colors import AFTER, AFTER_DARK, BEFORE, CATEGORIES, EDGE
from .style import INK, all_axes, log_axis, styled

if TYPE_CHECKING:
    import pandas as pd

BULK = "#009E73"
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagon")
ON_TOP = {"orientation": "h", "x": -0.1, "y": 1.02, "yanchor": "bottom", "font": {"size": 9}, "itemwidth": 30}
WELL = (2.0, 6.0)  # alpha of well-trained layers


def log_density(eigenvalues: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles of bins that are equal on a log axis, and the density per unit of the eigenvalue; zeros left out."""
    values = eigenvalues[eigenvalues > 0]
    if len(values) < 2 or values.min() == values.max():
        return values[:1], np.ones(len(values[:1]))
    # Rank-deficient spectra would stretch the axis over ten empty decades.
    values = values[values >= values.max() * 1e-8]
    edges = np.geomspace(values.min() * 0.999, values.max() * 1.001, max(12, int(2.5 * len(values) ** 0.4)))
    counts, _ = np.histogram(values, edges)
    return np.sqrt(edges[1:] * edges[:-1]), counts / (len(eigenvalues) * np.diff(edges))


def density_figure(
    before: np.ndarray,
    after: np.ndarray | None,
    *,
    tail: tuple[float, float, float, int] | None = None,
    bulk: tuple[np.ndarray, np.ndarray] | None = None,
    edge: float = 0.0,
    name: str = "weight",
    note: str = "",
    theme: str = "light",
) -> go.Figure:
    """The empirical spectral density on log-log axes, before and after.

    before, after: eigenvalues [n], weights squared. `tail`: (alpha, its standard error, xmin, eigenvalues in the tail)
    of `before`. `bulk`: eigenvalues and densities of the fitted noise. `edge`: the noise edge of the error, squared.
    `note`: said instead of a tail."""
    figure = go.Figure()
    blue = AFTER if theme == "light" else AFTER_DARK
    for values, label, color, dash in (
        (before, "weight", BEFORE, "solid"),
        (after, "compressed", blue, "dot"),
    ):
        if values is None:
            continue
        x, y = log_density(values)
        figure.add_scatter(
            x=x, y=np.where(y > 0, y, np.nan), name=label, mode="lines+markers", connectgaps=False,
            line={"color": color, "width": 2, "dash": dash, "shape": "hvh"}, marker={"size": 4, "color": color},
            hovertemplate=f"λ %{{x:.3g}}<br>density %{{y:.3g}}<extra>{label}</extra>",
        )  # fmt: skip
    x, y = log_density(before)
    low, high = (y[y > 0].min(), y[y > 0].max()) if (y > 0).any() else (0.1, 1.0)
    if bulk is not None:
        keep = bulk[1] > low / 3
        figure.add_scatter(
            x=bulk[0][keep], y=bulk[1][keep], name="noise bulk", mode="lines",
            line={"color": BULK, "width": 2},
        )  # fmt: skip
    if tail is not None:
        alpha, sigma, xmin, count = tail
        span = np.geomspace(xmin, before.max(), 60)
        law = count / len(before) * (alpha - 1) / xmin * (span / xmin) ** -alpha
        label = f"α {alpha:.2f} ± {sigma:.2f}"
        figure.add_scatter(
            x=span,
            y=law,
            name=label,
            mode="lines",
            line={"color": CATEGORIES[1], "width": 2.5, "dash": "dash"},
        )
        figure.add_scatter(
            x=[xmin, xmin], y=[low, high], name="x<sub>min</sub>", mode="lines",
            line={"color": CATEGORIES[1], "width": 1}, showlegend=False,
        )  # fmt: skip
    if edge > 0:
        figure.add_scatter(
            x=[edge, edge], y=[low, high], name="noise edge", mode="lines",
            line={"color": EDGE, "width": 1.5, "dash": "dash"},
        )  # fmt: skip
    styled(figure, theme)
    figure.update_xaxes(
        **log_axis(np.r_[x, edge] if edge > 0 else x, 8), title_text="eigenvalue λ = σ², weights squared"
    )
    figure.update_yaxes(
        title_text="density", type="log", dtick=1, exponentformat="power",
        range=[np.log10(low) - 0.15, np.log10(high) + 0.15],
    )  # fmt: skip
    figure.update_layout(
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 9}},
        margin={"t": 42},
    )
    if note:
        figure.add_annotation(
            text=f"no tail: {note}", xref="paper", yref="paper", x=0.01, y=0.02, xanchor="left", showarrow=False,
            font={"size": 10, "color": INK[theme]},
        )  # fmt: skip
    fitted = f"; tail exponent {tail[0]:.2f}" if tail else ""
    return described(figure, f"Spectral density of {name} before and after compression, log-log{fitted}.")


def error_spectrum_figure(
    error: np.ndarray,
    predicted: tuple[np.ndarray, np.ndarray],
    edge: float,
    lost: int,
    kept: tuple[np.ndarray, np.ndarray],
    expected: tuple[np.ndarray, np.ndarray],
    name: str = "weight",
    *,
    theme: str = "light",
) -> go.Figure:
    """What the error does to directions. Above: singular values [n] of the error, the density that white noise of its
    variance has (`predicted`: values and densities), and its edge. Below: how much of each leading direction of the
    weight is left (`kept`: outputs, inputs [k]) and would be under white noise (`expected`)."""
    figure = make_subplots(2, 1, vertical_spacing=0.2)
    blue = AFTER if theme == "light" else AFTER_DARK
    bins = max(12, int(1.5 * len(error) ** 0.5))
    counts, edges = np.histogram(error, bins, density=True)
    figure.add_bar(
        x=(edges[1:] + edges[:-1]) / 2, y=counts, width=np.diff(edges), name="error", row=1, col=1,
        marker={"color": BEFORE, "opacity": 0.55, "line": {"width": 0}},
    )  # fmt: skip
    figure.add_scatter(
        x=predicted[0], y=predicted[1], name="white noise", mode="lines", row=1, col=1,
        line={"color": BULK, "width": 2},
    )  # fmt: skip
    top = max(counts.max(initial=0), predicted[1].max(initial=0))
    figure.add_scatter(
        x=[edge, edge], y=[0, 1.08 * top], name=f"edge, {lost} below", mode="lines", row=1, col=1,
        line={"color": EDGE, "width": 1.5, "dash": "dash"},
    )  # fmt: skip
    rank = np.arange(1, len(kept[0]) + 1)
    looks = (("outputs", blue, "circle"), ("inputs", CATEGORIES[1], "diamond"))
    for (label, color, symbol), measured, theory in zip(looks, kept, expected, strict=True):
        figure.add_scatter(
            x=rank, y=measured, name=label, mode="markers", row=2, col=1,
            marker={"color": color, "symbol": symbol, "size": 6},
        )  # fmt: skip
        figure.add_scatter(
            x=rank, y=theory, name="theory", mode="lines", showlegend=label == "outputs", row=2, col=1,
            line={"color": color, "width": 1.2, "dash": "dot"},
        )  # fmt: skip
    styled(figure, theme)
    all_axes(figure)
    figure.update_xaxes(title_text="singular value of the error", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="density", row=1, col=1)
    figure.update_xaxes(title_text="direction of the weight, strongest first", row=2, col=1)
    figure.update_yaxes(title_text="share left, cos²", range=[-0.03, 1.05], row=2, col=1)
    figure.update_layout(
        bargap=0,
        height=380,
        legend=ON_TOP,
        margin={"t": 58, "b": 40},
    )
    return described(
        figure,
        f"Spectrum of the error of {name} beside that of white noise, and how much of its {len(rank)} leading "
        f"directions is left; {lost} of {len(error)} directions are under the edge {edge:.3g}.",
    )


def layers_figure(
    table: pd.DataFrame,
    metric: str = "alpha",
    *,
    unit: str = "",
    title: str = "",
    theme: str = "light",
) -> go.Figure:
    """One number of all layers, by depth (block) and role; after compression, where the table has it, as open marks.

    table: name, role, block, `metric`, and perhaps after_`metric`. Layers outside blocks stand before the first and
    after the last. The band of alpha is 2 to 6. A click hands on the layer's name."""
    value = table[metric].to_numpy(float)
    shown = np.isfinite(value)
    block = table["block"].astype(float).to_numpy(float)[shown]
    names, roles = (table[column].to_numpy(str)[shown] for column in ("name", "role"))
    after = table[f"after_{metric}"].to_numpy(float)[shown] if f"after_{metric}" in table else None
    depth, value = _depths(block), value[shown]
    figure = go.Figure()
    kinds = list(dict.fromkeys(roles))
    # Yellow marks are hard to see on white.
    colors = (*CATEGORIES[:6], BEFORE, INK[theme])
    for index, role in enumerate(kinds):
        own = roles == role
        # Roles of one block stand side by side, so that no mark hides another.
        x = depth[own] + 0.7 * ((index + 0.5) / len(kinds) - 0.5)
        look = role, colors[index % len(colors)], SYMBOLS[index % len(SYMBOLS)]
        _layer_marks(figure, x, value[own], None if after is None else after[own], names[own], metric, look)
    styled(figure, theme, title, "open marks: after compression" if title and after is not None else "")
    if metric.startswith("alpha"):
        figure.add_hrect(y0=WELL[0], y1=WELL[1], fillcolor=BULK, opacity=0.1, line_width=0)
    _block_axis(figure, block, depth)
    figure.update_yaxes(
        title_text=f"{metric}, {unit}" if unit else metric,
        rangemode="tozero" if metric != "log_norm" else "normal",
    )
    figure.update_layout(
        legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"}, margin={"t": 84 if title else 34},
        title_yanchor="top", title_y=0.95,
    )  # fmt: skip
    missing = len(table) - len(value)
    said = f"; {missing} layers have none" if missing else ""
    return described(figure, f"{metric} of {len(value)} layers by block and role{said}.")


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


def scan_figure(
    eigenvalues: np.ndarray,
    alpha: np.ndarray,
    distance: np.ndarray,
    best: int,
    name: str = "weight",
    *,
    theme: str = "light",
) -> go.Figure:
    """Every candidate of a tail fit: D over xmin, and alpha over xmin (a Hill plot). eigenvalues [n] ascending; alpha,
    distance [n - 1]; `best`: the place of the one chosen."""
    figure = make_subplots(1, 2, horizontal_spacing=0.12)
    pick = np.unique(np.linspace(0, len(alpha) - 1, min(POINTS, len(alpha))).astype(int))
    blue = AFTER if theme == "light" else AFTER_DARK
    shown = np.where(np.isfinite(alpha) & (alpha < 20), alpha, np.nan)
    for column, values in enumerate((distance, shown), 1):
        figure.add_scatter(
            x=eigenvalues[pick], y=values[pick], mode="lines", line={"color": blue, "width": 1.5}, showlegend=False,
            row=1, col=column,
        )  # fmt: skip
        figure.add_scatter(
            x=[eigenvalues[best]], y=[values[best]], mode="markers", name=f"chosen: α {alpha[best]:.2f}",
            showlegend=column == 1, marker={"color": EDGE, "size": 9, "symbol": "diamond"}, row=1, col=column,
        )  # fmt: skip
    styled(figure, theme)
    all_axes(figure)
    figure.update_xaxes(**log_axis(eigenvalues, 8), title_text="x<sub>min</sub>, weights squared")
    figure.update_yaxes(title_text="D (Kolmogorov–Smirnov)", row=1, col=1, rangemode="tozero")
    figure.update_yaxes(title_text="α", row=1, col=2)
    figure.update_layout(legend={"x": 0.2, "y": 0.98, "yanchor": "top"})
    return described(figure, f"Where the tail of {name} may begin: distance and exponent of every candidate.")


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
    styled(figure, theme, title, "the same Gaussian entries, other shapes")
    figure.update_xaxes(title_text="rows / columns", type="log", tickvals=[1, 2, 4, 8, 16, 32])
    figure.update_yaxes(title_text="alpha (Hill, upper half)", rangemode="tozero")
    figure.update_layout(legend={"y": 0.98, "yanchor": "top"})
    return described(figure, title)


def allocation_figure(
    names: Sequence[str],
    alphas: np.ndarray,
    given: np.ndarray,
    what: str,
    *,
    theme: str = "light",
) -> go.Figure:
    """alpha of each layer, and what it was given of `what` ("sparsity, share of weights", "bits"), on one axis of
    layers."""
    figure = make_subplots(specs=[[{"secondary_y": True}]])
    place = np.arange(len(names))
    figure.add_bar(
        x=place, y=given, name=what, marker={"color": BEFORE, "opacity": 0.6}, secondary_y=False,
        customdata=np.array(names)[:, None], hovertemplate="%{customdata[0]}<br>%{y:.3g}<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=place, y=alphas, name="alpha", mode="markers", marker={"color": CATEGORIES[0], "size": 7},
        customdata=np.array(names)[:, None], secondary_y=True,
        hovertemplate="%{customdata[0]}<br>alpha %{y:.3g}<extra></extra>",
    )  # fmt: skip
    styled(figure, theme, "What alpha gives to each layer")
    all_axes(figure)
    figure.update_xaxes(title_text="layer, in the order of the model")
    figure.update_yaxes(title_text=what, secondary_y=False, rangemode="tozero")
    figure.update_yaxes(title_text="alpha", secondary_y=True, rangemode="tozero", showgrid=False)
    figure.update_layout(
        margin={"r": 52, "t": 66}, legend={"orientation": "h", "x": 0, "y": 1.01, "yanchor": "bottom"}
    )
    return described(figure, f"alpha and {what} of {len(names)} layers.")
