"""Header: the line above the bench: what lies on it, the chips of its history, undo, redo, code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets


class Header(anywidget.AnyWidget):
    """`hear(action, value)` is called for a click: ("go", index), ("undo", None), ("redo", None)."""

    _esm = Path(__file__).with_name("header.js")
    _css = Path(__file__).with_name("bench.css")
    title = traitlets.Unicode("").tag(sync=True)
    detail = traitlets.Unicode("").tag(sync=True)
    chips = traitlets.List([]).tag(sync=True)
    active = traitlets.Int(0).tag(sync=True)
    numbers = traitlets.Unicode("").tag(sync=True)
    can_undo = traitlets.Bool(False).tag(sync=True)
    can_redo = traitlets.Bool(False).tag(sync=True)
    code = traitlets.Unicode("").tag(sync=True)
    dark = traitlets.Bool(False).tag(sync=True)  # told by the browser: whether the page's theme is a dark one

    def __init__(self, hear: Any, **keywords: Any):
        super().__init__(**keywords)
        self.on_msg(lambda _widget, content, _buffers: hear(content.get("type"), content.get("value")))
