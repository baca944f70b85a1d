"""ErrorMapView: the canvas that draws an ErrorMap. It answers tile requests; nothing is computed here.

Messages from the browser: {type: tile, seq, view, reduction, window, most} and {type: at, seq, row, column}; to it
the same types with a binary float16 buffer for tiles. The newest request wins. After `refresh` (the compressed
weight changed) the last window asked for is sent without being asked again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from ..figures import colors
from ..inspect import ErrorMap, Tile, Window
from ..inspect.error_map import CELLS_MOST, VIEWS
from ..inspect.view import VIEWS as INSPECTOR_VIEWS
from ..jobs import Latest


class ErrorMapView(anywidget.AnyWidget):
    """A zoomable map of an ErrorMap: four views, wheel to zoom, drag to pan, element values on hover."""

    _esm = Path(__file__).with_name("error_map.js")
    _css = Path(__file__).with_name("error_map.css")
    rows = traitlets.Int(1).tag(sync=True)
    columns = traitlets.Int(1).tag(sync=True)
    name = traitlets.Unicode("").tag(sync=True)
    view = traitlets.Unicode("error").tag(sync=True)
    reduction = traitlets.Unicode("max").tag(sync=True)
    views = traitlets.Dict(VIEWS).tag(sync=True)
    logarithmic = traitlets.List(["error"]).tag(sync=True)
    limits = traitlets.Dict({}).tag(sync=True)
    palette = traitlets.List(list(colors.SEQUENTIAL)).tag(sync=True)
    height = traitlets.Int(300).tag(sync=True)

    def __init__(self, error_map: ErrorMap | None = None, height: int = 300, **keywords: Any):
        super().__init__(height=height, **keywords)
        self._asked = {"view": "error", "reduction": "max", "most": CELLS_MOST}
        self._window: Window | None = None
        self._seq: int | None = None  # the browser's last request: whatever is sent next answers it
        self._tiles = Latest(self._tile, self._send_tile, self._failed, "tile")
        self._hover = Latest(self._at, self._send_at, self._failed, "hover")
        self.error_map: ErrorMap | None = None  # the frame is drawn before a weight has been read
        self.on_msg(self._heard)
        if error_map is not None:
            self.show(error_map)

    def show(self, error_map: ErrorMap) -> None:
        """Look at another map (another layer): whole matrix, fresh colour limits."""
        self.error_map = error_map
        self._window = None
        with self.hold_sync():
            self.rows, self.columns, self.name = *error_map.shape, error_map.name
            self.limits = {view: error_map.natural_limit(view) for view in VIEWS}  # type: ignore[arg-type]

    def fit(self) -> None:
        """Colour limits from the largest values now; they stay put otherwise, so that settings can be compared."""
        if self.error_map is not None:
            self.limits = {view: self.error_map.largest(view) or 1.0 for view in VIEWS}  # type: ignore[arg-type]

    def refresh(self) -> None:
        """Send the window in view again: the compressed weight has changed."""
        self._tiles.request(None)

    @property
    def asked(self) -> tuple[Any, Any]:
        """(view, reduction) that the browser shows, for who computes a preview."""
        return self._asked["view"], self._asked["reduction"]

    def tile_now(self, error_map: ErrorMap) -> Tile:
        """The tile to show of a map, computed in the caller's thread and to be given to `send_tile`: of the window
        in view, or of the whole where the browser has not heard of this map yet."""
        known = self._window if error_map is self.error_map else None
        window = known or Window(0, 0, *error_map.shape)
        most = min(int(self._asked["most"]), CELLS_MOST)
        return error_map.tile(self._asked["view"], window, self._asked["reduction"], most)

    def send_tile(self, tile: Tile) -> None:
        """Send a tile that was computed elsewhere: a preview, or the answer to a change."""
        self._send_tile((tile, None))

    def _heard(self, _widget: Any, content: dict, _buffers: Any) -> None:
        if content.get("type") == "tile":
            self._asked = {key: content[key] for key in ("view", "reduction", "most")}
            self._window = Window(*content["window"])
            self._seq = content["seq"]
            self._tiles.request(None)
        elif content.get("type") == "at":
            self._hover.request((content["seq"], content["row"], content["column"]))
        elif content.get("type") == "fit":
            self.fit()

    def _tile(self, _request: None) -> tuple[Tile, int | None] | None:
        shown, seq = self.error_map, self._seq
        if shown is None:
            return None
        return self.tile_now(shown), seq

    def _send_tile(self, answer: tuple[Tile, int | None] | None) -> None:
        if answer is None:
            return
        tile, seq = answer
        w = tile.window
        head = {
            "type": "tile",
            "seq": seq,
            "view": tile.view,
            "window": [w.top, w.left, w.bottom, w.right],
            "shape": list(tile.values.shape),
            "cell": tile.cell,
            "unit": tile.unit,
            "exact": tile.exact,
        }
        self.send(head, [tile.values.tobytes()])

    def _at(self, asked: tuple[int, int, int]) -> dict[str, Any]:
        seq, row, column = asked
        known = {} if self.error_map is None else self.error_map.at(row, column)
        return {"type": "at", "seq": seq, **known}

    def _send_at(self, answer: dict[str, Any]) -> None:
        self.send(answer)

    def _failed(self, error: Exception) -> None:
        self.send({"type": "error", "text": f"{error}"})


INSPECTOR_VIEWS.add("ErrorMap", ErrorMapView)
