"""Variant: a recipe applied to a model. And `apply`, the only loop over the layers of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import Refused
from ..grid import CompressedWeight
from ..jobs import Cancelled, Job, require
from ..methods import Method, Statistics
from ..model import Model
from .plan import Plan, plan
from .recipe import Recipe
from .statistics import collect

CHECKED_FIRST = (
    10**9
)  # weights that are read once more to look for NaN; beyond, a layer is refused when it comes


@dataclass(frozen=True)
class Variant:
    """What a recipe made of a model: the changed weights by layer, and the methods that made each.

    `partial` marks one that was cancelled: it holds the layers that were finished. `measures` are the numbers of
    the model, once somebody has measured it (`workbench.inspect`).
    """

    base: Model
    recipe: Recipe
    weights: Mapping[str, CompressedWeight] = field(default_factory=dict)
    methods: Mapping[str, tuple[Method, ...]] = field(default_factory=dict)
    partial: bool = False
    measures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        """The base under this variant's weights."""
        return self.base.with_overlays(self.weights)

    def method_label(self, layer: str) -> str:
        """What was done to a layer, in short; empty where nothing was."""
        return " + ".join(method.label for method in self.methods.get(layer, ()))

    @property
    def label(self) -> str:
        return self.recipe.label + (" (partial)" if self.partial else "")


def apply(
    model: Model,
    recipe: Recipe,
    *,
    calibration: Iterable[Tensor] | None = None,
    job: Job | None = None,
    resume: Variant | None = None,
) -> Variant:
    """Apply a recipe to every layer that its plan lists, in order. Deterministic.

    `calibration` are batches of inputs, needed where a method needs statistics. `job` hears of progress by layer
    and cancels between layers: the finished ones are returned as a partial variant. `resume` is a variant of the
    same model: a layer that the same methods made there is taken as it is, so that a cancelled run goes on, and
    a change of one layer costs one layer.

    Raises Refused before the work starts where the recipe cannot be applied.
    """
    planned = plan(model, recipe)
    require(planned.peak_bytes, recipe.label, "choose fewer layers with a selector, or close other programs")
    work = {entry.layer.name: entry.methods for entry in planned.work}
    weights, methods = dict(model.overlays), {}
    for name in work:
        if resume is not None and resume.methods.get(name) == work[name]:
            weights[name], methods[name] = resume.weights[name], work[name]
    todo = [name for name in work if name not in methods]
    if sum(model.layer(name).parameters for name in todo) <= CHECKED_FIRST:
        for name in todo:
            model.weight(name)  # refuses NaN, before anything has been worked on
    partial = False
    try:
        statistics = _calibrate(model, planned, todo, calibration, job)
        for done, name in enumerate(todo):
            if job is not None:
                job.step(done, len(todo), name)
            weights[name] = compress(model.weight(name), work[name], statistics.get(name))
            methods[name] = work[name]
        if job is not None:
            job.done = job.total = len(todo)
    except Cancelled:
        partial = True
    return Variant(model.base, recipe, weights, methods, partial)


def compress(w: Tensor, methods: Iterable[Method], statistics: Statistics | None = None) -> CompressedWeight:
    """One weight [out, in] through methods of different kinds: each sees what the one before it left, and the
    mask of a pruner stays on the codes of a quantizer, whichever came first."""
    made: CompressedWeight | None = None
    for method in methods:
        step = method.compress(w if made is None else made.dequantize(), statistics)
        if made is None:
            made = step
        elif method.kind == "prune":
            made = made.with_mask(step.mask, step.n_m)
        else:
            made = step.with_mask(made.mask, made.n_m)
    if made is None:
        raise Refused("no method was given: a recipe's step names one")
    return made


def _calibrate(
    model: Model, planned: Plan, todo: list[str], batches: Iterable[Tensor] | None, job: Job | None
) -> dict[str, Statistics]:
    """Statistics of the layers that are still to do and whose methods need them."""
    listening = [p for p in planned.work if p.layer.name in todo and any(m.needs for m in p.methods)]
    layers = [entry.layer for entry in listening]
    if not layers:
        return {}
    if batches is None:
        raise Refused(
            f"{planned.recipe.label} needs {', '.join(sorted(planned.needs))} of the inputs: give calibration"
        )
    listed = list(batches)

    def step(done: int) -> None:
        if job is not None:
            job.step(0, len(todo), f"calibrating {done} of {len(listed)}")

    found = collect(model, layers, planned.needs, listed, step)
    missing = [layer.name for layer in layers if layer.name not in found]
    if missing:
        raise Refused(f"calibration saw no input of {', '.join(missing[:3])}: leave them out with a selector")
    return found
