"""Sensitivity: which layers suffer, and the recipe that a budget of bits buys. What `engine.sensitivity` measures, to
look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from ..engine import Recipe, assign, assigned, frontier, predicted, recipe_from, sensitivity
from ..engine.assign import Curves
from ..engine.sensitivity import Alternative
from ..errors import Refused
from ..jobs import Job
from ..measure import Evaluation, Quality
from ..model import Model
from .view import Viewable

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Sensitivity(Viewable):
    """Of a model under some methods, or of a table that was measured before.

    `Sensitivity(model, [RTN(bits=3), RTN(bits=4)])` or `Sensitivity(table)`; the arguments are those of
    `workbench.engine.sensitivity`, and so are the columns of `table`.
    """

    def __init__(
        self,
        subject: Model | pd.DataFrame,
        methods: Alternative | Iterable[Alternative] = (),
        data: Evaluation | Quality | None = None,
        *,
        layers: str = "*",
        calibration: Iterable[Tensor] | None = None,
        job: Job | None = None,
    ):
        if isinstance(subject, pd.DataFrame):
            Curves.of(subject)  # refuses what is no such table
            self.table = subject
        elif isinstance(subject, Model):
            self.table = sensitivity(subject, methods, data, layers=layers, calibration=calibration, job=job)
        else:
            raise Refused(
                f"sensitivity is of a Model and its methods, or of a table, not of {type(subject).__name__}"
            )

    def assign(self, budget_bits: float) -> Recipe:
        """The recipe of least predicted KL within a budget of bits per weight; see `workbench.engine.assign`."""
        return assign(self.table, budget_bits)

    def assigned(self, budget_bits: float) -> dict[str, str]:
        """The same as layer -> method, to change by hand before `recipe`."""
        return assigned(self.table, budget_bits)

    def recipe(self, choices: Mapping[str, Any]) -> Recipe:
        """The recipe of choices made by hand: layer -> method, or its name in the table."""
        return recipe_from(self.table, choices)

    def predicted(self, choices: Mapping[str, str]) -> dict[str, float]:
        """bits_per_weight, bytes and the sum of KL of choices, by the table."""
        return predicted(self.table, choices)

    @cached_property
    def frontier(self) -> pd.DataFrame:
        """bits_per_weight and the least sum of the layers' kl that it buys."""
        bits, kl = frontier(self.table)
        return pd.DataFrame({"bits_per_weight": bits, "kl": kl})

    @property
    def uniform(self) -> pd.DataFrame:
        """Every layer under one method: method, bits_per_weight, the sum of kl; of methods that all layers have."""
        layers = self.table["name"].nunique()
        rows = []
        for method, part in self.table.groupby("method", sort=False):
            if len(part) == layers:
                bits = (part["bits_per_weight"] * part["parameters"]).sum() / part["parameters"].sum()
                rows.append({"method": method, "bits_per_weight": bits, "kl": part["kl"].sum(skipna=False)})
        return pd.DataFrame(rows, columns=["method", "bits_per_weight", "kl"])

    @property
    def _name(self) -> str:
        return str(self.table.attrs.get("model", ""))

    def figure(self, theme: str = "light", *, chosen: Mapping[str, str] | None = None) -> go.Figure:
        """The layers, the worst on top; `chosen`, layer -> method, are ringed."""
        from ..figures.sensitivity import sensitivity_figure

        methods = self.table["method"].unique()
        title = f"Sensitivity of {self._name}" if self._name else "Sensitivity"
        title += f" under {methods[0]}" if len(methods) == 1 else ""
        data = str(self.table.attrs.get("data", ""))
        return sensitivity_figure(self.table, title=title, data=data, chosen=chosen, theme=theme)

    def pareto(self, theme: str = "light", measured: Sequence[tuple[float, float, str]] = ()) -> go.Figure:
        """Budget against predicted KL; `measured`: (bits per weight, KL, name) of recipes that were run."""
        from ..figures.sensitivity import budget_figure

        f = self.frontier
        return budget_figure(
            f["bits_per_weight"].to_numpy(),
            f["kl"].to_numpy(),
            self.uniform,
            measured,
            name=self._name,
            theme=theme,
        )
