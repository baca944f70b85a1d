"""The symmetry of a model: which of its hidden units may change places, read from the names of its tensors.

Four families are known: stacks of linear layers (MLP), residual networks with torchvision's names (batch norm), vision
transformers with timm's, and Llama-like decoders. All layers that add into one residual stream share one permutation,
with the norms on it and the embedding. Heads move as wholes: where queries are grouped, a key-value head with its
queries, which also have an order among themselves. Inside a head the rows of v and the columns of o may be permuted,
and those of q and k, but not under rotary positions (RoPE): each pair of their dimensions turns at a speed of its own.

A fused q, k, v is three tensors here, called NAME#q, NAME#k, NAME#v.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ..errors import Refused
from ..model import Model
from ..spectra.alignment import Group, Symmetry
from ..spectra.alignment.symmetry import Axis, Part

SUPPORTED = "MLPs, ResNets (torchvision's names), vision transformers (timm's), Llama-like decoders"
FUSED = re.compile(r"\.qkv\.(weight|bias)$")
COUNTERS = re.compile(
    r"(num_batches_tracked|inv_freq|position_ids)$"
)  # no values that a permutation concerns
RUNNING = re.compile(r"\.running_(mean|var)$")

Shapes = Mapping[str, tuple[int, ...]]


def symmetry_of(model: Model) -> Symmetry:
    """Every permutation of hidden units that is known to leave the model's function as it is.

    Raises Refused, with what is supported, for a model of another family or one tensor too many."""
    shapes = _shapes(model)
    for marks, family in FAMILIES:
        if all(any(re.search(mark, name) for name in shapes) for mark in marks):
            groups, axes = family(model, shapes)
            break
    else:
        groups, axes = _mlp(model, shapes)
    unknown = [name for name in shapes if name not in axes]
    if unknown:
        raise Refused(
            f"{model.name}: nothing is known of {unknown[0]}: permutations are known for {SUPPORTED}"
        )
    found = Symmetry(groups, axes, frozenset(name for name in axes if RUNNING.search(name)))
    for name, shape in shapes.items():
        if found.shape(name) != shape:
            raise Refused(
                f"{model.name}: {name} is {list(shape)}, where {list(found.shape(name))} would fit its kind"
            )
    return found


def tensors_of(model: Model) -> dict[str, np.ndarray]:
    """Every tensor that the symmetry speaks of, float64, with the model's overlays. Refused for NaN or Inf."""
    found: dict[str, np.ndarray] = {}
    for name in model.source:
        if COUNTERS.search(name):
            continue
        value = _now(model, name).double().cpu().numpy()
        if not np.isfinite(value).all():
            raise Refused(
                f"{name} of {model.name} holds NaN or Inf: mend the checkpoint, nothing can be matched"
            )
        found.update(
            zip(_parts(name), np.split(value, 3), strict=True) if FUSED.search(name) else [(name, value)]
        )
    return found


def joined(tensors: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The tensors under the checkpoint's names: fused ones put together again. float64."""
    names = dict.fromkeys(name.partition("#")[0] for name in tensors)
    return {
        name: torch.from_numpy(
            np.ascontiguousarray(
                tensors[name] if name in tensors else np.concatenate([tensors[part] for part in _parts(name)])
            )
        )
        for name in names
    }


def _now(model: Model, name: str) -> Tensor:
    """A tensor as the model has it, in the source's shape."""
    if name in model.vectors:
        return model.vectors[name]
    for layer in model.layers:
        if layer.tensor == name and layer.name in model.overlays:
            return layer.to_tensor(model.overlays[layer.name].dequantize())
    return model.source.read(name)


def _parts(name: str) -> list[str]:
    return [f"{name}#{part}" for part in "qkv"]


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, info in model.source.tensors().items():
        if COUNTERS.search(name):
            continue
        if FUSED.search(name):
            found |= {part: (info.shape[0] // 3, *info.shape[1:]) for part in _parts(name)}
        else:
            found[name] = info.shape
    return found


# The families: (groups, axes) of each.

Made = tuple[dict[str, Group], dict[str, tuple[Axis, ...]]]


class _Making:
    """Groups and axes as they are found."""

    def __init__(self, shapes: Shapes):
        self.shapes = shapes
        self.groups: dict[str, Group] = {}
        self.axes: dict[str, tuple[Axis, ...]] = {}

    def group(self, name: str, size: int, parent: str | None = None) -> str:
        self.groups[name] = Group(size, parent)
        return name

    def put(self, name: str, *axes: Part | Axis) -> None:
        """A tensor, where there is one: axes that are not named stay as they are."""
        if name in self.shapes:
            given = [axis if isinstance(axis, tuple) else (axis,) for axis in axes]
            self.axes[name] = (*given, *((size,) for size in self.shapes[name][len(given) :]))

    def rows(self, name: str) -> int:
        if name not in self.shapes:
            raise Refused(f"{name} is missing: permutations are known for {SUPPORTED}")
        return self.shapes[name][0]

    def columns(self, name: str) -> int:
        self.rows(name)
        return self.shapes[name][1]

    def linear(self, name: str, out: Part | Axis, into: Part | Axis) -> None:
        self.put(f"{name}.weight", out, into)
        self.put(f"{name}.bias", out)

    def norm(self, name: str, on: Part | Axis) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            self.put(f"{name}.{part}", on)

    @property
    def made(self) -> Made:
        return self.groups, self.axes


def _mlp(model: Model, shapes: Shapes) -> Made:
    """Linear layers one after the other, in the order of their numbers, a head last."""
    make = _Making(shapes)
    weights = [name.removesuffix(".weight") for name in shapes if len(shapes[name]) == 2]
    heads = {layer.name for layer in model.layers if layer.role == "head"}
    weights.sort(
        key=lambda name: (name in heads, [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    )
    into: Part = make.columns(f"{weights[0]}.weight") if weights else 0
    for place, name in enumerate(weights):
        rows, columns = shapes[f"{name}.weight"]
        if columns != _size(make, into) or len(weights) < 2:
            raise Refused(
                f"{model.name}: {name} [{rows}, {columns}] does not follow on {_size(make, into)} units; "
                f"permutations are known for {SUPPORTED}"
            )
        out: Part = rows if place == len(weights) - 1 else make.group(f"{name} units", rows)
        make.linear(name, out, into)
        into = out
    if not weights:
        raise Refused(f"{model.name} has no linear layer: permutations are known for {SUPPORTED}")
    return make.made


def _size(make: _Making, part: Part) -> int:
    return part if isinstance(part, int) else make.groups[part].size


def _resnet(model: Model, shapes: Shapes) -> Made:
    """A stem, stages of residual blocks (two or three convolutions), a head. A block with a projection on its shortcut
    begins a new stream; all blocks until the next one add into it."""
    make = _Making(shapes)
    stream = make.group("stream 0", make.rows("conv1.weight"))
    make.linear("conv1", stream, make.columns("conv1.weight"))
    make.norm("bn1", stream)
    for block in _numbered(shapes, r"^(layer\d+\.\d+)\.conv1\.weight$"):
        before = stream
        last = max(k for k in (2, 3) if f"{block}.conv{k}.weight" in shapes)
        if f"{block}.downsample.0.weight" in shapes:
            stream = make.group(f"stream {block}", make.rows(f"{block}.conv{last}.weight"))
            make.linear(f"{block}.downsample.0", stream, before)
            make.norm(f"{block}.downsample.1", stream)
        into = before
        for k in range(1, last + 1):
            conv = f"{block}.conv{k}"
            out = stream if k == last else make.group(f"{conv} channels", make.rows(f"{conv}.weight"))
            make.linear(conv, out, into)
            make.norm(f"{block}.bn{k}", out)
            into = out
    make.linear("fc", make.rows("fc.weight"), stream)
    return make.made


def _vit(model: Model, shapes: Shapes) -> Made:
    """Pre-norm encoder: patches and positions make the stream, each block has heads and hidden units."""
    make = _Making(shapes)
    stream = make.group("stream", make.rows("patch_embed.proj.weight"))
    make.linear("patch_embed.proj", stream, make.columns("patch_embed.proj.weight"))
    for name in ("pos_embed", "cls_token"):
        make.put(name, 1, shapes.get(name, (1, 1))[1], stream)
    for block in _numbered(shapes, r"^(blocks\.\d+)\.attn\.qkv\.weight#q$"):
        heads = _heads(model, f"{block}.attn")
        rows = make.rows(f"{block}.attn.qkv.weight#q")
        head = make.group(f"{block} heads", heads)
        qk = make.group(f"{block} q, k in the head", rows // heads, head)
        vo = make.group(f"{block} v, o in the head", rows // heads, head)
        make.norm(f"{block}.norm1", stream)
        for part, inside in zip("qkv", (qk, qk, vo), strict=True):
            make.put(f"{block}.attn.qkv.weight#{part}", (head, inside), stream)
            make.put(f"{block}.attn.qkv.bias#{part}", (head, inside))
        make.linear(f"{block}.attn.proj", stream, (head, vo))
        make.norm(f"{block}.norm2", stream)
        hidden = make.group(f"{block} hidden units", make.rows(f"{block}.mlp.fc1.weight"))
        make.linear(f"{block}.mlp.fc1", hidden, stream)
        make.linear(f"{block}.mlp.fc2", stream, hidden)
    make.norm("norm", stream)
    make.linear("head", make.rows("head.weight"), stream)
    return make.made


def _heads(model: Model, name: str) -> int:
    """Heads of one attention: no tensor tells, the network does."""
    module = model.runner.module.get_submodule(name)
    heads = getattr(module, "num_heads", getattr(module, "heads", None))
    if not isinstance(heads, int):
        raise Refused(f"{model.name}: {name} does not say how many heads it has (num_heads)")
    return heads


def _llama(model: Model, shapes: Shapes) -> Made:
    """RMSNorm, rotary positions, gated feed-forward, grouped queries or not, head tied or not."""
    make = _Making(shapes)
    p = next(name for name in shapes if name.endswith("embed_tokens.weight")).removesuffix(
        "embed_tokens.weight"
    )
    stream = make.group("stream", make.columns(f"{p}embed_tokens.weight"))
    make.put(f"{p}embed_tokens.weight", make.rows(f"{p}embed_tokens.weight"), stream)
    queries = model.config.get("num_attention_heads")
    if not isinstance(queries, int):
        raise Refused(
            f"{model.name}: its configuration does not say num_attention_heads: give the directory with it"
        )
    grouped = model.config.get("num_key_value_heads") or queries
    for block in _numbered(shapes, rf"^({re.escape(p)}layers\.\d+)\.self_attn\.q_proj\.weight$"):
        attention, size = f"{block}.self_attn", make.rows(f"{block}.self_attn.q_proj.weight") // queries
        kv = make.group(f"{block} key-value heads", grouped)
        per = queries // grouped
        head: Part = make.group(f"{block} queries of a key-value head", per, kv) if per > 1 else 1
        vo = make.group(f"{block} v, o in the head", size, kv)
        make.linear(f"{attention}.q_proj", (kv, head, size), stream)
        make.linear(f"{attention}.k_proj", (kv, size), stream)
        make.linear(f"{attention}.v_proj", (kv, vo), stream)
        make.put(f"{attention}.o_proj.weight", stream, (kv, head, vo))
        make.put(f"{attention}.o_proj.bias", stream)
        for norm in ("q_norm", "k_norm"):
            make.put(f"{attention}.{norm}.weight", size)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            make.norm(f"{block}.{norm}", stream)
        hidden = make.group(f"{block} hidden units", make.rows(f"{block}.mlp.up_proj.weight"))
        for name in ("gate_proj", "up_proj"):
            make.linear(f"{block}.mlp.{name}", hidden, stream)
        make.linear(f"{block}.mlp.down_proj", stream, hidden)
    make.norm(f"{p}norm", stream)
    make.put("lm_head.weight", shapes.get("lm_head.weight", (0,))[0], stream)
    return make.made


def _numbered(shapes: Shapes, pattern: str) -> list[str]:
    """What the pattern's group matches, in the order of the numbers in it."""
    found = {match[1] for name in shapes if (match := re.search(pattern, name))}
    return sorted(found, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


FAMILIES: tuple[tuple[tuple[str, ...], Callable[[Model, Shapes], Made]], ...] = (
    ((r"embed_tokens\.weight$", r"self_attn\.q_proj\.weight$", r"mlp\.gate_proj\.weight$"), _llama),
    ((r"^patch_embed\.proj\.weight$", r"attn\.qkv\.weight#q$", r"mlp\.fc1\.weight$"), _vit),
    ((r"^conv1\.weight$", r"^layer1\.0\.conv1\.weight$", r"^bn1\.weight$", r"^fc\.weight$"), _resnet),
)


def described(symmetry: Symmetry) -> list[dict[str, object]]:
    """A row for each group: its size, where it lies, how many permutations it has (log10), tensors that it moves."""
    rows = []
    for name, group in symmetry.groups.items():
        copies = symmetry.groups[group.parent].size if group.parent else 1
        tensors = [t for t, axes in symmetry.axes.items() if any(name in axis for axis in axes)]
        orders = copies * math.lgamma(group.size + 1) / math.log(10)
        row = {"group": name, "size": group.size, "inside": group.parent or "", "log10_orders": orders}
        rows.append({**row, "tensors": len(tensors)})
    return rows
