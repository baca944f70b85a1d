"""What a model costs to store: bits per weight and bytes, counted over its layers."""

from __future__ import annotations

from collections.abc import Mapping

from ..grid import CompressedWeight
from ..model import Model

UNCOUNTED = ("embed", "head")  # where unchanged: "W4" in the literature is said of the linear layers


def storage(model: Model, weights: Mapping[str, CompressedWeight]) -> dict[str, float]:
    """{"bits_per_weight", "bytes"} of the model with these weights changed; see MODEL_COLUMNS for what counts."""
    bits = counted = nbytes = 0.0
    for layer in model.layers:
        compressed = weights.get(layer.name)
        size = (
            sum(compressed.storage_bits().values())
            if compressed
            else layer.parameters * layer.dtype.itemsize * 8
        )
        nbytes += size / 8
        if compressed or layer.role not in UNCOUNTED:
            bits, counted = bits + size, counted + layer.parameters
    if not counted:
        bits, counted = nbytes * 8, model.parameters
    return {"bits_per_weight": bits / counted, "bytes": round(nbytes)}
