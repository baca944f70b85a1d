"""The numbers that colour the map of a model: one for each layer, under the method or the variant on the bench."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..engine.compose import compress
from ..errors import Refused
from ..measure import error_cells
from ..model import Layer, Model

if TYPE_CHECKING:
    from .session import Session

FOLLOWS = 0.3  # seconds that a method may take on the selected layer for the map to follow it
MAP_ROWS = 128  # rows of each layer that the map's live error is estimated from
MAP_MEASURES: dict[str, str] = {
    "method": "relative error of the method on the bench, from 128 rows of each layer",
    "variant": "relative error of the active variant",
    "bits": "bits per weight of the active variant",
    "rms": "root mean square of the weights",
    "parameters": "number of weights",
}


def map_values(session: Session, measure: str) -> Iterator[dict[str, float | None]]:
    """Values of all layers, growing as they become known."""
    values: dict[str, float | None] = {}
    for layer in session.model.layers:
        values[layer.name] = _value(session, layer, measure)
        yield values


def _value(session: Session, layer: Layer, measure: str) -> float | None:
    model, variant, method = session.model, session.history.variant, session.method
    if measure == "parameters":
        return float(layer.parameters)
    if measure == "bits":
        compressed = variant.weights.get(layer.name)
        return compressed.bits_per_weight if compressed else layer.dtype.itemsize * 8.0
    try:
        if measure == "variant":
            compressed = variant.weights.get(layer.name)
            if compressed is None:
                return None
            return error_cells(model.base_weight(layer.name), compressed).numbers["relative_error"]
        w = _some_rows(model, layer)
        if measure == "rms":
            return float(w.square().mean().sqrt())
        if method.judge(layer.shape).skip:
            return None
        known = None
        if method.needed:
            if not session.runs_live or session.seconds > FOLLOWS:
                return None
            known = session.statistics(layer, method.needed)
        return error_cells(w, compress(w, [method], known)).numbers["relative_error"]
    except Refused:  # NaN weights: the cell is hatched, selecting the layer says why
        return None


def _some_rows(model: Model, layer: Layer) -> Tensor:
    if layer.transposed or len(layer.stored) > 2 or layer.shape[0] <= MAP_ROWS:
        return model.base_weight(layer.name)[:MAP_ROWS]
    w = model.source.rows(layer.tensor, 0, MAP_ROWS).float()
    if not torch.isfinite(w).all():
        raise Refused(f"{layer.name} has NaN or infinite weights")
    return w
