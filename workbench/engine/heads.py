"""Attention heads: which rows, or columns, of a projection are whose.

What surprises: q, k and v that are fused into one projection lie in its rows in three orders. All of q, then k, then v
(GPT-2, MPT, Phi-3, timm); q, k and v of one head after another (GPT-NeoX, BLOOM); the queries of a group, then its k
and v (Falcon). The configuration names the architecture and with it the order; where it does not, nothing is cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import Refused
from ..model import Layer, Model
from ..spectra import head_matrices

NAMES = ("num_attention_heads", "n_head", "n_heads", "num_heads")  # in configurations and in modules
# `model_type` of configurations, by the order of the rows in transformers' modelling files.
ONE_AFTER_ANOTHER = frozenset({"dbrx", "gpt2", "imagegpt", "mpt", "openai-gpt", "phi3"})
BY_HEAD = frozenset({"bloom", "gpt_neox", "gpt_neox_japanese", "persimmon"})
# Without a `model_type`: timm and the embedded networks, torch.nn.MultiheadAttention. All of q, then k, then v.
PLAIN = re.compile(r"(^|\.)(attn\.qkv|in_proj|in_proj_weight)$")


def heads_of(model: Model, layer: Layer) -> int:
    """How many attention heads the rows of q, k and v (k, v: key-value heads; fused: query heads), or the columns of o,
    belong to; 0 for other layers and where neither configuration nor network says."""
    if layer.role not in ("q", "k", "v", "qkv", "o"):
        return 0
    heads = next((int(model.config[name]) for name in NAMES if model.config.get(name)), 0) or _told(
        model, layer
    )
    if layer.role in ("k", "v"):
        heads = _grouped(model.config, heads)
    return heads


def _grouped(config: Mapping[str, Any], heads: int) -> int:
    """How many key-value heads `heads` query heads share."""
    inner = config.get("attn_config")
    told = config.get("num_key_value_heads") or config.get("num_kv_heads")
    return int(told or (inner.get("kv_n_heads") if isinstance(inner, Mapping) else 0) or heads)


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
    """(role, head, matrix) of each head in w [out, in], in the order of its rows; of a fused layer q, k and v. Refused
    where the heads do not divide it, and where the order of a fused layer's rows is not known."""
    count = heads_of(model, layer)
    if layer.role != "qkv":
        for head, part in enumerate(head_matrices(w, count, columns=layer.role == "o")):
            yield layer.role, head, part
        return
    order = fused_order(model.config, layer.name, count)
    for (role, head), part in zip(order, head_matrices(w, len(order)), strict=True):
        yield role, head, part


def fused_order(config: Mapping[str, Any], name: str, heads: int) -> list[tuple[str, int]]:
    """(role, head) of each head-sized stretch of the rows of a fused projection `name` with `heads` query heads, from
    the first row on. Refused where the configuration does not say which order it is."""
    kind, groups = str(config.get("model_type") or ""), _grouped(config, heads)
    if kind in BY_HEAD:
        return _by_group(heads, heads)
    if kind == "falcon":
        if config.get("new_decoder_architecture"):
            return _by_group(heads, groups)
        return _one_after_another(heads, 1) if config.get("multi_query", True) else _by_group(heads, heads)
    if kind == "gpt_bigcode":
        return _one_after_another(heads, 1) if config.get("multi_query", True) else _by_group(heads, heads)
    if kind in ONE_AFTER_ANOTHER or (not kind and PLAIN.search(name)):
        return _one_after_another(heads, groups)
    what = f"a {kind} model" if kind else "a model whose configuration has no model_type"
    raise Refused(
        f"heads: how q, k and v lie in the rows of {name} is not known for {what}; leave heads out, or choose layers "
        "whose q, k and v are not fused"
    )


def _one_after_another(heads: int, groups: int) -> list[tuple[str, int]]:
    """All queries, all keys, all values."""
    return [
        (role, head) for role, count in (("q", heads), ("k", groups), ("v", groups)) for head in range(count)
    ]


def _by_group(heads: int, groups: int) -> list[tuple[str, int]]:
    """The queries of each group with its key and its value; groups = heads: q, k, v of each head."""
    each = heads // groups
    return [
        (role, head)
        for group in range(groups)
        for role, some in (("q", range(group * each, (group + 1) * each)), ("k", (group,)), ("v", (group,)))
        for head in some
    ]


def check_heads(model: Model, layers: list[Layer]) -> None:
    """Refused where none of these layers has heads, so that whole layers are not taken for them."""
    if not any(heads_of(model, layer) for layer in layers):
        raise Refused(
            f"heads: none of the chosen layers of {model.name} is known to have any; choose q, k, v or o of a model "
            f"whose configuration says {NAMES[0]}, or leave heads out"
        )
