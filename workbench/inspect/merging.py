"""MergedNetworks: several trainings of one network, and their mean before and after matching."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ..engine import alignment as engine
from ..errors import Refused
from ..jobs import Job, in_cell
from ..measure import Evaluation
from ..model import Model
from .alignment import data_for
from .view import Viewable

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..files.load import Openable

MERGE_COLUMNS = {
    "network": "a network by itself, the plain mean of all weights, the mean after matching",
    "loss": "cross-entropy, nats a token or image",
    "accuracy": "share of images classified right, or of tokens predicted first",
}


class MergedNetworks(Viewable):
    """Several networks of one architecture, the plain mean of their weights, and their mean after matching.

    data: as in `TwoNetworks`. rounds: of bringing each network nearer to the mean of the others, at most. Nothing is
    computed before the table, the figure or `merged` is asked for."""

    def __init__(
        self, models: Sequence[Openable], *, data: Evaluation | None = None, seed: int = 0, rounds: int = 20
    ):
        from ..files.load import load

        if isinstance(models, str | os.PathLike):
            raise Refused(f"{models!r} is one network: give a list of two or more")
        if len(models) < 2:
            raise Refused(f"{len(models)} model is nothing to merge: give two or more of one architecture")
        self.models, self.seed, self.rounds = [load(model) for model in models], seed, rounds
        self.data = data if data is not None else data_for(self.models[0])
        self._found: tuple[pd.DataFrame, Model, list[float]] | None = None

    @in_cell("merging")
    def compute(self, job: Job | None = None) -> MergedNetworks:
        if self._found is None:
            merged, how = engine.merge(self.models, seed=self.seed, rounds=self.rounds, job=job)
            means = ["plain mean", "merged"]
            names = [*distinct([*means, *(m.name for m in self.models)])[2:], *means]
            nets = [*self.models, engine.mean(self.models), merged]
            rows, first = [], job.total if job is not None else 0
            for done, (name, model) in enumerate(zip(names, nets, strict=True)):
                if job is not None:
                    job.step(first + done, first + len(nets), f"measuring {name}")
                bench = engine.Blend(model)
                loss, accuracy = bench.loss(self.data)
                rows.append(dict(zip(MERGE_COLUMNS, (name, loss, accuracy), strict=True)))
                if done < len(how.permutations):
                    bench.permute(how.permutations[done])
                    engine.same_function(loss, bench.loss(self.data)[0], name)
            frame = pd.DataFrame(rows)
            frame.attrs["columns"] = MERGE_COLUMNS
            self._found = frame, merged, how.spread
        return self

    @property
    def computed(self) -> bool:
        return self._found is not None

    def _known(self) -> tuple[pd.DataFrame, Model, list[float]]:
        found = self.compute()._found
        assert found is not None
        return found

    @property
    def table(self) -> pd.DataFrame:
        """One row a network, columns as in MERGE_COLUMNS."""
        return self._known()[0]

    @property
    def merged(self) -> Model:
        """The mean after matching, in memory."""
        return self._known()[1]

    @property
    def spread(self) -> list[float]:
        """Sum of the squared distances to the mean, at the start and after each step."""
        return self._known()[2]

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures.alignment import merge_figure

        return merge_figure(self.table, self.data.what, theme=theme)


def distinct(names: Sequence[str]) -> list[str]:
    """The same names, the second of a kind with (2) and so on: each is to be a row of its own."""
    return [f"{n} ({names[:k].count(n) + 1})" if n in names[:k] else n for k, n in enumerate(names)]
