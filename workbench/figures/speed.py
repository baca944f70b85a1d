"""Figures of the speed lab: instructions by line, occupancy, roofline, ladders. Tables and numbers in, plotly out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .charts import described
from .colors import AFTER, AFTER_DARK, BEFORE, CATEGORIES, EDGE
from .style import GRID, INK, all_axes, styled

if TYPE_CHECKING:
    import pandas as pd

# What a bar tells apart: more colours than these cannot be. What is in none of them is the rest.
SHOWN = {
    "tensor core": ("tensor core",),
    "float": ("float", "convert"),
    "global memory": ("global memory",),
    "shared memory": ("shared memory",),
    "integer": ("integer",),
    "wait": ("wait",),
    "spill": ("spill (local memory)",),
}
COLORS = dict(
    zip(SHOWN, ("#0072B2", "#56B4E9", "#E69F00", "#F0E442", "#009E73", "#CC79A7", "#D55E00"), strict=True)
)
REST = "move, branch, other"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
ROOFS = {32: "solid", 16: "dash", 8: "dot"}


def kind_colors(kinds: Iterable[str]) -> dict[str, str]:
    """Kind of instruction -> its colour, as in `mix_figure`."""
    shown = {kind: COLORS[name] for name, several in SHOWN.items() for kind in several}
    return {kind: shown.get(kind, BEFORE) for kind in kinds}


def mix_figure(
    mix: Mapping[int, Mapping[str, int]], source: Sequence[str], name: str, *, theme: str = "light"
) -> go.Figure:
    """Instructions of each source line by kind, lines from top to bottom. mix: line (from 1) -> kind -> number;
    source: the lines. `customdata[0]` of a bar is its line."""
    figure = go.Figure()
    lines = list(mix)
    labels = [str(line) for line in lines]
    text = [source[line - 1].strip()[:90] if line <= len(source) else "" for line in lines]
    told = {kind for kinds in SHOWN.values() for kind in kinds}
    parts = {
        shown: [sum(mix[line].get(k, 0) for k in kinds) for line in lines] for shown, kinds in SHOWN.items()
    }
    parts[REST] = [sum(count for kind, count in mix[line].items() if kind not in told) for line in lines]
    for shown, counts in parts.items():
        if not any(counts):
            continue
        figure.add_bar(
            x=counts, y=labels, orientation="h", name=shown, marker_color=COLORS.get(shown, BEFORE),
            customdata=[[line, words] for line, words in zip(lines, text, strict=True)],
            hovertemplate=f"line %{{y}}: %{{x}} {shown}<br>%{{customdata[1]}}<extra></extra>",
        )  # fmt: skip
    total = sum(sum(kinds.values()) for kinds in mix.values())
    styled(figure, theme)
    figure.update_layout(
        barmode="stack", bargap=0.15, height=max(220, 13 * len(lines) + 90), margin={"t": 30, "l": 44, "b": 36},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.0, "yanchor": "bottom", "traceorder": "normal"},
    )  # fmt: skip
    figure.update_xaxes(title_text="instructions in the machine code (each once, however often it runs)")
    figure.update_yaxes(title_text="line", autorange="reversed", type="category", showgrid=False, dtick=1)
    return described(figure, f"Machine instructions of {name} by source line and kind, {total} in all.")


def occupancy_figure(
    registers: Sequence[tuple[int, int]],
    shared: Sequence[tuple[int, int]],
    *,
    at: tuple[int, int, int],
    most: int,
    name: str = "",
    device: str = "",
    theme: str = "light",
) -> go.Figure:
    """Warps that a multiprocessor holds, by registers per thread and by shared memory per block.

    registers, shared: (most of the resource, warps), the last value of each step. at: (registers, shared bytes, warps)
    of the kernel. most: warps that the multiprocessor can hold."""
    figure = make_subplots(1, 2, horizontal_spacing=0.1, shared_yaxes=True)
    styled(figure, theme)
    all_axes(figure)
    blue = AFTER if theme == "light" else AFTER_DARK
    panels = (
        (registers, 1.0, at[0], "registers per thread", 256.0, "%{x:.0f} registers"),
        (shared, 1024.0, at[1] / 1024.0, "shared memory per block, KiB", None, "%{x:.1f} KiB"),
    )
    for column, (steps, unit, here, title, end, words) in enumerate(panels, start=1):
        x, y = _stairs(steps, unit)
        figure.add_scatter(
            x=x, y=y, mode="lines", line={"color": blue, "width": 1.5}, showlegend=False, fill="tozeroy",
            fillcolor="rgba(0,114,178,0.08)", hovertemplate=f"up to {words}: %{{y}} warps<extra></extra>", row=1,
            col=column,
        )  # fmt: skip
        figure.add_scatter(
            x=[here], y=[at[2]], mode="markers", name=name, showlegend=column == 1,
            marker={"color": EDGE, "size": 10, "symbol": "diamond"}, cliponaxis=False,
            hovertemplate=f"{name}: {words}, %{{y}} warps<extra></extra>", row=1, col=column,
        )  # fmt: skip
        last = max([here, *x])
        figure.update_xaxes(title_text=title, range=[0, end or 1.04 * last], row=1, col=column)
        for value in [step[0] / unit for step in steps if step[0] / unit < (end or last)][-5:]:
            figure.add_annotation(
                x=value, y=0, text=f"{value:.3g}", showarrow=False, yanchor="bottom", xanchor="right",
                font={"size": 9, "color": INK[theme]}, row=1, col=column,
            )  # fmt: skip
    figure.update_yaxes(range=[0, 1.08 * most], dtick=16 if most > 32 else 8)
    figure.update_yaxes(title_text="warps on a multiprocessor", row=1, col=1)
    figure.update_layout(
        height=260, margin={"t": 28, "l": 52, "r": 14, "b": 40},
        legend={"x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom", "orientation": "h"},
    )  # fmt: skip
    share = at[2] / most
    return described(
        figure,
        f"Warps that a multiprocessor of {device} holds at a time, computed from its published limits: {name} takes "
        f"{at[0]} registers per thread and {at[1]} bytes of shared memory per block, {at[2]} of {most} warps "
        f"({share:.0%}). Not a measurement.",
    )


def _stairs(steps: Sequence[tuple[int, int]], unit: float) -> tuple[list[float], list[int]]:
    x, y, begin = [], [], 0.0
    for most, warps in steps:
        x += [begin, most / unit]
        y += [warps, warps]
        begin = most / unit
    return [*x, begin], [*y, 0]


def roofline_figure(
    points: pd.DataFrame,
    roofs: Sequence[Mapping[str, Any]],
    *,
    device: str,
    where: str,
    note: str = "",
    ceilings: pd.DataFrame | None = None,
    theme: str = "light",
) -> go.Figure:
    """Operations per second against operations per byte, both axes logarithmic, under the machine's roofs.

    points: kernel, bits, intensity, flops, of_roof of what was timed. roofs: name, value, per ("byte" or "flop"), bits.
    where: how the roofs are known, for the caption. ceilings: kernel, intensity, attainable of kernels that were not
    timed, drawn hollow and called a model."""
    figure = go.Figure()
    left, right = _range(points, roofs, ceilings)
    x = np.geomspace(left, right, 200)
    memory = [roof for roof in roofs if roof["per"] == "byte"]
    top = max((roof["value"] for roof in roofs if roof["per"] == "flop"), default=1.0)
    for index, roof in enumerate(sorted(memory, key=lambda one: -one["value"])):
        line = {"color": INK[theme], "width": 1 if index else 1.5, "dash": "dash" if index else "solid"}
        figure.add_scatter(
            x=x, y=np.where(x * roof["value"] <= top, x * roof["value"], np.nan), mode="lines", showlegend=False,
            name=roof["name"], line=line, hovertemplate=f"{roof['name']}: {_si(roof['value'])}B/s<extra></extra>",
        )  # fmt: skip
    fastest = max((roof["value"] for roof in memory), default=1.0)
    above = np.inf
    for roof in sorted((one for one in roofs if one["per"] == "flop"), key=lambda one: -one["value"]):
        begin, value = roof["value"] / fastest, roof["value"]
        figure.add_scatter(
            x=[begin, right], y=[value] * 2, mode="lines", name=roof["name"], showlegend=False,
            line={"color": INK[theme], "width": 1.5, "dash": ROOFS.get(roof["bits"], "dot")},
            hovertemplate=f"{roof['name']}: {_si(value)}FLOP/s<extra></extra>",
        )  # fmt: skip
        close = value > above / 1.4  # its name would stand on that of the roof above
        figure.add_annotation(
            x=np.log10(right), y=np.log10(value), text=f"{roof['name']} {_si(value)}FLOP/s", showarrow=False,
            xanchor="right", yanchor="top" if close else "bottom", font={"size": 9, "color": INK[theme]},
        )  # fmt: skip
        above = np.inf if close else value
    told = [f"<b>{device}</b>", where, note, *(f"{roof['name']} {_si(roof['value'])}B/s" for roof in memory)]
    _label(figure, "<br>".join(filter(None, told)), theme)
    _kernels(figure, points, ceilings, theme)
    values = [top, *points["flops"], *(ceilings["attainable"] if ceilings is not None else [])]
    low = min([fastest * left, *values]) / 2
    styled(figure, theme)
    figure.update_xaxes(title_text="intensity, FLOP/byte", **_decades(left, right, plain=True))
    figure.update_yaxes(title_text="speed, FLOP/s", **_decades(low, 1.6 * max(values)))
    figure.update_layout(
        height=max(380, 19 * (len(points) + len(roofs)) + 40), margin={"t": 12, "l": 58, "r": 14, "b": 40},
        legend={"x": 1.01, "xanchor": "left", "y": 1, "yanchor": "top"},
    )  # fmt: skip
    return described(
        figure,
        f"Roofline of {device}: speed of {len(points)} kernels against the operations they do per byte. "
        f"Roofs: {where}{f'; {note}' if note else ''}."
        + (" Hollow marks: what the roofs allow, a model, not measured." if ceilings is not None else ""),
    )


def _kernels(figure: go.Figure, points: pd.DataFrame, ceilings: pd.DataFrame | None, theme: str) -> None:
    for index, row in enumerate(points.to_dict("records")):
        color, symbol = (
            CATEGORIES[index % len(CATEGORIES)],
            SYMBOLS[(index // len(CATEGORIES)) % len(SYMBOLS)],
        )
        figure.add_scatter(
            x=[row["intensity"]], y=[row["flops"]], mode="markers", name=row["kernel"], cliponaxis=False,
            marker={"color": color, "symbol": symbol, "size": 9, "line": {"width": 1, "color": INK[theme]}},
            hovertemplate=f"{row['kernel']}: {_si(row['flops'])}FLOP/s, {row['of_roof']:.0%} of its roof "
            f"({row['bound']})<br>%{{x:.3g}} FLOP/byte, {row['shape']}<extra></extra>",
        )  # fmt: skip
    for index, row in enumerate([] if ceilings is None else ceilings.to_dict("records")):
        color = CATEGORIES[index % len(CATEGORIES)]
        figure.add_scatter(
            x=[row["intensity"]], y=[row["attainable"]], mode="markers", name=f"{row['kernel']} (model)",
            marker={"color": color, "symbol": "circle-open", "size": 11, "line": {"width": 2}},
            hovertemplate=f"{row['kernel']}: at most {_si(row['attainable'])}FLOP/s, a model<extra></extra>",
        )  # fmt: skip


def _label(figure: go.Figure, text: str, theme: str) -> None:
    """Words in the upper left corner of the first axes."""
    figure.add_annotation(
        x=0.01, y=0.99, xref="x domain", yref="y domain", text=text, showarrow=False, xanchor="left", yanchor="top",
        align="left", font={"size": 10, "color": INK[theme]},
    )  # fmt: skip


def _range(points, roofs, ceilings) -> tuple[float, float]:
    """The intensities to show: from the lowest kernel's to beyond the last corner of the roofs."""
    memory = max((roof["value"] for roof in roofs if roof["per"] == "byte"), default=1.0)
    corners = [roof["value"] / memory for roof in roofs if roof["per"] == "flop"]
    known = [*points["intensity"], *(ceilings["intensity"] if ceilings is not None else []), *corners, 1.0]
    return min(known) / 3, max(known) * 5


def _decades(low: float, high: float, plain: bool = False) -> dict[str, Any]:
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [10.0**power for power in powers]
    text = [f"{tick:g}" for tick in ticks] if plain else [_si(tick).strip() for tick in ticks]
    return {"type": "log", "range": [np.log10(low), np.log10(high)], "tickvals": ticks, "ticktext": text}


def _si(value: float) -> str:
    """ "12.3 G", with the space that stands before a unit."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.3g} "


def ladder_figure(table: pd.DataFrame, ladder: str, *, note: str = "", theme: str = "light") -> go.Figure:
    """Left: each rung in percent of the baseline. Right: what its idea was predicted to win (a bar from the least to
    the most), and what it won (a mark). table: the columns of `speed.ladder_table`."""
    figure = make_subplots(1, 2, horizontal_spacing=0.06, shared_yaxes=True, column_widths=[0.55, 0.45])
    styled(figure, theme)
    all_axes(figure)
    names, percent = table["kernel"].tolist(), table["percent"].to_numpy(float)
    blue = AFTER if theme == "light" else AFTER_DARK
    _percent(figure, table, names, percent, blue, theme)
    _gains(figure, table, names, theme)
    figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
    known = percent[np.isfinite(percent)]
    baseline = next((b for b in table["baseline"] if b), "the baseline")
    end = 1.18 * max([100.0, *table["percent_q75"].to_numpy(float)[np.isfinite(percent)]])
    figure.update_xaxes(title_text=f"speed, % of {baseline}", range=[0, end], row=1, col=1)
    figure.update_xaxes(
        title_text="times faster than the rung it builds on", type="log", row=1, col=2, **_gain_ticks(table)
    )
    figure.update_layout(
        height=max(200, 30 * len(names) + 90), bargap=0.3, margin={"t": 30, "l": 110, "r": 16, "b": 42},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"},
        title={"text": note, "x": 0, "xref": "paper", "y": 0.98, "yanchor": "top", "font": {"size": 11}},
    )  # fmt: skip
    said = (
        f"{len(known)} of {len(names)} rungs were timed"
        if len(known)
        else "no rung was timed: predictions alone"
    )
    return described(figure, f"The ladder {ladder}: {said}. {note}".strip())


def _percent(figure: go.Figure, table: pd.DataFrame, names, percent, blue: str, theme: str) -> None:
    low, high = table["percent_q25"].to_numpy(float), table["percent_q75"].to_numpy(float)
    text = [f"{value:.3g} %" if np.isfinite(value) else "not timed" for value in percent]
    figure.add_bar(
        x=np.nan_to_num(percent), y=names, orientation="h", marker_color=blue, showlegend=False, text=text,
        error_x={"type": "data", "symmetric": False, "array": high - percent, "arrayminus": percent - low,
                 "color": INK[theme], "thickness": 1, "width": 3},
        textposition="none", customdata=table["idea"].to_numpy(),
        hovertemplate="%{y}: %{text}<br>%{customdata}<extra></extra>", row=1, col=1,
    )  # fmt: skip
    figure.add_scatter(  # behind the upper quartile, which a bar's own text would stand on
        x=np.nan_to_num(np.fmax(high, percent)), y=names, mode="text", text=[f"\u2002{words}" for words in text],
        textposition="middle right", textfont={"size": 10}, showlegend=False, hoverinfo="skip", cliponaxis=False,
        row=1, col=1,
    )  # fmt: skip
    figure.add_vline(x=100, line={"color": INK[theme], "width": 1, "dash": "dot"}, row=1, col=1)  # type: ignore[arg-type]


def _gains(figure: go.Figure, table: pd.DataFrame, names, theme: str) -> None:
    low, high = table["predicted_low"].to_numpy(float), table["predicted_high"].to_numpy(float)
    known = np.isfinite(low)
    figure.add_bar(
        base=low[known], x=np.maximum(high - low, 0.03 * low)[known], y=np.array(names)[known], orientation="h",
        name="predicted", marker_color=GRID[theme], marker_line={"color": BEFORE, "width": 1}, width=0.5,
        customdata=table[["predicted_low", "predicted_high", "over"]].to_numpy(object)[known],
        hovertemplate="%{y}: predicted %{customdata[0]} to %{customdata[1]} times %{customdata[2]}<extra></extra>",
        row=1, col=2,
    )  # fmt: skip
    gain = table["gain"].to_numpy(float)
    figure.add_scatter(
        x=gain, y=names, mode="markers", name="measured", marker={"color": EDGE, "symbol": "diamond", "size": 10},
        hovertemplate="%{y}: measured %{x:.3g} times<extra></extra>", row=1, col=2, cliponaxis=False,
    )  # fmt: skip


def _gain_ticks(table: pd.DataFrame) -> dict[str, Any]:
    values = np.concatenate(
        [table[name].to_numpy(float) for name in ("predicted_low", "predicted_high", "gain")]
    )
    values = values[np.isfinite(values) & (values > 0)]
    low, high = (min(0.9, values.min() / 1.15), max(2.0, 1.2 * values.max())) if len(values) else (0.9, 2.0)
    ticks = [
        t for t in (0.1, 0.2, 0.5, 0.7, 1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100, 200, 500) if low <= t <= high
    ]
    if high / low > 8:  # few enough that their numbers stand apart
        ticks = [t for t in ticks if t not in (0.7, 1.2, 1.5, 3)]
    return {
        "range": [np.log10(low), np.log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{t:g}×" for t in ticks],
    }
