"""Plan: what a recipe will do to a model, layer by layer, before anything is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import Refused
from ..grid.detect import FoundGrid, find_grid, sample_rows
from ..methods import Method, Transform
from ..model import Layer, Model
from . import compose
from .compose import added
from .recipe import Recipe

if TYPE_CHECKING:
    import pandas as pd

SPARED = ("embed", "head")  # left alone by "*": few weights, much harm, and kept in float by the engines


@dataclass(frozen=True)
class PlannedLayer:
    """The methods for one layer in order (at most one of a kind), or the reason why it is skipped, and notes."""

    layer: Layer
    methods: tuple[Method, ...] = ()
    skip: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """One entry for each layer that the recipe's selectors match, in the order of the model."""

    recipe: Recipe
    layers: tuple[PlannedLayer, ...]

    @property
    def work(self) -> list[PlannedLayer]:
        return [planned for planned in self.layers if planned.methods]

    @property
    def skipped(self) -> list[PlannedLayer]:
        return [planned for planned in self.layers if not planned.methods]

    @property
    def needs(self) -> frozenset[str]:
        """The statistics that calibration has to collect."""
        return frozenset(
            need for planned in self.work for method in planned.methods for need in method.needed
        )

    @property
    def by_block(self) -> bool:
        """Whether a method works on whole blocks."""
        return any(method.works_on == "block" for planned in self.work for method in planned.methods)

    @property
    def peak_bytes(self) -> int:
        """A forecast: the codes of every layer, and what the work itself takes."""
        return sum(planned.layer.parameters for planned in self.work) + self.working_bytes

    @property
    def working_bytes(self) -> int:
        """The largest layer a few times over in float32: what is needed where finished layers are kept in files."""
        return 16 * max((planned.layer.parameters for planned in self.work), default=0)

    @property
    def table(self) -> pd.DataFrame:
        """name, method, skip (the reason, empty where it is worked on) and note of each layer."""
        import pandas as pd

        rows = [
            {
                "name": p.layer.name,
                "method": " + ".join(m.label for m in p.methods),
                "skip": p.skip,
                "note": "; ".join(p.notes),
            }
            for p in self.layers
        ]
        return pd.DataFrame(rows, columns=["name", "method", "skip", "note"])

    def describe(self) -> list[str]:
        """The plan in a few lines: how many layers, and each reason to skip or note once with its layers."""
        lines = [
            f"{len(self.work)} layers, {len(self.skipped)} skipped, about {self.peak_bytes / 1e6:.0f} MB of memory"
        ]
        said: dict[str, list[str]] = {}
        for planned in self.layers:
            for text in filter(None, (planned.skip and f"skipped: {planned.skip}", *planned.notes)):
                said.setdefault(text, []).append(planned.layer.name)
        for text, names in said.items():
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            lines.append(f"{text} ({shown})")
        return lines


def plan(model: Model, recipe: Recipe) -> Plan:
    """Resolve selectors, judge every layer; reads a few rows of each layer to recognise grids.

    Raises Refused for a selector that matches nothing, and where nothing is left to do.
    """
    if not isinstance(model, Model) or not isinstance(recipe, Recipe):
        given = ", ".join(type(thing).__name__ for thing in (model, recipe))
        raise Refused(
            f"a plan is of a Model and a Recipe, not of {given}: wb.load(...), wb.Recipe([wb.RTN(bits=4)])"
        )
    methods: dict[str, tuple[Method, ...]] = {}
    spared: dict[str, str] = {}
    for step in recipe:
        named = [part.strip() for part in step.layers.split(",")]
        for layer in model.select(step.layers):
            if layer.role in SPARED and named == ["*"]:
                tie = f" and tied with {', '.join(layer.tied)}" if layer.tied else ""
                spared[layer.name] = (
                    f"{layer.role}{tie}: '*' leaves it alone, name it to change it (role:{layer.role})"
                )
                continue
            try:
                methods[layer.name] = added(methods.get(layer.name, ()), step.method)
            except Refused as reason:
                raise Refused(f"{layer.name}: {reason}") from None
    entries = []
    for layer in model.layers:
        if layer.name in methods:
            entries.append(_judged(model, layer, methods[layer.name]))
        elif layer.name in spared:
            entries.append(PlannedLayer(layer, skip=spared[layer.name]))
    made = Plan(recipe, tuple(entries))
    if entries and not made.work:
        raise Refused(f"nothing to do on {model.name}: {'; '.join(made.describe()[1:])}")
    return made


def _judged(model: Model, layer: Layer, methods: Sequence[Method]) -> PlannedLayer:
    skips, notes, kept = [], compose.notes(methods), []
    if layer.tied:
        notes.append(f"tied: {layer.name} and {', '.join(layer.tied)} change together")
    sample, found = _grid_of(model, layer) if any(m.kind == "quantize" for m in methods) else (None, None)
    for method in methods:
        verdict = method.judge(layer.shape)
        reason = verdict.skip or _not_for_kernels(layer, method, methods)
        if not reason and layer.role == "embed" and (method.needed or method.works_on == "block"):
            reason = f"an embedding reads no inputs that {method.label} could be calibrated on"
        if sample is not None and found is not None and method.kind == "quantize":
            if not reason and _changes_nothing(method, sample):
                reason = reason or f"{found}: {method.label} would change nothing"
            else:
                notes.append(f"{found}: comparisons on them mislead")
        if verdict.note:
            notes.append(verdict.note)
        if reason:
            skips.append(reason)
        else:
            kept.append(method)
    # A method that is skipped on a layer that another one still works on is a note there.
    if kept:
        return PlannedLayer(layer, tuple(kept), notes=tuple([*notes, *(f"not done: {s}" for s in skips)]))
    return PlannedLayer(layer, skip="; ".join(skips), notes=tuple(notes))


def _not_for_kernels(layer: Layer, method: Method, methods: Sequence[Method]) -> str:
    """Why a method cannot work on a convolution: its input has one value for a channel, its columns are channel x
    kernel; empty where it can."""
    if len(layer.stored) < 4:
        return ""
    if isinstance(method, Transform) and method.kind == "transform":
        return "the columns of a convolution are channel x kernel: its input cannot be divided by a scale for each"
    if method.kind == "activation" and any(
        isinstance(each, Transform) and each.kind == "quantize" for each in methods
    ):
        return (
            "a convolution's input cannot be divided by a scale for each column of the kernel: it stays float"
        )
    return ""


def _grid_of(model: Model, layer: Layer) -> tuple[Tensor | None, FoundGrid | None]:
    """A few rows of the layer, and the grid that they lie on."""
    if layer.name in model.overlays:
        return None, None
    rows = sample_rows(layer.shape[0])
    if layer.transposed or len(layer.stored) > 2:
        sample = layer.to_matrix(model.source.read(layer.tensor))[rows]
    else:
        # A few consecutive rows are one read of the file; spread ones would touch every page.
        sample = model.source.rows(layer.tensor, 0, len(rows))
    return sample, find_grid(sample)


def _changes_nothing(method: Method, sample: Tensor) -> bool:
    """Whether rows that lie on a grid lie on the method's own: rounded again, they move by less than a tenth of a
    step (the scale is stored anew). A scale shared by all rows cannot be told from a sample: it is new."""
    if method.needed or not torch.isfinite(sample).all():
        return False
    rows = sample.float().contiguous()
    made = method.compress(rows)
    scales = made.scales
    if scales is None or made.blocks.rows > 1:
        return False
    moved = (made.dequantize() - rows).abs() > 0.1 * made.blocks.expand(scales).abs()
    return moved.float().mean().item() < 0.01
