"""Variant: a recipe applied to a model. And `apply`, the only loop over the layers of a model."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import Refused
from ..files.kept import Kept
from ..grid import CompressedWeight
from ..jobs import Cancelled, Job, in_cell, require
from ..methods import Method, Statistics
from ..model import Model
from .compose import compared, compress
from .fold import equalized
from .plan import Plan, plan
from .recipe import Recipe
from .walk import Prefix, Walk, check_rank, too_large

# Weights that are read once more to look for NaN; beyond, a layer is refused when it comes.
CHECKED_FIRST = 10**9


@dataclass(frozen=True)
class Variant:
    """What a recipe made of a model: the changed weights by layer, and the methods that made each.

    `partial` marks one that was cancelled: it holds the layers that were finished. `measures` are the numbers of
    the model, once somebody has measured it (`workbench.inspect`). `vectors` are other tensors that transforms have
    changed (norm gains, biases), by their name in the checkpoint. `notes` are sentences about the run, `run` is what it
    depended on beside the recipe.
    """

    base: Model
    recipe: Recipe
    weights: Mapping[str, CompressedWeight] = field(default_factory=dict)
    methods: Mapping[str, tuple[Method, ...]] = field(default_factory=dict)
    partial: bool = False
    measures: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    run: Mapping[str, str] = field(default_factory=dict)

    @property
    def warnings(self) -> dict[str, tuple[str, ...]]:
        """What the methods warn of, by layer: above all where they lost to round-to-nearest."""
        return {n: self.weights[n].report.warnings for n in self.methods if self.weights[n].report.warnings}

    @property
    def model(self) -> Model:
        """The base under this variant's weights."""
        return self.base.with_overlays(self.weights, self.vectors)

    def method_label(self, layer: str) -> str:
        """What was done to a layer, in short; empty where nothing was."""
        return " + ".join(method.label for method in self.methods.get(layer, ()))

    @property
    def label(self) -> str:
        return self.recipe.label + (" (partial)" if self.partial else "")


@in_cell("apply")
def apply(
    model: Model,
    recipe: Recipe,
    *,
    calibration: Iterable[Tensor] | None = None,
    prefix: Prefix = "compressed",
    keep: str | os.PathLike | None = None,
    job: Job | None = None,
    resume: Variant | None = None,
) -> Variant:
    """Apply a recipe to every layer that its plan lists, in order. Deterministic.

    `calibration` are batches of inputs, needed where a method needs statistics: the model is then walked block by
    block, and each block is calibrated on what the compressed ones before it hand on (`prefix="original"`: on what the
    unchanged ones do). `keep` is a folder where each finished layer is saved; the same call after a kill goes on from
    there. `job` hears of progress by layer and cancels between layers (and between the steps of a long optimisation):
    the finished ones are returned as a partial variant. `resume` is a variant of the same model: a layer that the same
    methods made there is taken as it is, where nothing before it differs.

    Raises Refused before the work starts where the recipe cannot be applied.
    """
    planned = plan(model, recipe)
    work = {entry.layer.name: entry.methods for entry in planned.work}
    given = None if calibration is None else list(calibration)
    batches = _calibration(planned, given)
    _refuse_early(model, planned, batches, keep is not None)
    model = equalized(model, planned, given[0][:1] if given else None)
    run = _run_of(model, batches, prefix)
    done = _reusable(model, planned, resume, run)
    kept = None if keep is None else Kept(keep, {**run, "recipe": recipe.to_yaml()}, list(work))
    done |= dict(kept.finished()) if kept is not None else {}
    if sum(model.layer(name).parameters for name in work if name not in done) <= CHECKED_FIRST:
        for name in work:
            if name not in done:
                model.weight(name)  # refuses NaN, before anything has been worked on
    weights: dict[str, CompressedWeight] = {}
    walk = Walk(model, work, batches or (), prefix, done, too_large(model), job)
    partial = False
    if job is not None:
        job.done, job.total = 0, len(work)
    try:
        for name, made in (
            walk.run() if batches and len(done) < len(work) else _plainly(model, work, done, job)
        ):
            if kept is not None:
                made = kept.put(name, made)
            weights[name] = made
            if job is not None:
                job.done = len(weights)
    except Cancelled:
        partial = True
    notes = tuple(f"{name}: no calibration input reached it, it stays as it was" for name in walk.unheard)
    if any(method.whole_model for methods in work.values() for method in methods):
        notes += (
            "the ranges of joined layers were shared first: errors against the unchanged weights mean nothing",
        )
    methods = {name: work[name] for name in weights}
    return Variant(
        model.base, recipe, {**model.overlays, **weights}, methods, partial, notes=notes, vectors=model.vectors, run=run
    )  # fmt: skip


def _refuse_early(model: Model, planned: Plan, batches: Sequence[Tensor], kept: bool) -> None:
    """Refused where memory or the calibration data will not do."""
    if kept:
        needed, way_out = (
            planned.working_bytes,
            "choose fewer layers with a selector, or close other programs",
        )
    else:
        needed, way_out = (
            planned.peak_bytes,
            "keep finished layers in a folder, or choose fewer with a selector",
        )
    require(needed, planned.recipe.label, way_out)
    # Elsewhere a row is no token: the walk looks when it comes there.
    if batches and model.task == "language":
        for entry in planned.work:
            check_rank(entry.layer, entry.methods, sum(batch.numel() for batch in batches))


def _plainly(
    model: Model, work: Mapping[str, Sequence[Method]], done: Mapping[str, CompressedWeight], job: Job | None
) -> Iterator[tuple[str, CompressedWeight]]:
    """Layer by layer, where no method asks for data."""
    yield from done.items()
    for index, name in enumerate(name for name in work if name not in done):
        if job is not None:
            job.step(len(done) + index, len(work), name)
        w = model.weight(name)
        made = compress(w, work[name])
        yield name, made.with_report(compared(w, made, work[name], Statistics()))


def _calibration(planned: Plan, batches: Iterable[Tensor] | None) -> list[Tensor]:
    """The calibration batches where a method needs them; else none."""
    if not planned.needs and not planned.by_block:
        return []
    if batches is None:
        needs = ", ".join(sorted(planned.needs)) or "inputs of whole blocks"
        raise Refused(f"{planned.recipe.label} needs {needs} of the inputs: give calibration")
    listed = list(batches)
    if not listed or not sum(len(batch) for batch in listed):
        raise Refused(f"{planned.recipe.label}: the calibration data is empty: give at least one batch")
    return listed


def _reusable(
    model: Model, planned: Plan, resume: Variant | None, run: Mapping[str, str]
) -> dict[str, CompressedWeight]:
    """Layers of an earlier variant that would come out the same: made by the same methods and, where data matters, on
    the same data behind layers that are the same too."""
    found: dict[str, CompressedWeight] = {}
    if resume is None or resume.base.source is not model.base.source:
        return found
    depends = bool(planned.needs or planned.by_block)
    if depends and dict(resume.run) != dict(run):
        return found
    work = {entry.layer.name: entry.methods for entry in planned.work}
    for layer in model.layers:
        now, before = work.get(layer.name, ()), resume.methods.get(layer.name, ())
        if now == before and now:
            found[layer.name] = resume.weights[layer.name]
        elif now != before and depends:
            break
    return found


def _run_of(model: Model, batches: Sequence[Tensor], prefix: Prefix) -> dict[str, str]:
    """What a run depends on beside its recipe, so that layers of another run are told apart."""
    return {
        "model": f"{model.name}, {model.source.origin}",
        "changed": _digest([*sorted(model.overlays.items()), *sorted(model.vectors.items())]),
        "calibration": _digest(batches),
        "prefix": prefix,
    }


def _digest(parts: Any) -> str:
    """Of tensors inside lists, tuples and compressed weights; "none" of nothing."""
    digest = hashlib.sha256()

    def take(part: Any) -> None:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype}{list(part.shape)}".encode())
            digest.update(part.detach().contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(part, list | tuple):
            for each in part:
                take(each)
        elif isinstance(part, CompressedWeight):
            take([part.codes, part.scale, part.zero, part.mask, part.input_scale, part.order, part.shift])
            take([] if part.patch is None else [part.patch.columns, part.patch.values])
            digest.update(repr((part.grid, part.inputs)).encode())
        elif part is not None:
            digest.update(repr(part).encode())

    take(parts)
    return digest.hexdigest() if len(parts) else "none"
