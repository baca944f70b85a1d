"""Plot: a plotly figure in a widget, with one plotly.js for the whole page.

plotly's own FigureWidget carries 5 MB of script in every instance. Here one `Runtime` a kernel holds plotly.js,
the page loads it once, and a Plot sends nothing but its figure.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import plotly.graph_objects as go
import traitlets
from ipywidgets import widget_serialization
from plotly.offline import get_plotlyjs

from ..inspect.view import VIEWS


class Runtime(anywidget.AnyWidget):
    """Carries plotly.js to the page; it has no view of its own."""

    _esm = "export default { render() {} };"
    source = traitlets.Unicode().tag(sync=True)


@cache
def runtime() -> Runtime:
    """The one of this kernel."""
    return Runtime(source=get_plotlyjs())


class Plot(anywidget.AnyWidget):
    """Shows `figure`; assigning another one redraws in place. `on_pick` hears clicks on points, `on_select` which ones
    a drag has taken."""

    _esm = Path(__file__).with_name("plot.js")
    runtime = traitlets.Instance(Runtime).tag(sync=True, **widget_serialization)
    spec = traitlets.Unicode("{}").tag(sync=True)
    height = traitlets.Int(0).tag(sync=True)
    label = traitlets.Unicode("").tag(sync=True)
    selects = traitlets.Bool(False).tag(sync=True)  # dragging selects points instead of zooming

    def __init__(self, figure: go.Figure | None = None, height: int = 0, **keywords: Any):
        super().__init__(runtime=runtime(), height=height, **keywords)
        self._pick = self._select = None
        self.on_msg(self._heard)
        if figure is not None:
            self.show(figure)

    def show(self, figure: go.Figure) -> None:
        """Draw another figure; arrays travel as base64, not as lists of decimal numbers."""
        meta = figure.to_dict().get("layout", {}).get("meta") or {}
        with self.hold_sync():
            self.label = meta.get("caption", "")
            self.spec = figure.to_json()

    def on_pick(self, hear: Any) -> None:
        """`hear(customdata)` is called with the custom data of a clicked point."""
        self._pick = hear

    def on_select(self, hear: Any) -> None:
        """`hear([customdata, ...])` is called with the custom data of the points that were selected."""
        self._select, self.selects = hear, True

    def _heard(self, _widget: Any, content: dict, _buffers: Any) -> None:
        if content.get("type") == "select" and self._select is not None:
            self._select(content["data"])
        if content.get("type") == "pick" and self._pick is not None:
            self._pick(content["data"])


def curve_view(inspector: Any) -> Plot:
    """An inspector that is a chart, in a cell of its own."""
    figure = inspector.figure()
    return Plot(figure, height=int(figure.layout.height or 260))


VIEWS.add("Viewable", curve_view)
