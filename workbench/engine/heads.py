"""Attention heads: which rows, or columns, of a projection are whose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import Refused
from ..model import Layer, Model
from ..spectra import head_matrices

NAMES = ("num_attention_heads", "n_head", "n_heads", "num_heads")  # in configurations and in modules


def heads_of(model: Model, layer: Layer) -> int:
    """How many attention heads the rows of q, k and v (k, v: key-value heads; fused: query heads), or the columns of o,
    belong to; 0 for other layers and where neither configuration nor network says."""
    if layer.role not in ("q", "k", "v", "qkv", "o"):
        return 0
    heads = next((int(model.config[name]) for name in NAMES if model.config.get(name)), 0) or _told(
        model, layer
    )
    if layer.role in ("k", "v"):
        heads = int(model.config.get("num_key_value_heads") or heads)
    return heads


def _told(model: Model, layer: Layer) -> int:
    """What the module that the layer lies in says of its heads."""
    if model.task is None:  # nothing runs it
        return 0
    try:
        module = model.runner.module.get_submodule(layer.name.rpartition(".")[0])
    except AttributeError:  # the network has other names than the checkpoint
        return 0
    found = (getattr(module, name, None) for name in (*NAMES, "heads"))
    return next((count for count in found if isinstance(count, int)), 0)


def heads_in(model: Model, layer: Layer, w: Any) -> Iterator[tuple[str, int, np.ndarray]]:
    """(role, head, matrix) of each head in w [out, in]; q, k and v one after another where they are fused. Refused
    where the heads do not divide it."""
    count = heads_of(model, layer)
    if layer.role != "qkv":
        for head, part in enumerate(head_matrices(w, count, columns=layer.role == "o")):
            yield layer.role, head, part
        return
    grouped = int(model.config.get("num_key_value_heads") or count)
    parts = iter(head_matrices(w, count + 2 * grouped))
    for role, heads in (("q", count), ("k", grouped), ("v", grouped)):
        for head in range(heads):
            yield role, head, next(parts)


def check_heads(model: Model, layers: list[Layer]) -> None:
    """Refused where none of these layers has heads, so that whole layers are not taken for them."""
    if not any(heads_of(model, layer) for layer in layers):
        raise Refused(
            f"heads: none of the chosen layers of {model.name} is known to have any; choose q, k, v or o of a model "
            f"whose configuration says {NAMES[0]}, or leave heads out"
        )
