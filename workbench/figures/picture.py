"""The error map as a figure that can be exported: a picture under plotly's axes, with its colour bar.

A picture and not a heat map trace: plotly redraws a million cells in two seconds and a picture at once.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import plotly.graph_objects as go

from .charts import described
from .colors import plotly_scale, table
from .style import styled


def error_map_figure(
    cells: np.ndarray,
    window: tuple[int, int, int, int],
    quantity: str,
    limit: float,
    *,
    title: str,
    subtitle: str = "",
    theme: str = "light",
) -> go.Figure:
    """cells [rows, columns] of a window (top, left, bottom, right), colours from 0 to `limit` of `quantity`."""
    top, left, bottom, right = window
    figure = go.Figure()
    # An invisible trace that carries the axes, the colour bar and the hover of the cells.
    figure.add_scatter(
        x=[left, right], y=[top, bottom], mode="markers", hoverinfo="skip", showlegend=False,
        marker={
            "color": [0, limit], "cmin": 0, "cmax": limit, "colorscale": plotly_scale(), "showscale": True,
            "opacity": 0, "colorbar": {"title": {"text": quantity, "side": "right"}, "thickness": 12,
                                       "exponentformat": "power"},
        },
    )  # fmt: skip
    styled(figure, theme, title, subtitle)
    figure.add_layout_image(
        source="data:image/png;base64," + base64.b64encode(png(cells, limit)).decode(),
        xref="x", yref="y", x=left, y=top, sizex=right - left, sizey=bottom - top,
        sizing="stretch", layer="below", xanchor="left", yanchor="top",
    )  # fmt: skip
    figure.update_xaxes(title_text="column (input)", range=[left, right], showgrid=False, zeroline=False)
    figure.update_yaxes(title_text="row (output)", range=[bottom, top], showgrid=False, zeroline=False)
    figure.update_layout(width=640, height=460)
    return described(figure, f"{quantity} of {title}: {subtitle}")


def png(cells: np.ndarray, limit: float) -> bytes:
    """A palette PNG of cells [rows, columns], 0 to `limit`, cividis."""
    index = np.clip(np.nan_to_num(cells) / (limit or 1.0) * 255, 0, 255).astype(np.uint8)
    rows, columns = index.shape
    lines = np.zeros((rows, columns + 1), np.uint8)  # each line begins with its filter, 0
    lines[:, 1:] = index
    palette = bytes(channel for color in table() for channel in color)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)
    body = zlib.compress(lines.tobytes(), 1)
    parts = (chunk(b"IHDR", head), chunk(b"PLTE", palette), chunk(b"IDAT", body), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
