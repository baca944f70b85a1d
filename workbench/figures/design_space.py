"""Figure of a design space: quality against cost, one mark for each combination of number formats. Tables in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from .charts import described
from .colors import BEFORE, CATEGORIES
from .style import INK, styled

if TYPE_CHECKING:
    import pandas as pd

SHAPES = {"int": "square", "float": "circle", "mixed": "diamond"}
AXES = {
    "luts_per_mac": "LUTs of a multiply-accumulate",
    "lut_macs": "LUTs × MACs of one input",
    "bits_per_weight": "bits per weight (scales counted)",
    "accuracy": "accuracy, share",
    "perplexity": "perplexity",
    "kl": "KL, nats",
    "top1_agreement": "top-1 agreement, share",
}


def design_space_figure(
    table: pd.DataFrame,
    best: np.ndarray,
    *,
    x: str = "luts_per_mac",
    y: str = "accuracy",
    name: str = "",
    note: str = "",
    data: str = "",
    theme: str = "light",
) -> go.Figure:
    """One mark for each row: squares are integers, circles floats; a colour for each combination of helpers.

    table: weight, activation, helpers, kind and the columns x and y. best [rows]: those on the Pareto front, which are
    joined and named. `note` says what the cost is worth: in the caption, and in a word at the axis. `customdata[0]`
    of a mark is its row.
    """
    figure = go.Figure()
    across, up = table[x].to_numpy(float), table[y].to_numpy(float)
    order = np.flatnonzero(best)[np.argsort(across[best], kind="stable")]
    figure.add_scatter(
        x=across[order], y=up[order], mode="lines", name="Pareto front", hoverinfo="skip",
        line={"color": INK[theme], "width": 1, "dash": "dot", "shape": "hv"},
    )  # fmt: skip
    hover = [_hover(row, x, y) for row in table.to_dict("records")]
    helpers = table["helpers"].to_numpy()
    for index, helped in enumerate(dict.fromkeys(helpers)):
        color = CATEGORIES[index % len(CATEGORIES)]
        for kind, symbol in SHAPES.items():
            rows = np.flatnonzero((helpers == helped) & (table["kind"].to_numpy() == kind))
            if not len(rows):
                continue
            figure.add_scatter(
                x=across[rows], y=up[rows], mode="markers", name=f"{kind}, {helped or 'rounded to nearest'}",
                customdata=[[int(row), hover[row]] for row in rows], hovertemplate="%{customdata[1]}<extra></extra>",
                marker={
                    "symbol": symbol, "size": 9, "color": color, "line": {"width": 1, "color": BEFORE},
                    "opacity": [1.0 if best[row] else 0.45 for row in rows],
                },
            )  # fmt: skip
    _name_best(figure, table, order, across, up)
    styled(figure, theme, f"Number formats for {name}" if name else "Number formats", data)
    figure.update_layout(height=440, legend={"x": 0.99, "xanchor": "right", "y": 0.02})
    figure.update_xaxes(title_text=AXES[x] + (" (indicative)" if note else ""))
    figure.update_yaxes(title_text=AXES[y])
    if x != "bits_per_weight":
        figure.update_xaxes(type="log", tickvals=_ticks(across))
    if y in ("kl", "perplexity"):
        figure.update_yaxes(type="log", exponentformat="power", dtick=1 if _wide(up) else "D2")
        figure.update_layout(legend={"y": 0.98, "yanchor": "top"})
    said = f" {note[0].upper()}{note[1:]}." if note else ""
    return described(
        figure,
        f"{AXES[y]} against {AXES[x]} of {len(table)} combinations of number formats for {name or 'a network'}; "
        f"{int(best.sum())} are on the Pareto front.{said}",
    )


def _ticks(values: np.ndarray) -> list[float]:
    """Round numbers over the range of values, close enough that at least a few of them fall into it."""
    known = values[np.isfinite(values) & (values > 0)]
    if not len(known):
        return []
    low, high = np.floor(np.log10(known.min())), np.ceil(np.log10(known.max()))
    steps = (1, 2, 5) if high - low > 2 else (1, 1.5, 2, 3, 4, 5, 7)
    return [step * 10.0**power for power in np.arange(low, high + 1) for step in steps]


def _wide(values: np.ndarray) -> bool:
    """Whether values reach over more than a decade."""
    known = values[np.isfinite(values) & (values > 0)]
    return bool(len(known)) and known.max() > 10 * known.min()


def _hover(row: dict, x: str, y: str) -> str:
    """The full configuration and its numbers."""
    lines = [
        f"weights {row['weight']}, activations {row['activation']}",
        row["helpers"] or "rounded to nearest",
    ]
    shown = dict.fromkeys([y, x, *(n for n in AXES if n in row)])
    return "<br>".join([*lines, *(f"{AXES[name]}: {row[name]:.4g}" for name in shown)])


def _name_best(
    figure: go.Figure, table: pd.DataFrame, order: np.ndarray, x: np.ndarray, y: np.ndarray
) -> None:
    weight, activation = table["weight"].to_numpy(), table["activation"].to_numpy()
    text = [weight[i] if weight[i] == activation[i] else f"{weight[i]} / {activation[i]}" for i in order]
    figure.add_scatter(
        x=x[order], y=y[order], mode="text", text=[f"{name}\u2002" for name in text], textposition="top left",
        textfont={"size": 9}, showlegend=False, hoverinfo="skip", cliponaxis=False,
    )  # fmt: skip
