"""Spectra: all layers of a model in one table and one picture, before and after, and the recipes that alpha makes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from ..engine import Recipe, Step, Variant, apply
from ..engine.allocation import EPS, allocate, allocated, parameter
from ..engine.spectra import spectra_frame, spectra_rows
from ..errors import Refused, near
from ..jobs import Job
from ..methods import Method
from ..model import Model
from ..spectra import Reading, farms, hill, singular_values
from .view import Viewable

if TYPE_CHECKING:
    import plotly.graph_objects as go

PICTURED = (
    "alpha",
    "alpha_hill",
    "alpha_farms",
    "stable_rank",
    "effective_rank",
    "log_norm",
    "lost",
    "right_overlap",
)


class Spectra(Viewable):
    """Of the layers of a model, or of a variant and the model before it.

    `Spectra(model)`, `Spectra(variant, "role:down", extra=("mp", "farms"))`; the arguments are those of
    `workbench.spectra.Reading` and `workbench.engine.spectra`, and so are the columns of `table`. What was known when a
    job was cancelled stays in `table`.
    """

    def __init__(
        self,
        subject: Model | Variant,
        layers: str = "*",
        *,
        extra: tuple[str, ...] = (),
        heads: bool = False,
        job: Job | None = None,
        begin: bool = True,
        **reading: Any,
    ):
        if not isinstance(subject, Model | Variant):
            raise Refused(f"spectra are of a Model or a Variant, not of {type(subject).__name__}")
        self.name = subject.model.name if isinstance(subject, Variant) else subject.name
        self.what = subject.label if isinstance(subject, Variant) else ""
        self.reading = Reading(extra=tuple(extra), **reading)
        self.rows: list[dict[str, Any]] = []
        self._todo = subject, layers, heads
        if begin:
            self.measure(job)

    def measure(self, job: Job | None = None) -> Spectra:
        """Fill the table, layer by layer; `begin=False` leaves this to the caller."""
        subject, layers, heads = self._todo
        self.rows = []
        for row in spectra_rows(subject, layers, self.reading, heads=heads, job=job):
            self.rows.append(row)
        return self

    @property
    def table(self) -> pd.DataFrame:
        return spectra_frame(self.rows, self.reading, self.name)

    def figure(self, theme: str = "light", *, metric: str = "alpha", title: bool = True) -> go.Figure:
        """One column of all layers by depth and role."""
        from ..figures.spectra import layers_figure

        table = self.table
        if metric not in table or not pd.api.types.is_numeric_dtype(table[metric]):
            numbers = [name for name in table if pd.api.types.is_numeric_dtype(table[name])]
            raise Refused(f"the table has no numbers in {metric!r}{near(metric, numbers)}")
        said = f"{metric} of {self.name}" + (f", after {self.what}" if self.what else "")
        return layers_figure(table, metric, title=said if title else "", theme=theme)

    def allocate(
        self, method: Method, *, metric: str = "alpha", eps: float = EPS, by: str = "block"
    ) -> Recipe:
        """A recipe that prunes each layer, or gives it bits, by its alpha; see `workbench.engine.allocation`."""
        return allocate(self.table, method, metric=metric, eps=eps, by=by)

    def allocation(
        self,
        method: Method,
        theme: str = "light",
        *,
        metric: str = "alpha",
        eps: float = EPS,
        by: str = "block",
    ) -> go.Figure:
        """alpha of each layer and what it is given."""
        from ..figures.spectra import allocation_figure

        table = self.table
        given = allocated(table, method, metric=metric, eps=eps, by=by)
        what = "sparsity, share of weights" if parameter(method) == "sparsity" else "bits"
        return allocation_figure(
            list(given), table[metric].to_numpy(float), np.array(list(given.values())), what, theme=theme
        )


class NoiseEdges(Viewable):
    """What several methods do to the spectrum of the same layers: the noise edge, the directions under it, and how far
    the leading ones turned.

    `NoiseEdges(model, [RTN(bits=3), GPTQ(bits=3)], "role:down")`; methods, steps or recipes. `calibration`: batches of
    inputs, where a method needs statistics. `table`: a row for each layer and method, columns as in `Spectra`.
    """

    def __init__(
        self,
        model: Model,
        methods: Iterable[Method | Step | Recipe],
        layers: str = "*",
        *,
        calibration: Iterable[Tensor] | None = None,
        job: Job | None = None,
    ):
        recipes = [each if isinstance(each, Recipe) else Recipe(each) for each in methods]
        if not recipes:
            raise Refused("no method was given: noise edges compare methods such as RTN(bits=3), RTN(bits=4)")
        batches = None if calibration is None else list(calibration)
        self.name, tables = model.name, []
        for recipe in recipes:
            only = Recipe([Step(s.method, layers if s.layers.strip() == "*" else s.layers) for s in recipe])
            found = Spectra(apply(model, only, calibration=batches, job=job), layers, job=job).table
            if "method" not in found:
                raise Refused(f"{recipe.label} changes none of the layers {layers!r}")
            tables.append(found[found["method"].notna()].assign(method=recipe.label))
        self.table = pd.concat(tables, ignore_index=True)
        self.table.attrs = tables[0].attrs

    def figure(self, theme: str = "light", *, metric: str = "right_overlap") -> go.Figure:
        """One column by depth, a colour and a mark for each method."""
        from ..figures.spectra import layers_figure

        table = self.table.assign(role=self.table["method"])[["name", "role", "block", metric]]
        title = f"{metric} of {self.name}, method by method"
        return layers_figure(pd.DataFrame(table), metric, title=title, theme=theme)


class AspectRatio(Viewable):
    """The bias that FARMS removes: alpha of Gaussian noise, whole and in windows, over the shape of the matrix."""

    def __init__(
        self,
        columns: int = 128,
        ratios: tuple[int, ...] = (1, 2, 4, 8),
        rows: int = 64,
        repeats: int = 3,
        seed: int = 0,
    ):
        if columns < 1 or not ratios or min(ratios) < 1 or repeats < 1:
            raise Refused("aspect ratio: columns, ratios and repeats start at 1")
        random = np.random.default_rng(seed)
        found: dict[tuple[str, int], list[float]] = {}
        for ratio in ratios:
            for _ in range(repeats):
                w = random.standard_normal((columns * ratio, columns)) / np.sqrt(columns * ratio)
                found.setdefault(("whole matrix", ratio), []).append(hill(singular_values(w) ** 2).alpha)
                windows = farms(w, rows=rows)
                # Fewer rows than were asked for where the matrix has no more.
                size = " × ".join(map(str, windows.shape))
                found.setdefault((f"FARMS, windows {size}", ratio), []).append(windows.alpha)
        self.table = pd.DataFrame(
            [
                {
                    "series": series,
                    "aspect_ratio": ratio,
                    "alpha": np.mean(a),
                    "spread": (max(a) - min(a)) / 2,
                }
                for (series, ratio), a in sorted(found.items(), key=lambda entry: entry[0], reverse=True)
            ]
        ).sort_values(["series", "aspect_ratio"], ascending=[False, True], ignore_index=True)

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures.spectra import aspect_figure

        return aspect_figure(self.table, theme=theme)
