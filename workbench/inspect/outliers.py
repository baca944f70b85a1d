"""Outliers: which input channels are louder than the rest, and what a transform does to them.

One scale has to serve a whole token or tensor of activations. A channel that is a hundred times louder than the median
takes all codes for itself. SmoothQuant and AWQ divide it by s and multiply the columns that read it by s: the
difficulty migrates into the weight, whose rows have a scale each. Xiao et al. 2023, figures 2 to 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..engine import Variant
from ..engine.statistics import Gathering
from ..errors import Refused, near
from ..jobs import Job, in_cell, require
from ..measure import evaluation
from ..methods import Method, Statistics, Transform, storable
from ..model import Layer, Model
from .view import Viewable

if TYPE_CHECKING:
    import plotly.graph_objects as go

LOUD = 6.0  # times the median; LLM.int8() (Dettmers et al. 2022) takes a magnitude of 6 for an outlier
NAMED = 5  # loud channels that a row of the table names
Order = Literal["loudness", "channel"]

OUTLIER_COLUMNS = {
    "name": "layer, as the checkpoint calls it without .weight",
    "role": "q, k, v, o, gate, up, down, ...",
    "inputs": "number of input channels",
    "ratio": "largest over median of max |x| of the input channels, over the calibration data",
    "loud": f"input channels with max |x| over {LOUD:g} times the median",
    "loudest": "index of the loudest input channel",
    "channels": f"indices of the loud ones, the loudest first, {NAMED} at most",
    "weight_ratio": "largest over median of max |w| of the columns, over all layers that read this input",
    "ratio_after": "of x / s, or of the variant's inputs",
    "loud_after": "of x / s, or of the variant's inputs",
    "weight_ratio_after": "of w * s, or of the variant's weights",
}
CHANNEL_COLUMNS = {
    "channel": "input channel, from 0",
    "max_abs": "largest |x| over the calibration data, in the input's units",
    "ratio": "max_abs over its median over the channels that were not silent",
    "weight_max": "largest |w| of the column, over all layers that read this input",
    "max_abs_after": "of x / s",
    "ratio_after": "of x / s",
    "weight_max_after": "of w * s",
}


@dataclass(frozen=True, eq=False)
class Sides:
    """Both sides of one product, by input channel [in]: max |x| and max |w|."""

    inputs: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, weights: Sequence[Tensor], max_abs: Tensor, s: Tensor | None = None) -> Sides:
        """Of the weights [out_i, in] that read one input with these max |x| [in], with s [in] moved between them."""
        largest = torch.stack([w.abs().amax(0) for w in weights]).amax(0).float()
        if s is not None:
            max_abs, largest = max_abs / s, largest * s
        return cls(max_abs.double().numpy(), largest.double().numpy())


class Channels(Viewable):
    """The input channels of one layer, before and, where there is one, after a transform.

    order: the channels of the figure by falling loudness, or as they come.
    """

    def __init__(
        self, before: Sides, after: Sides | None = None, name: str = "layer", order: Order = "loudness"
    ):
        self.before, self.after, self.name, self.order = before, after, name, order

    @classmethod
    def of(
        cls, weights: Tensor | Sequence[Tensor], max_abs: Tensor, s: Tensor | None = None, name: str = "layer"
    ) -> Channels:
        """Of the weights [out_i, in] that read one input, its max |x| [in] and the scales s [in] of a transform."""
        listed = [weights] if isinstance(weights, Tensor) else list(weights)
        if not listed or any(w.shape[1] != len(max_abs) for w in listed):
            shapes = ", ".join(str(tuple(w.shape)) for w in listed)
            raise Refused(
                f"{name}: {len(max_abs)} channels of input do not fit weights [out, in] of {shapes or 'none'}"
            )
        return cls(
            Sides.of(listed, max_abs), None if s is None else Sides.of(listed, max_abs, s.float()), name
        )

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each input channel, columns as in CHANNEL_COLUMNS."""
        columns: dict[str, Any] = {
            "channel": np.arange(len(self.before.inputs)),
            "max_abs": self.before.inputs,
            "ratio": ratios(self.before.inputs),
            "weight_max": self.before.weights,
        }
        if self.after is not None:
            columns |= {
                "max_abs_after": self.after.inputs,
                "ratio_after": ratios(self.after.inputs),
                "weight_max_after": self.after.weights,
            }
        frame = pd.DataFrame(columns)
        frame.attrs["columns"] = {name: CHANNEL_COLUMNS[name] for name in columns}
        return frame

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers of OUTLIER_COLUMNS from `ratio` on."""
        x = ratios(self.before.inputs)
        loud = [int(c) for c in np.argsort(-np.nan_to_num(x), kind="stable") if x[c] > LOUD]
        row: dict[str, Any] = {
            "ratio": _largest(x),
            "loud": len(loud),
            "loudest": int(np.argmax(self.before.inputs)),
            "channels": ", ".join(map(str, loud[:NAMED])),
            "weight_ratio": _largest(ratios(self.before.weights)),
        }
        if self.after is not None:
            x = ratios(self.after.inputs)
            row |= {
                "ratio_after": _largest(x),
                "loud_after": int((x > LOUD).sum()),
                "weight_ratio_after": _largest(ratios(self.after.weights)),
            }
        return row

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures.outliers import channels_figure

        sides = [each and (each.inputs, each.weights) for each in (self.before, self.after)]
        assert sides[0] is not None
        return channels_figure(
            sides[0], sides[1], self.name, by_loudness=self.order == "loudness", theme=theme
        )


class Outliers(Viewable):
    """The input channels of every selected layer. `layer(name)` is one of them, `table` all in short.

    subject: a model, whose inputs are divided by the scales of `transform` where one is given; or a variant, whose own
    inputs (and input scales) are then the side "after". Layers that read one input share their scales, as they do when
    the method is applied. layers: by default all that are neither embedding nor head.
    """

    def __init__(
        self,
        subject: Model | Variant,
        transform: Method | None = None,
        *,
        layers: str = "*",
        calibration: Iterable[Tensor] | None = None,
        job: Job | None = None,
    ):
        _check(subject, transform)
        model = subject.base if isinstance(subject, Variant) else subject
        chosen = [la for la in model.select(layers) if layers != "*" or la.role not in ("embed", "head")]
        batches = (
            evaluation(model, part="calibration").inputs_only() if calibration is None else list(calibration)
        )
        self.name, self.what = model.name, _what(subject, transform)
        self.channels: dict[str, Channels] = {}
        self._roles = {layer.name: layer.role for layer in chosen}
        needs = frozenset({"max_abs"}) | (transform.needed if transform is not None else frozenset())
        before = _heard(model, chosen, needs, batches, job)
        after = None
        if isinstance(subject, Variant):
            after = _heard(subject.model, chosen, frozenset({"max_abs"}), batches, job)
        if not before.found:
            raise Refused(
                f"nothing enters the selected layers of {model.name}: choose others than {layers!r}"
            )
        for group in before.groups:
            readers = [model.layer(layer.name) for layer in group]
            known = before.found[readers[0].name]
            weights = [model.weight(layer.name) for layer in readers]
            sides = Sides.of(weights, _loudness(known))
            changed: Sides | None = None
            if isinstance(transform, Transform):
                s = storable(transform.scales(weights, transform.given(known)))
                changed = Sides.of(weights, _loudness(known), s)
            elif isinstance(subject, Variant) and after is not None:
                changed = _changed(subject, readers, _loudness(after.found[readers[0].name]))
            self.channels |= {layer.name: Channels(sides, changed, layer.name) for layer in readers}

    def layer(self, name: str, order: Order = "loudness") -> Channels:
        """The channels of one layer's input. Refused, with near names, where it was not looked at."""
        if name not in self.channels:
            raise Refused(f"{name!r} is not among the layers that were looked at{near(name, self.channels)}")
        found = self.channels[name]
        return Channels(found.before, found.after, found.name, order)

    @property
    def loudest(self) -> Channels:
        """Those of the layer whose loudest channel is furthest from its median."""
        return max(self.channels.values(), key=lambda each: each.summary["ratio"])

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row for each layer in the order of the model's table, columns as in OUTLIER_COLUMNS."""
        rows = [
            {"name": name, "role": role, "inputs": len(found.before.inputs), **found.summary}
            for name, role in self._roles.items()
            if (found := self.channels.get(name)) is not None
        ]
        frame = pd.DataFrame(rows, columns=[name for name in OUTLIER_COLUMNS if name in rows[0]])
        frame.attrs["columns"] = {name: OUTLIER_COLUMNS[name] for name in frame.columns}
        return frame

    def figure(self, theme: str = "light") -> go.Figure:
        from ..figures.outliers import outliers_figure

        return outliers_figure(self.table, self.what, theme=theme)


@in_cell("outliers")
def outliers(
    subject: Model | Variant,
    transform: Method | None = None,
    *,
    layers: str = "*",
    calibration: Iterable[Tensor] | None = None,
    job: Job | None = None,
) -> Outliers:
    """How loud the input channels of each layer are (max |x| over the median of the channels), before and after the
    scales of a transform such as SmoothQuant() or AWQ(), or before and after a variant."""
    return Outliers(subject, transform, layers=layers, calibration=calibration, job=job)


def ratios(values: np.ndarray) -> np.ndarray:
    """Values [in] >= 0 over their median among those above 0: a silent channel has no say. NaN where all are silent."""
    live = values[values > 0]
    return values / np.median(live) if len(live) else np.full(len(values), np.nan)


def _largest(values: np.ndarray) -> float:
    return float(np.max(values)) if len(values) else float("nan")


def _check(subject: Model | Variant, transform: Method | None) -> None:
    """Refused where there is no such thing as its scales."""
    if transform is None:
        return
    if not isinstance(transform, Transform):
        way = "apply it and give the variant" if transform.whole_model else "take smoothquant or awq"
        raise Refused(f"{transform.label} finds no scales of input channels: {way}")
    if isinstance(subject, Variant):
        raise Refused(f"a variant has its own scales: leave {transform.label} out, or give the model")


def _what(subject: Model | Variant, transform: Method | None) -> str:
    return subject.label if isinstance(subject, Variant) else transform.label if transform is not None else ""


def _heard(
    model: Model, layers: list[Layer], needs: frozenset[str], batches: list[Tensor], job: Job | None
) -> Gathering:
    """What enters these layers, in one pass over the model as it is, and which of them read the same tensor."""
    if "hessian" in needs:
        size = 4 * sum(layer.shape[1] ** 2 for layer in layers)  # float32
        require(size, f"the Hessians of {len(layers)} layers", "choose fewer layers with a selector")
    if not batches:
        raise Refused("the calibration data is empty: give at least one batch")
    gathering, weights = Gathering(needs), model.running
    with model.runner.inputs_of(layers, gathering.hear):
        for done, batch in enumerate(batches):
            if job is not None:
                job.step(done, len(batches), f"{model.name}: {done} of {len(batches)} batches")
            model.runner.logits(batch, weights)
    return gathering


def _loudness(known: Statistics) -> Tensor:
    assert known.max_abs is not None
    return known.max_abs


def _changed(variant: Variant, readers: list[Layer], max_abs: Tensor) -> Sides:
    """Of a variant: what its layers read, divided by the input scale where it was not folded away."""
    model = variant.model
    made = [variant.weights.get(layer.name) for layer in readers]
    scales = [None if each is None else each.input_scale for each in made]
    weights = [model.weight(layer.name) for layer in readers]
    weights = [w if s is None else w * s.float() for w, s in zip(weights, scales, strict=True)]
    s = scales[0]
    return Sides(
        (max_abs if s is None else max_abs / s.float()).double().numpy(), Sides.of(weights, max_abs).weights
    )
