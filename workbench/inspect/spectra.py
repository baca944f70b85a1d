"""Spectra: all layers of a model in one table and one picture, before and after, and the recipes that alpha makes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from torch import Tensor

from ..engine import Recipe, Step, Variant, apply
from ..engine.allocation import EPS, allocate, allocated, left_alone, parameter
from ..engine.spectra import AFTER_COLUMNS, spectra_frame, spectra_rows
from ..errors import Refused, near
from ..jobs import Job, in_cell
from ..methods import Method
from ..model import Model
from ..spectra import Reading, farms, hill, noise_edge, singular_values
from ..spectra.columns import EXTRAS
from ..spectra.noise import noise_alpha
from ..spectra.powerlaw import LEAST
from .noise import step_variance
from .view import Viewable

if TYPE_CHECKING:
    import plotly.graph_objects as go

PICTURED = (
    "alpha",
    "alpha_hill",
    "alpha_peak",
    "alpha_farms",
    "stable_rank",
    "effective_rank",
    "log_norm",
    "lost_share",
    "right_overlap",
)


NOISE_COLUMNS = {
    "error_variance": "variance of the error as measured, from which edge is; weights squared",
    "predicted_variance": "variance that the steps of the grid alone predict before rounding, step^2 / 12 where they "
    "are equal; empty where there are none; weights squared",
    "predicted_edge": "noise edge of that variance; unit of the weights",
}
WINDOWS = 16  # of noise that are pooled where FARMS pools its own


class Spectra(Viewable):
    """Of the layers of a model, or of a variant and the model before it.

    `Spectra(model)`, `Spectra(variant, "role:down", extra=("mp", "farms"))`; the arguments are those of
    `workbench.spectra.Reading` and `workbench.engine.spectra`, and so are the columns of `table`. What was known when a
    job was cancelled stays in `table`.
    """

    def __init__(
        self,
        subject: Model | Variant | str | os.PathLike,
        layers: str = "*",
        *,
        extra: tuple[str, ...] | str = (),
        heads: bool = False,
        job: Job | None = None,
        begin: bool = True,
        **reading: Any,
    ):
        if isinstance(subject, str | os.PathLike):
            from ..files.load import load

            subject = load(subject)
        if not isinstance(subject, Model | Variant):
            raise Refused(f"spectra are of a Model or a Variant, not of {type(subject).__name__}")
        known = [field.name for field in fields(Reading)]
        if unknown := [name for name in reading if name not in known]:
            raise Refused(f"spectra have no parameter {unknown[0]!r}{near(unknown[0], known)}")
        self.name = subject.model.name if isinstance(subject, Variant) else subject.name
        self.what = subject.label if isinstance(subject, Variant) else ""
        self.reading = Reading(extra=extra if isinstance(extra, str) else tuple(extra), **reading)
        self.rows: list[dict[str, Any]] = []
        self._todo = subject, layers, heads
        if begin:
            self.measure(job)

    @property
    def subject(self) -> Model | Variant:
        """What the spectra are of."""
        return self._todo[0]

    @property
    def code(self) -> str:
        """The Python that makes this again from `model`, or from `variant` where it is of one."""
        subject, layers, heads = self._todo
        given = ["variant" if isinstance(subject, Variant) else "model"]
        given += [repr(layers)] if layers != "*" else []
        given += ["heads=True"] if heads else []
        usual = Reading()
        for field in fields(Reading):
            value = getattr(self.reading, field.name)
            given += [f"{field.name}={value!r}"] if value != getattr(usual, field.name) else []
        return f"wb.Spectra({', '.join(given)})"

    @in_cell("spectra")
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

    @property
    def pictured(self) -> list[str]:
        """Columns that a picture of all layers can show: the usual ones, then those of the extras."""
        names = [*PICTURED, *(name for extra in self.reading.extra for name in EXTRAS[extra])]
        table = self.table
        known = [name for name in dict.fromkeys(names) if name in table and bool(table[name].notna().any())]
        return [name for name in known if pd.api.types.is_numeric_dtype(table[name])]

    def figure(self, theme: str = "light", *, metric: str = "alpha", title: bool = True) -> go.Figure:
        """One column of all layers by depth and role; an exponent that is no fit of the tail beside that of noise."""
        from ..figures.layers import layers_figure, words

        table = self.table
        _check_numbers(table, metric)
        said = f"{words(metric)[0]} of {self.name}" if title else ""
        done = self.what if metric in AFTER_COLUMNS or f"after_{metric}" in table else ""
        noise = self._noise(table, metric)
        return layers_figure(table, metric, noise=noise, done=done, title=said, theme=theme)

    def _noise(self, table: pd.DataFrame, metric: str) -> np.ndarray | None:
        """The exponent that Gaussian noise of each row's shape has [n], for those of a rule; None for the rest."""
        rules = {"alpha_hill": "median", "alpha_peak": "peak", "alpha_farms": self.reading.estimator}
        if metric not in rules:
            return None
        if metric == "alpha_farms":
            shapes = [
                tuple(map(int, window.split(" x "))) if window else (0, 0) for window in table["farms_window"]
            ]
        else:
            shapes = [(int(n), int(m)) for n, m in zip(table["N"], table["M"], strict=True)]
        pool = WINDOWS if metric == "alpha_farms" else 1
        return np.array([noise_alpha(*shape, rules[metric], pool) for shape in shapes])

    def allocate(
        self,
        method: Method,
        *,
        metric: str = "alpha",
        eps: float = EPS,
        by: str = "block",
        spare: bool | None = None,
    ) -> Recipe:
        """A recipe that prunes each layer, or gives it bits, by its alpha; see `workbench.engine.allocation`. `spare`:
        leave embeddings and heads alone; by default where the layers are "*", as a plan does."""
        return allocate(self.table, method, metric=metric, eps=eps, by=by, spare=self._spare(spare))

    def left_alone(self, method: Method, *, spare: bool | None = None) -> dict[str, str]:
        """layer -> why `allocate` gives it nothing."""
        return left_alone(self.table, method, spare=self._spare(spare))

    def _spare(self, given: bool | None) -> bool:
        return self._todo[1].strip() == "*" if given is None else given

    def allocation(
        self,
        method: Method,
        theme: str = "light",
        *,
        metric: str = "alpha",
        eps: float = EPS,
        by: str = "block",
        spare: bool | None = None,
    ) -> go.Figure:
        """The exponent of each layer and what it is given."""
        from ..figures.layers import allocation_figure

        table, spare = self.table, self._spare(spare)
        given = allocated(table, method, metric=metric, eps=eps, by=by, spare=spare)
        what = "sparsity, share of weights" if parameter(method) == "sparsity" else "bits"
        alphas = table.set_index("name")[metric].loc[list(given)].to_numpy(float)
        alone = [f"{name}: {reason}" for name, reason in left_alone(table, method, spare=spare).items()]
        return allocation_figure(
            list(given),
            alphas,
            np.array(list(given.values())),
            what,
            metric=metric,
            note="; ".join(alone),
            theme=theme,
        )


class NoiseEdges(Viewable):
    """What several methods do to the spectrum of the same layers: the noise edge, the directions under it, and how far
    the leading ones turned.

    `NoiseEdges(model, [RTN(bits=3), GPTQ(bits=3)], "role:down")`; methods, steps or recipes, or one of them.
    `calibration`: batches of inputs, where a method needs statistics. `table`: a row for each layer and method, columns
    as in `Spectra` and in `NOISE_COLUMNS`.
    """

    def __init__(
        self,
        model: Model,
        methods: Iterable[Method | Step | Recipe] | Method | Step | Recipe,
        layers: str = "*",
        *,
        calibration: Iterable[Tensor] | None = None,
        job: Job | None = None,
    ):
        # One of them could be iterated too, over its fields or steps.
        several = [methods] if isinstance(methods, Method | Step | Recipe) else methods
        recipes = [each if isinstance(each, Recipe) else Recipe(each) for each in several]
        if not recipes:
            raise Refused("no method was given: noise edges compare methods such as RTN(bits=3), RTN(bits=4)")
        batches = None if calibration is None else list(calibration)
        self.name, tables, told = model.name, [], {}
        for recipe in recipes:
            only = Recipe([Step(s.method, layers if s.layers.strip() == "*" else s.layers) for s in recipe])
            variant = apply(model, only, calibration=batches, job=job)
            found = Spectra(variant, layers, job=job).table
            if "method" not in found:
                raise Refused(f"{recipe.label} changes none of the layers {layers!r}")
            changed = pd.DataFrame(found[found["method"].notna()])
            told = found.attrs
            tables.append(changed.assign(method=recipe.label, **_variances(variant, changed)))
        self.table = pd.concat(tables, ignore_index=True)
        self.table.attrs = {**told, "columns": {**told["columns"], **NOISE_COLUMNS}}

    def figure(self, theme: str = "light", *, metric: str = "right_overlap") -> go.Figure:
        """One column by depth, a colour and a mark for each method."""
        from ..figures.layers import layers_figure, words

        _check_numbers(self.table, metric)
        table = self.table.assign(role=self.table["method"])[["name", "role", "block", metric]]
        title = f"{words(metric)[0]} of {self.name}, method by method"
        return layers_figure(pd.DataFrame(table), metric, title=title, theme=theme)


def _check_numbers(table: pd.DataFrame, column: str) -> None:
    """Refused for a column that cannot be drawn."""
    if column not in table or not pd.api.types.is_numeric_dtype(table[column]):
        numbers = [name for name in table if pd.api.types.is_numeric_dtype(table[name])]
        raise Refused(f"the table has no numbers in {column!r}{near(column, numbers)}")


def _variances(variant: Variant, table: pd.DataFrame) -> dict[str, list[float]]:
    """NOISE_COLUMNS of the layers of `table`, which the variant has changed."""
    found: dict[str, list[float]] = {name: [] for name in NOISE_COLUMNS}
    for name, edge in zip(table["name"], table["edge"], strict=True):
        compressed = variant.weights[name]
        predicted = step_variance(variant.model.base.base_weight(name), compressed)
        found["error_variance"].append((edge / noise_edge(1.0, compressed.shape)) ** 2)
        found["predicted_variance"].append(predicted)
        known = np.isfinite(predicted)
        found["predicted_edge"].append(noise_edge(predicted, compressed.shape) if known else np.nan)
    return found


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
        if columns < LEAST:
            raise Refused(
                f"aspect ratio: a matrix of {columns} columns has {columns} eigenvalues, and a fit needs {LEAST}; take "
                f"columns={LEAST} or more"
            )
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
        from ..figures.layers import aspect_figure

        return aspect_figure(self.table, theme=theme)
