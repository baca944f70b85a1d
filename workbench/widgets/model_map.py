"""ModelMap: the layers of a model as blocks x roles, coloured by a measure; a click or the arrow keys select one.

Networks without blocks x roles (a CNN) become a list of bars by depth.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ..figures import colors
from ..model import Model
from ..model.roles import ROLES

SHORT = {"embed": "embed", "gate": "g", "up": "u", "down": "d", "qkv": "qkv"}


class ModelMap(anywidget.AnyWidget):
    """`selected` is the name of the chosen layer; `values` maps layer names to numbers (None: no value)."""

    _esm = Path(__file__).with_name("model_map.js")
    _css = Path(__file__).with_name("model_map.css")
    cells = traitlets.List([]).tag(sync=True)
    columns = traitlets.List([]).tag(sync=True)
    grid = traitlets.Bool(True).tag(sync=True)
    selected = traitlets.Unicode("").tag(sync=True)
    values = traitlets.Dict({}).tag(sync=True)
    caption = traitlets.Unicode("").tag(sync=True)
    palette = traitlets.List(list(colors.SEQUENTIAL)).tag(sync=True)

    def __init__(self, model: Model, selected: str, **keywords: Any):
        cells, columns = layout(model)
        super().__init__(cells=cells, columns=columns, grid=bool(columns), selected=selected, **keywords)


def layout(model: Model) -> tuple[list[dict[str, Any]], list[str]]:
    """(cells, columns): each cell has name, row and column; columns is empty where bars suit better.

    A grid needs blocks that have the same roles, each once.
    """
    inside = [layer for layer in model.layers if layer.block is not None]
    doubled = any(count > 1 for count in Counter((layer.block, layer.role) for layer in inside).values())
    blocks = sorted({layer.block for layer in inside if layer.block is not None})
    if doubled or len(blocks) < 2:
        cells = [
            {"name": layer.name, "row": index, "column": 0, "size": layer.parameters, "label": layer.name}
            for index, layer in enumerate(model.layers)
        ]
        return cells, []
    roles = [role for role in ROLES if any(layer.role == role for layer in inside)]
    cells = [
        {
            "name": layer.name,
            "row": -1 if layer.block is None else blocks.index(layer.block),
            "column": -1 if layer.block is None else roles.index(layer.role),
            "size": layer.parameters,
            "label": layer.role if layer.block is None else str(layer.block),
        }
        for layer in model.layers
    ]
    return cells, [SHORT.get(role, role) for role in roles]
