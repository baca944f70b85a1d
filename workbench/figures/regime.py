"""Rich and lazy: what moved against the rank at the start, kernels before and after; and bandlimited weights: errors
over the bound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .alignment import titled
from .charts import described
from .colors import AFTER, AFTER_DARK, BEFORE, CATEGORIES, plotly_scale
from .style import all_axes, log_axis, styled

if TYPE_CHECKING:
    import pandas as pd

SYMBOLS = ("circle", "diamond", "square", "cross", "x", "triangle-up", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "solid", "dash")
MEASURES = {
    "change": "‖ΔW‖ / ‖W‖ of the recurrent weight",
    "ra": "representation alignment RA",
    "ka": "tangent kernel alignment KA",
}


RANK_NAMES = {
    "rank": "rank of the initial weight",
    "stable_rank": "stable rank of the initial weight",
    "participation_ratio": "participation ratio of the initial weight",
    "entropy_rank": "entropy rank of the initial weight",
}


def regime_figure(table: pd.DataFrame, what: str, *, by: str = "rank", theme: str = "light") -> go.Figure:
    """What moved in a training against a rank of the initial weight: mean and standard deviation over seeds.

    table: rank, seed, the column `by`, change, ra, ka; a row for each network."""
    figure = make_subplots(1, 3, horizontal_spacing=0.09)
    grouped = table.groupby("rank")
    ranks = np.asarray(grouped[by].mean(), float)
    seeds = int(np.max(grouped.size().to_numpy()))
    for column, (name, title) in enumerate(MEASURES.items(), 1):
        mean, spread = (grouped[name].agg(how).to_numpy(float) for how in ("mean", "std"))
        figure.add_scatter(
            x=table[by].to_numpy(float), y=table[name].to_numpy(float), mode="markers", showlegend=False,
            marker={"color": BEFORE, "size": 4, "opacity": 0.6}, row=1, col=column,
            hovertemplate=f"rank %{{x:.3g}}<br>{title} %{{y:.3g}}<extra>one seed</extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=ranks, y=mean, error_y={"type": "data", "array": np.nan_to_num(spread), "thickness": 1.5, "width": 4},
            mode="lines+markers", showlegend=False, row=1, col=column,
            line={"color": CATEGORIES[column - 1], "width": 2},
            marker={"symbol": SYMBOLS[column - 1], "size": 8},
            hovertemplate=f"rank %{{x:.3g}}<br>{title} %{{y:.3g}}<extra>mean of {seeds} seeds</extra>",
        )  # fmt: skip
    styled(
        figure,
        theme,
        "What a training moved, by the rank at its start",
        f"{what} · mean and standard deviation of {seeds} seeds",
    )
    all_axes(figure)
    for column, title in enumerate(MEASURES.values(), 1):
        figure.update_xaxes(
            **_ranks_axis(ranks), title_text=f"{RANK_NAMES[by]}, log scale", row=1, col=column
        )
        figure.update_yaxes(title_text=title, rangemode="tozero", row=1, col=column)
    figure.update_layout(height=320, margin={"t": 66, "l": 56, "r": 14, "b": 44})
    return described(
        titled(figure),
        f"Change of weight, representation and tangent kernel against the initial rank; {what}.",
    )


def kernels_figure(
    before: np.ndarray, after: np.ndarray, alignment: float, name: str, *, theme: str = "light"
) -> go.Figure:
    """Tangent kernels [inputs, inputs] before and after, each over its own Frobenius norm, on one colour scale."""
    figure = make_subplots(1, 2, horizontal_spacing=0.1, subplot_titles=["before", "after"])
    shown = [k / (np.linalg.norm(k) or 1.0) for k in (before, after)]
    for column, k in enumerate(shown, 1):
        figure.add_heatmap(
            z=k, coloraxis="coloraxis", row=1, col=column,
            hovertemplate="inputs %{y} and %{x}<br>%{z:.3g}<extra></extra>",
        )  # fmt: skip
    styled(
        figure,
        theme,
        f"Tangent kernel, {name}",
        f"each over its norm; summed over outputs, alignment {alignment:.3f}",
    )
    all_axes(figure)
    figure.update_xaxes(title_text="input")
    figure.update_yaxes(autorange="reversed")
    figure.update_yaxes(title_text="input", row=1, col=1)
    bar = {
        "title": {"text": "kernel / ‖kernel‖", "side": "right", "font": {"size": 11}},
        "tickfont": {"size": 10},
    }
    bar |= {"thickness": 10, "outlinewidth": 0, "nticks": 5}
    limits = {"cmin": float(min(k.min() for k in shown)), "cmax": float(max(k.max() for k in shown))}
    figure.update_layout(
        height=380, margin={"t": 84, "l": 56, "r": 14, "b": 44},
        coloraxis={"colorscale": plotly_scale(), "colorbar": bar, **limits},
    )  # fmt: skip
    figure.update_annotations(font_size=11)
    return described(
        titled(figure), f"Tangent kernels of {name} before and after training; alignment {alignment:.3f}."
    )


def initial_figure(spectra: Mapping[int, np.ndarray], *, theme: str = "light") -> go.Figure:
    """Singular values of the initial weights by rank, on a log axis; those that are zero are left out."""
    figure = go.Figure()
    for place, (rank, s) in enumerate(spectra.items()):
        live = s[s > 1e-5 * s[0]]
        figure.add_scatter(
            x=np.arange(1, len(live) + 1), y=live, name=f"rank {rank}", mode="lines+markers",
            line={"color": CATEGORIES[place % 7], "dash": DASHES[place % 7], "width": 1.5},
            marker={"symbol": SYMBOLS[place % 7], "size": 5 if len(live) < 40 else 3},
        )  # fmt: skip
    styled(
        figure, theme, "Initial weights of one norm", "singular values of the first seed's recurrent weight"
    )
    figure.update_xaxes(**_ranks_axis(np.array(list(spectra), float)), title_text="index, log scale")
    figure.update_yaxes(
        **log_axis(np.concatenate(list(spectra.values())), 3), title_text="singular value, log scale"
    )
    figure.update_layout(height=300, margin={"t": 56, "l": 56, "r": 14, "b": 44})
    return described(titled(figure), "Singular values of the initial weights, all of one Frobenius norm.")


def losses_figure(losses: Mapping[int, np.ndarray], what: str, *, theme: str = "light") -> go.Figure:
    """Training loss by step for each rank, means over seeds, smoothed over 10 steps."""
    figure = go.Figure()
    for place, (rank, curve) in enumerate(losses.items()):
        width = min(10, len(curve))
        smooth = np.convolve(curve, np.ones(width) / width, "valid")
        figure.add_scatter(
            x=np.arange(width, len(curve) + 1), y=smooth, name=f"rank {rank}", mode="lines",
            line={"color": CATEGORIES[place % 7], "dash": DASHES[place % 7], "width": 2},
        )  # fmt: skip
    styled(figure, theme, "Training loss by initial rank", what)
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="cross-entropy, nats", rangemode="tozero")
    figure.update_layout(height=300, margin={"t": 56, "l": 56, "r": 14, "b": 44})
    figure.update_layout(legend={"x": 0.99, "xanchor": "right", "y": 0.98, "yanchor": "top"})
    return described(titled(figure), f"Training loss for each initial rank; {what}.")


def bandlimited_figure(table: pd.DataFrame, features: int, *, theme: str = "light") -> go.Figure:
    """Error over the bound of the hidden weights for each frequency, and the norm of the coefficients below it.

    table: frequency, bound, ridge, seed, error, norm; means over seeds, the spread as a band."""
    figure = make_subplots(1, 2, horizontal_spacing=0.13)
    for place, (frequency, rows) in enumerate(table.groupby("frequency")):
        grouped = rows.groupby("bound")
        bounds = np.array(list(grouped.groups), float)
        for column, what in enumerate(("error", "norm"), 1):
            # On a log axis the mean of logarithms; the bars span the seeds.
            middle = np.exp(grouped[what].apply(lambda v: np.log(v).mean()).to_numpy(float))
            low, high = (grouped[what].agg(how).to_numpy(float) for how in ("min", "max"))
            figure.add_scatter(
                x=bounds, y=middle, name=f"f = {frequency:g}", mode="lines+markers", legendgroup=str(frequency),
                showlegend=column == 1, row=1, col=column,
                error_y={
                    "type": "data", "array": high - middle, "arrayminus": middle - low, "thickness": 1, "width": 3,
                },
                line={"color": CATEGORIES[place % 7], "dash": DASHES[place % 7], "width": 2},
                marker={"symbol": SYMBOLS[place % 7], "size": 7},
                hovertemplate=f"bound %{{x}}<br>{what} %{{y:.3g}}<extra>f = {frequency:g}</extra>",
            )  # fmt: skip
    seeds, ridge = table["seed"].nunique(), table["ridge"].iloc[0]
    styled(
        figure, theme, "Random hidden weights in [−λ, λ]",
        f"target sin(2πfx) on [−1, 1], {features} tanh features, ridge {ridge:g}; mean and span of {seeds} draws",
    )  # fmt: skip
    all_axes(figure)
    bounds = np.array(sorted(table["bound"].unique()), float)
    figure.update_xaxes(**_ranks_axis(bounds), title_text="bound λ of the hidden weights, log scale")
    titles = {
        "error": "relative error ‖y − fit‖ / ‖y‖, log scale",
        "norm": "norm of the coefficients, log scale",
    }
    for column, (what, title) in enumerate(titles.items(), 1):
        figure.update_yaxes(**log_axis(table[what].to_numpy(float)), title_text=title, row=1, col=column)
    figure.update_layout(
        height=340, margin={"t": 66, "l": 60, "r": 14, "b": 44},
        legend={"x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom", "orientation": "h"},
    )  # fmt: skip
    return described(
        titled(figure),
        "Error of a fit by random bounded features, and the norm of its coefficients, over the bound.",
    )


def ridge_figure(table: pd.DataFrame, *, theme: str = "light") -> go.Figure:
    """Error against the norm of the coefficients as the ridge falls; table: frequency, bound, ridge, error, norm."""
    figure = go.Figure()
    rows: Any = table.groupby("ridge")[["error", "norm"]].mean()
    rows = rows.sort_index(ascending=False)
    color = AFTER if theme == "light" else AFTER_DARK
    figure.add_scatter(
        x=rows["norm"].to_numpy(float), y=rows["error"].to_numpy(float), mode="lines+markers+text",
        text=[f"{ridge:.0e}" for ridge in rows.index], textposition="top right", textfont={"size": 10},
        line={"color": color, "width": 2}, marker={"symbol": "diamond", "size": 7}, cliponaxis=False, showlegend=False,
        hovertemplate="ridge %{text}<br>norm %{x:.3g}<br>error %{y:.3g}<extra></extra>",
    )  # fmt: skip
    frequency, bound = table["frequency"].iloc[0], table["bound"].iloc[0]
    styled(
        figure,
        theme,
        "The limit is one of norm, not a wall",
        f"f = {frequency:g}, λ = {bound:g}; marks: ridge",
    )
    reach = rows["norm"].to_numpy(float)
    figure.update_xaxes(
        type="log", range=[np.log10(reach.min()) - 0.2, np.log10(reach.max()) + 0.5], dtick=1,
        exponentformat="power", title_text="norm of the coefficients, log scale",
    )  # fmt: skip
    figure.update_yaxes(title_text="relative error ‖y − fit‖ / ‖y‖", range=[0, 1.1])
    figure.update_layout(height=320, margin={"t": 56, "l": 60, "r": 24, "b": 44})
    return described(titled(figure), "Less ridge lowers the error and blows the coefficients up.")


def circle_figure(
    bands: np.ndarray, error: np.ndarray, outside: np.ndarray, what: str, *, theme: str = "light"
) -> go.Figure:
    """On the circle, over the band: squared relative error of the best fit; energy of the target outside the band."""
    figure = go.Figure()
    color = AFTER if theme == "light" else AFTER_DARK
    figure.add_scatter(
        x=bands, y=outside, name="energy outside the band", mode="lines", line={"color": BEFORE, "width": 6}
    )
    figure.add_scatter(
        x=bands, y=error**2, name="squared error of the best fit", mode="markers",
        marker={"color": color, "symbol": "diamond", "size": 7},
    )  # fmt: skip
    styled(figure, theme, "Error = spectrum outside the band", what)
    figure.update_xaxes(title_text="highest frequency of the features, periods a turn")
    figure.update_yaxes(title_text="share of the target's energy", range=[-0.05, 1.05])
    figure.update_layout(height=300, margin={"t": 56, "l": 56, "r": 14, "b": 44})
    figure.update_layout(legend={"x": 0.99, "xanchor": "right", "y": 0.98, "yanchor": "top"})
    return described(
        titled(figure), f"Error of the best fit and energy outside the band agree for every band; {what}."
    )


def _ranks_axis(values: np.ndarray) -> dict[str, Any]:
    """A log axis whose ticks are the values themselves."""
    room = 0.05 * max(float(np.log10(values.max() / values.min())), 0.5)
    return {
        "type": "log", "tickvals": values, "ticktext": [f"{value:.3g}" for value in values],
        "range": [float(np.log10(values.min())) - room, float(np.log10(values.max())) + room],
    }  # fmt: skip
