"""Moves: which weights a method puts on another point of the grid than round to nearest does, and how far.

AdaRound may choose the other neighbour and no more, FlexRound and GPTQ any point. What lies half-way between two points
has nothing to lose by it; what lies on one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import Refused
from ..grid import CompressedWeight
from .view import Viewable

if TYPE_CHECKING:
    import plotly.graph_objects as go

BINS = 10  # of the distance from the nearest point, 0 to half a step


class Moves(Viewable):
    """The codes of compressed weights, by name, beside those of `nearest`; all are of the weight w [out, in].

    Codes are compared as places on the grid, so that a learned step counts as no move. Refused where the grids, their
    zero points or the groups are others.
    """

    def __init__(
        self,
        w: Tensor,
        nearest: CompressedWeight,
        methods: Mapping[str, CompressedWeight],
        name: str = "weight",
    ):
        if not methods:
            raise Refused("no method was given to compare with round to nearest")
        self.w, self.nearest, self.methods, self.name = w.float(), nearest, dict(methods), name
        for label, made in self.methods.items():
            if reason := _other_grid(made, nearest):
                raise Refused(
                    f"{label}: its codes cannot be compared with those of round to nearest: {reason}"
                )
        self._start = _places(nearest)

    def moved(self, name: str) -> Tensor:
        """[out, in]: by how many points of the grid each weight went up (or, below 0, down)."""
        return _places(self.methods[name]) - self._start

    @cached_property
    def distance(self) -> Tensor:
        """[out, in]: how far each weight is from its nearest point, in steps of the grid there; at most 0.5 inside its
        ends."""
        values = self.nearest.grid.values
        low = values[self._start.clamp(max=len(values) - 2)]
        high = values[(self._start.clamp(max=len(values) - 2) + 1)]
        scales = self.nearest.scales
        wide = torch.ones(1, 1) if scales is None else self.nearest.blocks.expand(scales)
        return (self.w - self.nearest.dequantize()).abs() / ((high - low) * wide)

    @cached_property
    def table(self) -> pd.DataFrame:
        """method, move (points of the grid, signed), share of the weights: a row for each move that occurs."""
        rows = []
        for name in self.methods:
            moves, counts = self.moved(name).unique(return_counts=True)
            rows += [(name, int(m), float(c) / self.w.numel()) for m, c in zip(moves, counts, strict=True)]
        frame = pd.DataFrame(rows, columns=["method", "move", "share"])
        frame.attrs["columns"] = {
            "method": "as it was named",
            "move": "points of the grid from where round to nearest put the weight",
            "share": "of the weights",
        }
        return frame

    @cached_property
    def by_distance(self) -> pd.DataFrame:
        """method, distance (middle of a bin, in steps from the nearest point), moved (share of the weights there)."""
        rows = []
        edges = np.linspace(0, 0.5, BINS + 1)
        place = np.clip(np.digitize(self.distance.numpy(), edges) - 1, 0, BINS - 1)
        # Beyond the ends of the grid a weight was cut, not rounded.
        inside = self.distance.numpy() <= 0.5 + 1e-6
        for name in self.methods:
            moved = (self.moved(name) != 0).numpy()
            for b in range(BINS):
                here = inside & (place == b)
                share = float(moved[here].mean()) if here.any() else float("nan")
                rows.append((name, float((edges[b] + edges[b + 1]) / 2), share))
        return pd.DataFrame(rows, columns=["method", "distance", "moved"])

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures.moves import moves_figure

        return moves_figure(self.table, self.by_distance, self.name, theme=theme)


def _places(made: CompressedWeight) -> Tensor:
    """Place of each weight among the ascending values of its grid."""
    return torch.searchsorted(made.grid.values, made.grid.decode(made.codes).contiguous())


def _other_grid(made: CompressedWeight, nearest: CompressedWeight) -> str:
    """Why codes of the two do not mean the same; empty where they do."""
    points = [len(each.grid.values) for each in (made, nearest)]
    if made.shape != nearest.shape or points[0] != points[1]:
        return (
            f"{made.shape} on {points[0]} points against {nearest.shape} on {points[1]}; take the same bits"
        )
    if made.blocks != nearest.blocks or made.order is not None or nearest.order is not None:
        return "other weights share a scale; take the same groups, and static ones"
    if (made.zero is None) != (nearest.zero is None):
        return "only one of them has zero points; take symmetric for both or for none"
    if made.zero is not None and nearest.zero is not None and bool((made.zero != nearest.zero).any()):
        return "their zero points differ; take the same scale_search for both"
    return ""
