"""Comparison: a few methods beside each other on one weight: error maps on one colour scale, output error, bits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor

from ..engine.compose import compress, output_error
from ..errors import Refused
from ..methods import Method, Statistics
from .error_map import ErrorMap, Window
from .view import Viewable

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

MOST = 4  # side by side: more are too narrow to be read
CELLS = 40_000  # cells of one map in the figure
COLUMNS = {
    "method": "short name; two of one kind may need their parameters to be told apart",
    "bits_per_weight": "bits, with scales, zeros and masks",
    "output_relative_error": "||x (w' - w)^T|| / ||x w^T|| on the calibration inputs; empty without them",
    "relative_error": "||w' - w|| / ||w||, Frobenius",
    "sqnr_db": "10 log10(sum w^2 / sum (w' - w)^2), dB",
    "max_error": "largest |w' - w|, in the weight's units",
    "sparsity": "share of weights that are pruned",
    "seconds": "time of compressing this weight, here and now",
}


class Comparison(Viewable):
    """Two to four methods on a weight w [out, in]; a chain of methods (AWQ, then GPTQ) counts as one."""

    def __init__(
        self,
        w: Tensor,
        methods: Sequence[Method | Sequence[Method]],
        statistics: Statistics | None = None,
        name: str = "weight",
    ):
        if not 2 <= len(methods) <= MOST:
            raise Refused(f"a comparison is of 2 to {MOST} methods, not of {len(methods)}")
        self.w, self.name, self.statistics = w.float(), name, statistics
        self.methods = [[m] if isinstance(m, Method) else list(m) for m in methods]
        self.labels = [" + ".join(m.label for m in chain) for chain in self.methods]
        self.compressed, self.seconds = [], []
        for chain in self.methods:
            started = time.perf_counter()
            self.compressed.append(compress(self.w, chain, statistics))
            self.seconds.append(time.perf_counter() - started)

    @cached_property
    def maps(self) -> list[ErrorMap]:
        """An error map for each method."""
        return [
            ErrorMap(self.w, made, label) for made, label in zip(self.compressed, self.labels, strict=True)
        ]

    @property
    def limit(self) -> float:
        """The upper colour limit of |w' - w| that all maps share: the largest error of any."""
        return max(shown.largest("error") for shown in self.maps) or 1.0

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a method; the columns are described in the frame's `attrs`."""
        import pandas as pd

        rows = []
        for shown, made, label, seconds in zip(
            self.maps, self.compressed, self.labels, self.seconds, strict=True
        ):
            known = None if self.statistics is None else output_error(self.w, made, self.statistics)
            rows.append(
                {
                    "method": label,
                    "bits_per_weight": made.bits_per_weight,
                    "output_relative_error": known,
                    **{k: v for k, v in shown.errors.numbers.items() if k in COLUMNS},
                    "sparsity": made.sparsity,
                    "seconds": seconds,
                }
            )
        frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"output_relative_error": float})
        frame.attrs["columns"] = COLUMNS
        return frame

    def figure(self, theme: str = "light") -> go.Figure:
        """The error maps in a row, one colour scale for all."""
        from ..figures.comparison import comparison_figure

        tiles = [shown.tile("error", Window(0, 0, *shown.shape), "max", CELLS) for shown in self.maps]
        cells = [tile.values.astype("float32") * tile.unit for tile in tiles]
        return comparison_figure(cells, self.table, self.limit, self.w.shape, self.name, theme=theme)
