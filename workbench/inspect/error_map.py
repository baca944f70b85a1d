"""ErrorMap: a weight, its compressed form and their difference as a zoomable map.

Headless: it answers requests for tiles (a view, a window, a size in pixels) with float16 cells, and reads single
weights back. The widget draws them; colours and limits are the browser's affair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import Refused
from ..grid import CompressedWeight, uncompressed
from ..measure import Cells, ErrorCells, error_cells, weight_cells
from .view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

View = Literal["weight", "compressed", "error", "relative"]
Reduction = Literal["max", "mean"]
VIEWS: dict[str, str] = {
    "weight": "|w|",
    "compressed": "|w'|",
    "error": "|w' - w|",
    "relative": "|w' - w| / |w|",
}
CELLS_MOST = 240_000  # cells of a tile: 480 kB in float16
EXACT_MOST = 1_000_000  # weights in view up to which a tile is reduced from the exact elements
PREVIEW_FROM = 3_000_000  # weights from which a change is previewed on a sample of the rows
PREVIEW_EVERY = 16
WRONG = 1e4  # a relative error at most: what is left of a weight of zero that is not zero any more


@dataclass(frozen=True)
class Window:
    """Rows [top, bottom) and columns [left, right) of a matrix."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def numel(self) -> int:
        return (self.bottom - self.top) * (self.right - self.left)

    def cells(self, cell: int) -> int:
        """How many cells of `cell` x `cell` it takes, where it begins with a whole one."""
        return -(-(self.bottom - self.top) // cell) * -(-(self.right - self.left) // cell)

    def within(self, shape: tuple[int, int]) -> Window:
        """Clipped to the matrix, at least one weight."""
        top, left = min(max(self.top, 0), shape[0] - 1), min(max(self.left, 0), shape[1] - 1)
        return Window(
            top, left, min(max(self.bottom, top + 1), shape[0]), min(max(self.right, left + 1), shape[1])
        )

    def rounded(self, cell: int, shape: tuple[int, int]) -> Window:
        """Widened to whole cells of `cell` x `cell`."""
        return Window(
            self.top // cell * cell,
            self.left // cell * cell,
            min(-(-self.bottom // cell) * cell, shape[0]),
            min(-(-self.right // cell) * cell, shape[1]),
        )


@dataclass(frozen=True)
class Tile:
    """Cells of a window, row by row: float16 [rows, columns] times `unit` are the values.

    `cell` weights on a side: 1 means exact elements. `exact` is False for a preview from a sample of the rows.
    `unit` is a power of two that keeps small errors out of float16's subnormal range.
    """

    view: View
    window: Window
    cell: int
    values: np.ndarray
    unit: float
    exact: bool = True


class ErrorMap(Viewable):
    """Compares a weight w [out, in] with a compressed form of it. `change` sets another one."""

    def __init__(self, w: Tensor, compressed: CompressedWeight | None = None, name: str = "weight"):
        if w.ndim != 2 or 0 in w.shape:
            raise Refused(f"an error map is of a matrix [out, in]; {name} is {list(w.shape)}")
        self.w, self.name = w.float().contiguous(), name
        self.weight = weight_cells(self.w)
        self.compressed = compressed or uncompressed(self.w)
        self.errors: ErrorCells = error_cells(self.w, self.compressed, self.weight)
        self._compressed_cells: Cells | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.w.shape[0], self.w.shape[1]

    def change(self, compressed: CompressedWeight, errors: ErrorCells | None = None) -> None:
        """Show another compressed form of the same weight; `errors` where they are known already."""
        if compressed.shape != self.shape:
            raise Refused(f"{self.name} is {list(self.shape)}, its compressed form {list(compressed.shape)}")
        self.errors = errors or error_cells(self.w, compressed, self.weight)
        self.compressed, self._compressed_cells = compressed, None

    def largest(self, view: View) -> float:
        """The upper colour limit that shows everything: the largest value of a view; 1 for relative errors."""
        if view == "relative":
            return 1.0
        return {"error": self.errors.error, "weight": self.weight}.get(view, self.weight).largest

    def natural_limit(self, view: View) -> float:
        """The upper colour limit that a layer keeps whatever is done to it: its largest weight, a third of that for
        errors (what rounding to two bits comes to), and 1 for relative errors."""
        if view == "relative":
            return 1.0
        return (self.weight.largest or 1.0) / (3 if view == "error" else 1)

    def tile(self, view: View, window: Window, reduction: Reduction = "max", most: int = CELLS_MOST) -> Tile:
        """The cells to show of a window, at most `most` of them; exact elements where they fit."""
        window = window.within(self.shape)
        level = 0
        while window.rounded(2**level, self.shape).cells(2**level) > max(most, 1):
            level += 1
        window = window.rounded(2**level, self.shape)
        if level < 3 or window.numel <= EXACT_MOST:
            values = _pool(self.exact(view, window), 2**level, reduction)
        else:
            values = self._from_cells(view, window, level, reduction)
        return _tile(view, window, 2**level, values)

    def whole(self, view: View, reduction: Reduction = "max") -> Tile:
        return self.tile(view, Window(0, 0, *self.shape), reduction)

    def exact(self, view: View, window: Window) -> np.ndarray:
        """The elements of a window, float32, computed from the codes now."""
        rows, columns = slice(window.top, window.bottom), slice(window.left, window.right)
        w = self.w[rows, columns]
        if view == "weight":
            return w.abs().numpy()
        v = self.compressed.dequantize(rows, columns)
        if view == "compressed":
            return v.abs().numpy()
        error = (v - w).abs_()
        if view == "error":
            return error.numpy()
        # A weight of zero that stays zero has no error; one that does not is wholly wrong.
        return torch.where(error == 0, torch.zeros_like(error), error / w.abs()).clamp_(max=WRONG).numpy()

    def at(self, row: int, column: int) -> dict[str, Any]:
        """One weight for the hover line: value, compressed value, error, code, scale, zero, whether it is kept."""
        compressed = self.compressed
        w = float(self.w[row, column])
        v = float(compressed.dequantize(slice(row, row + 1), slice(column, column + 1)))
        return {
            "row": row,
            "column": column,
            "w": w,
            "compressed": v,
            "error": v - w,
            **compressed.at(row, column),
            "kept": compressed.mask is None or bool(compressed.mask[row, column]),
        }

    def previewed(self, method: Any, statistics: Any, view: View, reduction: Reduction) -> Iterator[Tile]:
        """The whole map of what `method` would make, from every 16th row, for matrices where exactness takes time."""
        if self.w.numel() < PREVIEW_FROM:
            return
        few = self._few
        few.compressed, few._compressed_cells = method.compress(few.w, statistics), None
        few.errors = error_cells(few.w, few.compressed, few.weight)
        tile = few.tile(view, Window(0, 0, *few.shape), reduction, CELLS_MOST // 8)
        yield Tile(view, Window(0, 0, *self.shape), tile.cell, tile.values, tile.unit, exact=False)

    @cached_property
    def _few(self) -> ErrorMap:
        """The map of every 16th row."""
        few = ErrorMap.__new__(ErrorMap)
        few.w, few.name = self.w[::PREVIEW_EVERY].contiguous(), self.name
        few.weight = weight_cells(few.w)
        return few

    @property
    def table(self) -> pd.DataFrame:
        """The numbers of the comparison, one row; see `measure.WEIGHT_COLUMNS`."""
        import pandas as pd

        numbers = {
            "name": self.name,
            "bits_per_weight": self.compressed.bits_per_weight,
            **self.errors.numbers,
        }
        return pd.DataFrame([{**numbers, "bytes": self.compressed.nbytes}])

    def figure(
        self,
        theme: str = "light",
        view: View = "error",
        window: Window | None = None,
        limit: float | None = None,
    ) -> go.Figure:
        """The map as a plotly figure, to be exported."""
        from ..figures import error_map_figure

        tile = self.tile(view, window or Window(0, 0, *self.shape))
        shown = tile.values.astype(np.float32) * tile.unit
        w = tile.window
        numbers = self.errors.numbers
        return error_map_figure(
            shown,
            (w.top, w.left, w.bottom, w.right),
            VIEWS[view],
            limit or self.largest(view) or 1.0,
            title=self.name,
            subtitle=f"relative error {numbers['relative_error']:.3g}, SQNR {numbers['sqnr_db']:.1f} dB"
            + (f"; largest of each {tile.cell} x {tile.cell} cell" if tile.cell > 1 else ""),
            theme=theme,
        )

    def picture(self, view: View = "error") -> str:
        """The whole map as the data: address of a PNG, in the colours and limits that the live view begins with."""
        import base64

        from ..figures.picture import png

        tile = self.tile(view, Window(0, 0, *self.shape), most=CELLS_MOST // 8)
        cells = tile.values.astype(np.float32) * tile.unit / self.natural_limit(view)
        shares = np.log1p(255 * cells) / np.log(256) if view == "error" else cells
        return "data:image/png;base64," + base64.b64encode(png(shares, 1.0)).decode()

    def _from_cells(self, view: View, window: Window, level: int, reduction: Reduction) -> np.ndarray:
        def part(cells: Cells) -> np.ndarray:
            side = 2**level
            values = cells.at(level, reduction)
            return values[
                window.top // side : -(-window.bottom // side), window.left // side : -(-window.right // side)
            ]

        if view == "weight":
            return part(self.weight)
        if view == "error":
            return part(self.errors.error)
        if view == "compressed":
            if self._compressed_cells is None:
                self._compressed_cells = weight_cells(self.compressed.dequantize())
            return part(self._compressed_cells)
        error, below = part(self.errors.error), part(self.weight)
        nothing_there = np.where(error > 0, np.float32(WRONG), np.float32(0))
        return np.divide(error, below, out=nothing_there, where=below > 0).clip(max=WRONG)


def _pool(values: np.ndarray, side: int, reduction: Reduction) -> np.ndarray:
    """Cells of `side` x `side` elements, smaller at ragged edges; torch's pooling runs on all cores."""
    if side == 1:
        return values
    image = torch.from_numpy(values)[None, None]
    if reduction == "max":
        return F.max_pool2d(image, side, ceil_mode=True)[0, 0].numpy()
    return F.avg_pool2d(image, side, ceil_mode=True, count_include_pad=False)[0, 0].numpy()


def _tile(view: View, window: Window, cell: int, values: np.ndarray) -> Tile:
    largest = float(values.max(initial=0.0))
    # The largest value near 2^14: everything down to 2^-28 of it is above half precision's smallest normal.
    # Not below 2^-126, the smallest normal number of the float32 that the values are divided in.
    unit = 2.0 ** max(np.ceil(np.log2(largest)) - 14, -126) if largest > 0 else 1.0
    return Tile(view, window, cell, (values / np.float32(unit)).astype(np.float16), float(unit))
