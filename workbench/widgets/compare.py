"""CompareView: the error maps of a Comparison beside each other, with their numbers; one colour scale, one view."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as ipw
import traitlets

from ..inspect.comparison import MOST, Comparison
from ..inspect.view import VIEWS
from .error_map import ErrorMapView
from .numbers import number, percent


class CompareView(ipw.HBox):
    """Shows up to four methods; `show` puts another comparison in the same places."""

    def __init__(self, comparison: Comparison | None = None, height: int = 150):
        self.captions = [ipw.HTML() for _ in range(MOST)]
        self.maps = [ErrorMapView(height=height) for _ in range(MOST)]
        for other in self.maps[1:]:  # what one map shows, all show
            traitlets.link((self.maps[0], "view"), (other, "view"))
            traitlets.link((self.maps[0], "reduction"), (other, "reduction"))
        self.places = [ipw.VBox([c, m]) for c, m in zip(self.captions, self.maps, strict=True)]
        super().__init__()
        self.add_class("wb-compare")
        if comparison is not None:
            self.show(comparison)

    def show(self, comparison: Comparison) -> None:
        rows = comparison.table.to_dict("records")
        plain = _reference(rows)
        for caption, view, shown, row in zip(self.captions, self.maps, comparison.maps, rows, strict=False):
            caption.value = _caption(row, plain)
            view.show(shown)
            view.limits = {**view.limits, "error": comparison.limit}
        self.children = self.places[: len(rows)]


def _reference(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the others are compared with: the first."""
    return rows[0]


def _caption(row: dict[str, Any], first: dict[str, Any]) -> str:
    key = (
        "output_relative_error"
        if row["output_relative_error"] == row["output_relative_error"]
        else "relative_error"
    )
    name = "output error" if key == "output_relative_error" else "error"
    change = "" if row is first or not first[key] else f" ({100 * (row[key] / first[key] - 1):+.0f} %)"
    sparsity = f" · {percent(row['sparsity'])} zero" if row["sparsity"] else ""
    return (
        f"<b>{escape(row['method'])}</b><div>{name} {number(row[key])}{change}<br>"
        f"weight error {number(row['relative_error'])} · {number(row['bits_per_weight'], 4)} bits{sparsity}</div>"
    )


VIEWS.add("Comparison", CompareView)
