"""Figures of one spectrum: the density with its fitted tail, its candidates, the spectrum of the error. Arrays in."""

from __future__ import annotations

import textwrap

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .charts import POINTS, described
from .colors import AFTER, AFTER_DARK, BEFORE, CATEGORIES, EDGE
from .style import INK, all_axes, log_axis, styled

BULK = "#009E73"
GROUND = {"light": "rgba(255,255,255,0.7)", "dark": "rgba(24,24,24,0.7)"}  # of a legend that lies over data
DENSITY_HEIGHT = 236  # pixels: at less the legend fills the axes
NOTE_WIDTH = 56  # letters of a line of notes: the axes of the narrowest bench are 320 pixels wide
ON_TOP = {"orientation": "h", "x": -0.1, "y": 1.02, "yanchor": "bottom", "font": {"size": 9}, "itemwidth": 30}


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
            x=bulk[0][keep], y=bulk[1][keep], name="bulk (median)", mode="lines",
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
    figure.update_yaxes(**log_axis(np.array([low, high]), 12), title_text="density, 1 / weights squared")
    # Inside the axes, in the corner that a falling curve leaves empty; the noise edge may lie behind it.
    figure.update_layout(
        height=DENSITY_HEIGHT,
        legend={"font": {"size": 9}, "bgcolor": GROUND[theme], "itemwidth": 30, "tracegroupgap": 0},
        margin={"t": 12},
    )
    if note:
        lines = textwrap.wrap(f"no tail: {note}", NOTE_WIDTH)
        figure.add_annotation(
            text="<br>".join(lines), xref="paper", yref="paper", x=0, y=1, xanchor="left", yanchor="bottom",
            align="left", showarrow=False, font={"size": 10, "color": INK[theme]},
        )  # fmt: skip
        figure.update_layout(margin={"t": 10 + 14 * len(lines)})
    fitted = f"; tail exponent {tail[0]:.2f}" if tail else ""
    return described(figure, f"Spectral density of {name} before and after compression, log-log{fitted}.")


def error_spectrum_figure(
    error: np.ndarray,
    predicted: tuple[np.ndarray, np.ndarray],
    edge: float,
    lost: int,
    kept: tuple[np.ndarray, np.ndarray],
    white: tuple[np.ndarray, np.ndarray],
    isolated: tuple[np.ndarray, np.ndarray] | None = None,
    name: str = "weight",
    *,
    variances: tuple[float, float] | None = None,
    theme: str = "light",
) -> go.Figure:
    """What the error does to directions. Above: singular values [n] of the error, the density that white noise of its
    variance has (`predicted`: values and densities), and its edge. Below: how much of each leading direction of the
    weight is left (`kept`: outputs, inputs [k]), would be with white noise instead of the error (`white`), and what the
    law of a single direction leaves (`isolated`, NaN where it does not hold). `variances` of the error: predicted from
    the step of the grid (NaN: unknown) and measured, weights squared."""
    figure = make_subplots(2, 1, vertical_spacing=0.26)
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
    alone = isolated or (np.full(len(rank), np.nan),) * 2
    for (label, color, symbol), measured, noise, single in zip(looks, kept, white, alone, strict=True):
        figure.add_scatter(
            x=rank, y=measured, name=label, mode="markers", row=2, col=1,
            marker={"color": color, "symbol": symbol, "size": 6},
        )  # fmt: skip
        figure.add_scatter(
            x=rank, y=noise, name="in white noise", mode="lines", showlegend=label == "outputs", row=2, col=1,
            line={"color": color, "width": 1.2, "dash": "dot"},
        )  # fmt: skip
        if np.isfinite(single).any():
            figure.add_scatter(
                x=rank, y=single, name="isolated direction", mode="markers", showlegend=label == "outputs", row=2,
                col=1, marker={"color": color, "symbol": f"{symbol}-open", "size": 11},
            )  # fmt: skip
    styled(figure, theme)
    all_axes(figure)
    figure.update_xaxes(
        title_text="singular value of the error, unit of the weights", rangemode="tozero", row=1, col=1
    )
    figure.update_yaxes(title_text="density", row=1, col=1)
    figure.update_xaxes(title_text="direction of the weight, strongest first", row=2, col=1)
    figure.update_yaxes(title_text="share left, cos²", range=[-0.03, 1.05], row=2, col=1)
    said = _variances(variances)
    if said:
        figure.add_annotation(
            text=said, xref="paper", yref="paper", x=1, y=1, xanchor="right", yanchor="bottom", showarrow=False,
            font={"size": 9, "color": INK[theme]},
        )  # fmt: skip
    figure.update_layout(
        bargap=0,
        height=380,
        legend={**ON_TOP, "y": 1.06},
        margin={"t": 62, "b": 40},
    )
    return described(
        figure,
        f"Spectrum of the error of {name} beside that of white noise, and how much of its {len(rank)} leading "
        f"directions is left; {lost} of {len(error)} directions are under the edge {edge:.3g}."
        + (f" {said[0].upper()}{said[1:]}." if said else ""),
    )


def _variances(variances: tuple[float, float] | None) -> str:
    """Predicted and measured variance of the error in words."""
    if variances is None:
        return ""
    predicted, measured = variances
    if not np.isfinite(predicted):
        return f"variance of the error: {measured:.3g} measured"
    return f"variance of the error: {predicted:.3g} predicted from the step, {measured:.3g} measured"


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
