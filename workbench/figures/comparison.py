"""Error maps of several methods in a row, on one colour scale."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .charts import described
from .colors import plotly_scale
from .picture import png
from .style import all_axes, styled

if TYPE_CHECKING:
    import pandas as pd


def comparison_figure(
    cells: Sequence[np.ndarray],
    table: pd.DataFrame,
    limit: float,
    shape: Sequence[int],
    name: str,
    *,
    theme: str = "light",
) -> go.Figure:
    """cells: largest |w' - w| of a matrix of `shape` [out, in] in cells, one array a method, colours from 0 to `limit`.

    table: a row for each with method, bits_per_weight, output_relative_error (may be empty), relative_error.
    """
    titles = [_title(row, len(cells) > 2) for row in table.to_dict("records")]
    figure = make_subplots(1, len(cells), subplot_titles=titles, horizontal_spacing=0.03, shared_yaxes=True)
    rows, columns = shape[0], shape[1]
    for place, values in enumerate(cells, 1):
        figure.add_scatter(
            x=[0, columns], y=[0, rows], mode="markers", hoverinfo="skip", showlegend=False, row=1, col=place,
            marker={
                "color": [0, limit], "cmin": 0, "cmax": limit, "colorscale": plotly_scale(), "opacity": 0,
                "showscale": place == len(cells),
                "colorbar": {
                    "title": {"text": "|w′ − w|", "side": "right"}, "thickness": 10, "exponentformat": "power"
                },
            },
        )  # fmt: skip
        axis = "" if place == 1 else str(place)
        figure.add_layout_image(
            source="data:image/png;base64," + base64.b64encode(png(values, limit)).decode(),
            xref=f"x{axis}", yref=f"y{axis}", x=0, y=0, sizex=columns, sizey=rows,
            sizing="stretch", layer="below", xanchor="left", yanchor="top",
        )  # fmt: skip
    styled(figure, theme)
    all_axes(figure)
    figure.update_xaxes(
        title_text="column (input)", range=[0, columns], showgrid=False, zeroline=False, nticks=4
    )
    figure.update_yaxes(range=[rows, 0], showgrid=False, zeroline=False, nticks=5)
    figure.update_yaxes(title_text="row (output)", col=1)
    figure.update_annotations(font_size=11)
    figure.update_layout(
        margin={"t": 66 if len(cells) > 2 else 52, "b": 36, "l": 56, "r": 12},
        height=314 if len(cells) > 2 else 300,
    )
    best = table["method"].iloc[int(_error(table).argmin())]
    return described(
        figure, f"Errors of {name} under {len(cells)} methods on one colour scale; least: {best}."
    )


def _error(table: pd.DataFrame) -> np.ndarray:
    known = not table["output_relative_error"].isna().to_numpy().any()
    return table["output_relative_error" if known else "relative_error"].to_numpy(float)


def _title(row: dict, narrow: bool) -> str:
    """The method; output error (or that of the weight) and bits, on one line or, where it is narrow, on two."""
    output = row["output_relative_error"]
    error = (
        f"output error {output:.3g}"
        if output == output and output is not None
        else f"error {row['relative_error']:.3g}"
    )
    return f"<b>{row['method']}</b><br>{error}{'<br>' if narrow else ' · '}{row['bits_per_weight']:.3g} bits"
