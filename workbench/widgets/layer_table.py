"""LayerTable: rows of text, one a layer, of which one can be chosen; as wide and as long as they are, it scrolls."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets


class LayerTable(anywidget.AnyWidget):
    """Rows of text under `heads` and `groups` of them; `hear(name)` is called with the first cell of a chosen row."""

    _esm = Path(__file__).with_name("layer_table.js")
    _css = Path(__file__).with_name("layer_table.css")
    label = traitlets.Unicode("").tag(sync=True)
    groups = traitlets.List([]).tag(sync=True)
    heads = traitlets.List([]).tag(sync=True)
    rows = traitlets.List([]).tag(sync=True)
    selected = traitlets.Unicode("").tag(sync=True)

    def __init__(self, hear: Callable[[str], None], **keywords: Any):
        super().__init__(**keywords)
        self.on_msg(lambda _widget, content, _buffers: hear(content["data"]))
