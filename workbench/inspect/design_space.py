"""DesignSpace: number formats for weights and activations of one network, accuracy against what hardware would cost.

Every split of 3 to 8 bits into exponent and mantissa, and the integers of the same widths, with the helpers of
post-training quantization. After Aggarwal et al. 2023 ("Shedding the Bits"): its building blocks are brevitas', its
tables and cost model could not be read. LUTs are indicative: `workbench.measure.hardware`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from torch import Tensor

from ..engine import apply, plan
from ..engine.design import FORMATS, Design, Designer
from ..engine.sensitivity import few
from ..errors import Refused, near
from ..jobs import Job, in_cell
from ..measure import MODEL_COLUMNS, Evaluation, Quality, evaluation
from ..measure.hardware import COST_COLUMNS, INDICATIVE, CostModel, Number, work_of
from ..model import Model
from .view import Viewable

if TYPE_CHECKING:
    import plotly.graph_objects as go

IMAGES, CALIBRATION = 500, 256  # images that a point is judged on, and calibrated on

DESIGN_COLUMNS = {
    "weight": "number format of the weights",
    "activation": "number format of the layers' inputs; float where they are not quantized",
    "helpers": "methods that helped, joined by +; empty where weights were rounded to nearest",
    "kind": "int, float, or mixed where weights and activations differ",
    "bits_per_weight": "bits with scales, over the layers that were quantized",
    "luts_per_mac": f"{COST_COLUMNS['luts']}; mean over the MACs of one input",
    "lut_macs": f"LUTs x MACs of one input, over the layers that were quantized; {INDICATIVE}",
    **{name: MODEL_COLUMNS[name] for name in ("accuracy", "perplexity", "kl", "top1_agreement")},
    "seconds": "to make and measure this point",
}
COSTS = ("luts_per_mac", "lut_macs", "bits_per_weight")
BETTER_HIGH = ("accuracy", "top1_agreement")


class DesignSpace(Viewable):
    """Designs (weight format, activation format, helpers) of one model. `run` measures them; `table` holds those that
    are finished, `figure` draws them with the Pareto front.

    formats: of weights; by default all 33 of 3 to 8 bits. activations: "same" as the weights', formats to combine with
    each of them, or None to leave inputs in float. helpers: combinations to try, such as `[(), ("equalize", "gptq")]`.
    options: parameters of methods by their names. granularity: who shares a weight's scale. ends: the first and the
    last layer keep 8 bits. data: what is judged on (500 images or 4,096 tokens by default).
    """

    def __init__(
        self,
        model: Model,
        formats: Iterable[str] = FORMATS,
        activations: Literal["same"] | Iterable[str] | None = "same",
        *,
        helpers: Iterable[Sequence[str]] = ((),),
        options: Mapping[str, Mapping[str, Any]] | None = None,
        granularity: Literal["tensor", "channel"] = "tensor",
        ends: bool = True,
        data: Evaluation | Quality | None = None,
        calibration: Sequence[Tensor] | None = None,
        costs: CostModel | None = None,
    ):
        self.designs = _designs(list(formats), activations, [tuple(each) for each in helpers])
        self.model, self.costs = model.base, costs or CostModel()
        if not isinstance(data, Quality):
            data = Quality(self.model, data or few(evaluation(self.model), IMAGES))
        self.quality, self._calibration = data, calibration
        self.work = work_of(self.model, list(self.model.layers), data.data.inputs)
        order = list(self.work)
        self.designer = Designer(granularity, (order[0], order[-1]) if ends else (), dict(options or {}))
        self.results: dict[Design, dict[str, float]] = {}

    # Measuring

    @in_cell("design space")
    def run(self, job: Job | None = None) -> DesignSpace:
        """Measure here and now what is not measured yet. A design that is finished is kept, also after a cancel."""
        for design in (each for each in self.designs if each not in self.results):
            if job is not None:
                job.step(len(self.results), len(self.designs), design.label)
            self.results[design] = self._measured(design, job)
        if job is not None:
            job.done = job.total = len(self.designs)
        return self

    def start(self) -> Job:
        """The same in a job: progress, cancel, and a table that grows."""
        return Job(self.run, f"design space of {self.model.name}").start()

    def _measured(self, design: Design, job: Job | None) -> dict[str, float]:
        def step(*_: Any) -> None:
            if job is not None:
                job.step(len(self.results), len(self.designs), design.label)

        begun = time.perf_counter()
        recipe = self.designer.recipe(design)
        variant = apply(self.model, recipe, calibration=self.calibration)
        measures = self.quality.measure(variant.weights, step, variant.vectors)
        made = list(variant.weights.values())
        bits = sum(c.bits_per_weight * c.numel for c in made) / sum(c.numel for c in made)
        seconds = time.perf_counter() - begun
        return {"bits_per_weight": bits, **self.cost(design), **measures, "seconds": seconds}

    def cost(self, design: Design) -> dict[str, float]:
        """luts_per_mac and lut_macs of the layers that are quantized; NaN where inputs stay float."""
        if design.activation is None:
            return {"luts_per_mac": float("nan"), "lut_macs": float("nan")}
        ends = self.designer.ends
        shared, wide = (_numbers(each) for each in (design, design.at_8_bits()))
        changed = [each.layer.name for each in plan(self.model, self.designer.recipe(design)).work]
        formats = {name: wide if name in ends else shared for name in changed if name in self.work}
        found = self.costs.model(formats, self.work)
        return {name: found[name] for name in ("luts_per_mac", "lut_macs")}

    @cached_property
    def calibration(self) -> list[Tensor]:
        if self._calibration is not None:
            return list(self._calibration)
        return few(evaluation(self.model, part="calibration"), CALIBRATION).inputs_only()

    # Looking

    @property
    def table(self) -> pd.DataFrame:
        """One row for each design that is finished, columns as in DESIGN_COLUMNS."""
        rows = [
            {
                "weight": design.weight,
                "activation": design.activation or "float",
                "helpers": " + ".join(design.helpers),
                "kind": design.kind,
                **found,
            }
            for design, found in list(self.results.items())
        ]
        columns = [name for name in DESIGN_COLUMNS if not rows or name in rows[0]]
        frame = pd.DataFrame(rows, columns=columns)
        frame.attrs["columns"] = {name: DESIGN_COLUMNS[name] for name in columns}
        frame.attrs["data"] = self.quality.data.what
        return frame

    def front(self, against: str = "luts_per_mac", quality: str | None = None) -> pd.DataFrame:
        """The designs that no other beats in both cost and quality, cheapest first."""
        table, quality = self.table, self._quality(against, quality)
        cost = table[against].to_numpy(float)
        best = np.flatnonzero(pareto(cost, _loss(table, quality)))
        return table.iloc[best[np.argsort(cost[best], kind="stable")]]

    def figure(
        self, theme: str = "light", *, against: str = "luts_per_mac", quality: str | None = None
    ) -> go.Figure:
        """Quality against cost: LUTs a MAC, LUTs x MACs, or bits per weight; accuracy (or KL) by default."""
        from ..figures.design_space import design_space_figure

        table, quality = self.table, self._quality(against, quality)
        best = pareto(table[against].to_numpy(float), _loss(table, quality))
        note = INDICATIVE if against != "bits_per_weight" else ""
        return design_space_figure(
            table,
            best,
            x=against,
            y=quality,
            name=self.model.name,
            note=note,
            data=self.quality.data.what,
            theme=theme,
        )

    def _quality(self, against: str, quality: str | None) -> str:
        known = ("accuracy" if self.model.task == "classification" else "perplexity", "kl", "top1_agreement")
        if against not in COSTS:
            raise Refused(f"{against!r} is no cost of a design{near(against, COSTS)}")
        if quality is not None and quality not in known:
            raise Refused(f"{quality!r} is no measure of {self.model.name}{near(quality, known)}")
        return quality or (known[0] if known[0] == "accuracy" else "kl")


def pareto(cost: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """bool [n]: no other point costs as little and loses as little, one of them less. What is NaN is never best."""
    best = np.zeros(len(cost), bool)
    known = np.isfinite(cost) & np.isfinite(loss)
    for i in np.flatnonzero(known):
        no_worse = known & (cost <= cost[i]) & (loss <= loss[i])
        best[i] = not (no_worse & ((cost < cost[i]) | (loss < loss[i]))).any()
    return best


def _loss(table: pd.DataFrame, quality: str) -> np.ndarray:
    values = table[quality].to_numpy(float)
    return -values if quality in BETTER_HIGH else values


def _designs(
    formats: list[str], activations: Literal["same"] | Iterable[str] | None, helpers: list[tuple[str, ...]]
) -> list[Design]:
    """Every combination once, the formats' order first."""
    if not formats or not helpers:
        raise Refused("a design space needs at least one format and one combination of helpers, () for none")
    if activations == "same":
        pairs: list[tuple[str, str | None]] = [(weight, weight) for weight in formats]
    else:
        pairs = [(w, a) for w in formats for a in ([None] if activations is None else list(activations))]
    return list(dict.fromkeys(Design(w, a, helped) for helped in helpers for w, a in pairs))


def _numbers(design: Design) -> tuple[Number, Number]:
    assert design.activation is not None
    return Number.of(design.weight), Number.of(design.activation)
