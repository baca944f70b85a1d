"""TwoNetworks: the line between two trainings before and after matching, and why the barrier falls."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..engine import alignment as engine
from ..engine.alignment import Aligned
from ..engine.symmetry import joined
from ..errors import Refused
from ..jobs import Job, in_cell, require
from ..measure import Evaluation, evaluation
from ..model import Layer, Model
from ..spectra.alignment import Decomposition, VectorAlignment, alignment_score, scores
from .view import Viewable

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..files.load import Openable

IMAGES, WINDOWS = 1000, 4  # that the loss is measured on, at every point of a line
CELLS = 128  # of a picture of a matrix, along each side at most
GAMMA = 0.3  # leading directions: singular values from this fraction of the largest
GAMMAS = np.round(np.linspace(0, 0.95, 20), 2)
TOP = 20  # singular directions that a picture of M shows

NETWORK_COLUMNS = {
    "name": "layer, as the checkpoint calls it without .weight",
    "role": "embed, q, k, v, qkv, o, gate, up, down, conv, fc or head",
    "distance_before": "||W_A - W_B||, Frobenius",
    "distance_after": "the same after matching",
    "reduction": "1 - after / before",
    "r_before": "R: sum of M_ij over all singular directions by their number; 1 where they coincide (reconstruction)",
    "r_after": "the same after matching",
    "leading_before": f"R over directions with s >= {GAMMA} s_1 in both (reconstruction)",
    "leading_after": "the same after matching",
}
UNIT_COLUMNS = {
    "unit": "of the first network, from 0",
    "partner": "unit of the second network that came to its place",
    "cosine_before": "between the weights of the units of one number",
    "cosine_after": "between the weights of the unit and its partner",
}


class TwoNetworks(Viewable):
    """Two networks of one architecture. `compute` matches the units of b to those of a and walks the line between them
    twice, `measure` looks at the layers as well; the figure and the tables do so themselves when they are first asked.

    a, b: models, or what `workbench.load` takes. data: what the loss is measured on, by default 1,000 embedded images
    or 4 windows of text. points: of each line. orders: of the groups that matching tries.
    """

    def __init__(
        self,
        a: Openable,
        b: Openable,
        *,
        data: Evaluation | None = None,
        points: int = engine.POINTS,
        orders: int = 3,
        seed: int = 0,
    ):
        engine.check_points(points)
        if orders < 1:
            raise Refused(f"{orders} orders of the groups is none to try; take 1 or more")
        from ..files.load import load

        self.a, self.b = load(a), load(b)
        self.points, self.orders, self.seed = points, orders, seed
        self.data = data if data is not None else data_for(self.a)
        self._aligned: Aligned | None = None
        self._lines: dict[str, pd.DataFrame] = {}
        self._directions: dict[str, tuple[VectorAlignment, VectorAlignment]] = {}

    @in_cell("two networks")
    def compute(self, job: Job | None = None) -> TwoNetworks:
        """Match, then measure both lines; a matching that is finished is kept, also after a cancel."""
        self._walk(job, 1 + 2 * self.points)
        if job is not None:
            job.step(job.total, job.total, "done")
        return self

    @in_cell("two networks")
    def measure(self, job: Job | None = None) -> TwoNetworks:
        """`compute`, then the singular directions of every layer: table and pictures are at hand afterwards. What is
        finished is kept, also after a cancel. Refused where memory would not do."""
        require(memory(self.a), f"matching {self.a.name} and {self.b.name}", "take smaller ones")
        lines, layers = 1 + 2 * self.points, self._with_directions
        self._walk(job, lines + len(layers))
        for done, layer in enumerate(layers):
            if job is not None:
                job.step(lines + done, lines + len(layers), f"singular directions of {layer.name}")
            self._directions_of(layer.name)
        _ = self.table
        if job is not None:
            job.step(job.total, job.total, "done")
        return self

    def _walk(self, job: Job | None, total: int) -> None:
        """Matching and both lines, as the first steps of `total`."""
        if self._lines:
            return
        if job is not None:
            job.step(0, total, "matching")
        if self._aligned is None:
            self._aligned = engine.align(self.a, self.b, orders=self.orders, seed=self.seed, job=job)
        found = {}
        sides = (("naive", self._aligned.b), ("matched", self._aligned.matched))
        for done, (name, other) in enumerate(sides):
            if job is not None:
                job.step(1 + done * self.points, total, name)
            found[name] = engine.line(
                self.a, self._aligned.a, other, self.data, points=self.points, job=job, text=name
            )
        last = [float(frame["loss"].iloc[-1]) for frame in found.values()]
        engine.same_function(last[0], last[1], self.b.name)
        self._lines = found

    @property
    def aligned(self) -> Aligned:
        """The matching and all tensors."""
        if self._aligned is None:
            self._aligned = engine.align(self.a, self.b, orders=self.orders, seed=self.seed)
        return self._aligned

    @property
    def lines(self) -> dict[str, pd.DataFrame]:
        """`naive` and `matched`: t, loss, accuracy, barrier."""
        return self.compute()._lines

    @property
    def barriers(self) -> dict[str, float]:
        """The highest point of each line above the straight line between the losses of its ends, nats."""
        return {name: float(frame["barrier"].to_numpy().max()) for name, frame in self.lines.items()}

    @property
    def middle_accuracy(self) -> dict[str, float]:
        """Share of right answers half way along each line."""
        return {name: float(frame["accuracy"].iloc[len(frame) // 2]) for name, frame in self.lines.items()}

    @cached_property
    def matched(self) -> Model:
        """The second network with its units in the order of the first; it answers as before."""
        return engine.with_tensors(self.b, self.aligned.matched, f"{self.b.name}, matched", estimate=False)

    @cached_property
    def middle(self) -> Model:
        """The mean of the two after matching."""
        a, b = self.aligned.a, self.aligned.matched
        both = f"middle of {self.a.name} and {self.b.name}"
        return engine.with_tensors(self.a, {name: (a[name] + b[name]) / 2 for name in a}, both)

    @cached_property
    def _weights(self) -> list[dict[str, np.ndarray]]:
        """[first, second as it came, second matched]: matrices [out, in] by layer."""
        sides = [joined(t) for t in (self.aligned.a, self.aligned.b, self.aligned.matched)]
        return [
            {layer.name: layer.to_matrix(side[layer.tensor]).numpy() for layer in self.a.layers}
            for side in sides
        ]

    @property
    def _with_directions(self) -> list[Layer]:
        """An embedding of many rows is left out: its SVD takes minutes and says little."""
        return [layer for layer in self.a.layers if min(layer.shape) > 1 and layer.role != "embed"]

    def _directions_of(self, name: str) -> tuple[VectorAlignment, VectorAlignment]:
        """(before, after)."""
        if name not in self._directions:
            a, b, matched = (Decomposition.of(side[name]) for side in self._weights)
            self._directions[name] = a.alignment(b), a.alignment(matched)
        return self._directions[name]

    @property
    def _vectors(self) -> dict[str, tuple[VectorAlignment, VectorAlignment]]:
        """(before, after) by layer."""
        return {layer.name: self._directions_of(layer.name) for layer in self._with_directions}

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a layer, columns as in NETWORK_COLUMNS."""
        frame = pd.DataFrame([self._row(layer) for layer in self.a.layers], columns=list(NETWORK_COLUMNS))
        frame.attrs["columns"] = NETWORK_COLUMNS
        return frame

    def _row(self, layer: Layer) -> dict[str, object]:
        one, two, three = (side[layer.name] for side in self._weights)
        before, after = (float(np.linalg.norm(one - other)) for other in (two, three))
        row: dict[str, object] = {"name": layer.name, "role": layer.role}
        row |= {"distance_before": before, "distance_after": after}
        row["reduction"] = 1 - after / before if before else 0.0
        vectors = self._directions_of(layer.name) if layer in self._with_directions else ()
        for side, found in zip(("before", "after"), vectors, strict=False):
            row[f"r_{side}"] = alignment_score(found)
            row[f"leading_{side}"] = alignment_score(found, GAMMA)
        return row

    def figure(self, theme: str = "light") -> go.Figure:
        """The loss along the line, naive and matched."""
        from ..figures.alignment import barrier_figure

        return barrier_figure(self.lines, self.a.name, self.b.name, self.data.what, theme=theme)

    def layer(self, name: str) -> LayerPair:
        """One weight in both networks. Refused, with near names, where there is none."""
        layer = self.a.layer(name)
        one, two, three = (side[layer.name] for side in self._weights)
        return LayerPair(one, two, three, layer.name)

    def units(self, group: str) -> Units:
        """The units of one group and their partners; `groups` lists them."""
        aligned = self.aligned
        a, b, matched = (aligned.symmetry.units(t, group) for t in (aligned.a, aligned.b, aligned.matched))
        return Units(aligned.matching.permutations[group], _cosines(a, b), _cosines(a, matched), group)

    @property
    def groups(self) -> pd.DataFrame:
        """The groups of units that may be permuted: size, the group inside which they lie, log10 of the orders."""
        from ..engine.symmetry import described

        return pd.DataFrame(described(self.aligned.symmetry))

    def directions(self, name: str | None = None) -> Directions:
        """How the singular directions of one layer, or of all together, lie before and after."""
        if name is None:
            return Directions(self._vectors, f"all layers of {self.a.name}")
        layer = self.a.layer(name)
        if layer not in self._with_directions:
            why = "an embedding" if layer.role == "embed" else "a single row or column"
            raise Refused(f"{layer.name} is {why}: choose another layer to compare singular directions")
        return Directions({layer.name: self._directions_of(layer.name)}, layer.name)


class LayerPair(Viewable):
    """One weight [out, in] of the first network, of the second, and of the second matched."""

    def __init__(self, a: np.ndarray, b: np.ndarray, matched: np.ndarray, name: str):
        self.a, self.b, self.matched, self.name = a, b, matched, name

    @cached_property
    def table(self) -> pd.DataFrame:
        """row (output from 0), before, after: ||W_A - W_B|| of that row."""
        before, after = (np.linalg.norm(self.a - other, axis=1) for other in (self.b, self.matched))
        return pd.DataFrame({"row": np.arange(len(before)), "before": before, "after": after})

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures.alignment import difference_figure

        cells = [pooled(self.a - other) for other in (self.b, self.matched)]
        totals = [float(np.linalg.norm(self.a - other)) for other in (self.b, self.matched)]
        return difference_figure(cells[0], cells[1], totals, self.a.shape, self.name, theme=theme)


class Units(Viewable):
    """Who came to whose place, and how alike they are."""

    def __init__(self, partner: np.ndarray, before: np.ndarray, after: np.ndarray, name: str):
        self.partner, self.before, self.after, self.name = partner, before, after, name

    @cached_property
    def table(self) -> pd.DataFrame:
        columns = [np.arange(len(self.partner)), self.partner, self.before, self.after]
        frame = pd.DataFrame(dict(zip(UNIT_COLUMNS, columns, strict=True)))
        frame.attrs["columns"] = UNIT_COLUMNS
        return frame

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures.alignment import units_figure

        return units_figure(self.partner, self.before, self.after, self.name, theme=theme)


class Directions(Viewable):
    """Singular directions of one layer or several, (before, after) matching."""

    def __init__(self, layers: dict[str, tuple[VectorAlignment, VectorAlignment]], name: str):
        self.layers, self.name = layers, name

    @cached_property
    def table(self) -> pd.DataFrame:
        """gamma, before, after: R_gamma over all layers together."""
        sides = [scores({n: pair[k] for n, pair in self.layers.items()}, GAMMAS) for k in (0, 1)]
        return pd.DataFrame({"gamma": GAMMAS, "before": sides[0], "after": sides[1]})

    def figure(self, theme: str = "light") -> go.Figure:
        """R_gamma over gamma; and, of a single layer, M of the leading directions."""
        from ..figures.alignment import directions_figure, score_figure

        if len(self.layers) > 1:
            return score_figure(self.table, self.name, theme=theme)
        ((before, after),) = self.layers.values()
        return directions_figure(
            before.m[:TOP, :TOP], after.m[:TOP, :TOP], self.table, self.name, theme=theme
        )


def memory(model: Model, networks: int = 2) -> int:
    """Bytes that matching so many networks of this one's architecture takes at its height: every tensor in float64
    before and after, a copy that runs, and the overlaps [n, n] of the singular directions of the first two."""
    overlaps = sum(min(layer.shape) ** 2 for layer in model.layers if layer.role != "embed")
    return (16 * networks + 4) * model.parameters + 16 * overlaps


def pooled(difference: np.ndarray) -> np.ndarray:
    """A matrix as at most CELLS x CELLS cells, each the root mean square of what lies in it."""
    out, into = difference.shape
    rows, columns = (np.linspace(0, n, min(n, CELLS) + 1).astype(int) for n in (out, into))
    sums = np.add.reduceat(np.add.reduceat(difference**2, rows[:-1], axis=0), columns[:-1], axis=1)
    return np.sqrt(sums / np.outer(np.diff(rows), np.diff(columns)))


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[units]: of rows; 0 where a row is zero."""
    sizes = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(1), sizes, out=np.zeros(len(a)), where=sizes > 0)


def data_for(model: Model) -> Evaluation:
    """What the loss is measured on where nobody said it."""
    data = evaluation(model, tokens=WINDOWS * 256) if model.task == "language" else evaluation(model)
    return data.first(IMAGES)
