"""Fold: scales of input channels move into what makes those channels, so that nothing is left to do at run time.

After AWQ or SmoothQuant a layer is codes of w * s for an input divided by s. The division goes into the norm before it
(gain and bias divided by s) or into the rows of the layer before it (the scales of its rows divided), and the network
answers as it did, up to the rounding of those scales. `pairs` says where that is possible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import Refused
from ..grid import CompressedWeight, FloatGrid, uncompressed
from ..grid.grids import FLOATS
from ..methods.transform.equalize import Equalize, factor
from ..model import Model
from .pairing import pairs
from .pairs import Floats, Pair, Pairs, divided

if TYPE_CHECKING:
    from .plan import Plan
    from .variant import Variant

__all__ = ["Pair", "Pairs", "equalized", "fold", "pairs"]

STILL = 1e-3  # weight equalization ends when no factor is further from 1


def fold(variant: Variant, batch: Tensor | None = None) -> Variant:
    """The variant with its input scales folded away where something takes them; `notes` say where, and why not.

    `batch` is a small input to verify the places with. Errors of a folded weight are not to be compared with the
    unchanged one: its columns are scaled, on purpose. Refused where the network cannot be run.
    """
    found = pairs(variant.base, batch)
    weights, vectors = dict(variant.weights), dict(variant.vectors)
    reasons = dict(found.left_out)
    folded: list[str] = []

    def vector(name: str) -> Tensor:
        return vectors[name] if name in vectors else variant.base.source.read(name).float()

    for pair in found:
        if not any(_scaled(weights.get(layer.name)) for layer in pair.consumers):
            continue
        s = _common(pair, weights)
        made = None if isinstance(s, str) or pair.source is None else _source(pair, variant.base, weights, s)
        reason = s if isinstance(s, str) else made if isinstance(made, str) else ""
        if reason:
            reasons |= {layer.name: reason for layer in pair.consumers}
            continue
        assert isinstance(s, Tensor)
        if pair.source is not None and isinstance(made, CompressedWeight):
            weights[pair.source.name] = made
        vectors |= divided(pair, s, vector)
        for layer in pair.consumers:
            weights[layer.name] = _without_scale(weights[layer.name])
        folded.append(pair.label)
    stay = {
        name: reasons.get(name, "no calibration input reached it")
        for name in weights
        if _scaled(weights[name])
    }
    notes = [*variant.notes, *_grouped({label: "input scales folded" for label in folded})]
    notes += _grouped({name: f"the input scale stays: {reason}" for name, reason in stay.items()})
    return replace(variant, weights=weights, vectors=vectors, notes=tuple(notes))


def _scaled(made: CompressedWeight | None) -> bool:
    return made is not None and made.input_scale is not None


def _common(pair: Pair, weights: dict[str, CompressedWeight]) -> Tensor | str:
    """The scale [channels] that all consumers share, or why there is none."""
    scales = []
    for layer in pair.consumers:
        made = weights.get(layer.name)
        if made is None or made.input_scale is None:
            return "not all layers that read the same input have one"
        scales.append(made.input_scale.float())
    if any(not torch.equal(scales[0], s) for s in scales[1:]):
        return "the layers that read one input have different scales"
    s = torch.ones(pair.count).index_copy(0, pair.channels, scales[0])
    if not torch.equal(s[pair.channels], scales[0]):
        return "columns that read one channel (heads that share a value, a kernel) have different scales"
    return s


def _source(
    pair: Pair, base: Model, weights: dict[str, CompressedWeight], s: Tensor
) -> CompressedWeight | str:
    """The source of a pair with its rows divided by s, or why that cannot be stored."""
    assert pair.source is not None
    by = torch.ones(pair.source.shape[0])
    by[pair.rows] = s
    made = weights.get(pair.source.name)
    if made is None:
        return uncompressed(base.weight(pair.source.name) / by[:, None])
    patch = made.patch and replace(
        made.patch, values=made.patch.values / by[:, None].to(made.patch.values.dtype)
    )
    shift = None if made.shift is None else made.shift / by
    if made.scale is None and isinstance(made.grid, FloatGrid):
        plain = uncompressed(made.grid.decode(made.codes) / by[:, None])
        return replace(
            made, grid=plain.grid, codes=plain.codes, blocks=plain.blocks, patch=patch, shift=shift
        )
    if not isinstance(made.scale, Tensor) or made.scale.dtype not in FLOATS.values():
        return "the scales of the layer before are coarse themselves and cannot be divided"
    if made.blocks.rows > 1:
        return "rows of the layer before share a scale, which cannot be divided row by row"
    scale = made.scale.float() / by[:, None]
    kept = scale.to(made.scale.dtype)
    exact = (
        torch.isfinite(kept).all() and not ((kept.abs() < torch.finfo(kept.dtype).tiny) & (scale != 0)).any()
    )
    return replace(made, scale=kept if exact else scale, patch=patch, shift=shift)


def _without_scale(made: CompressedWeight) -> CompressedWeight:
    """For an input that is divided already."""
    assert made.input_scale is not None
    patch = made.patch and made.patch.divided(1 / made.input_scale.float())
    return replace(made, input_scale=None, patch=patch)


def _grouped(said: dict[str, str]) -> list[str]:
    """One sentence for each thing said, with the first names that it is said of."""
    by: dict[str, list[str]] = {}
    for name, sentence in said.items():
        by.setdefault(sentence, []).append(name)
    return [
        f"{sentence} ({'; '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''})"
        for sentence, names in by.items()
    ]


def equalized(model: Model, planned: Plan, batch: Tensor | None = None) -> Model:
    """The model with the ranges of joined layers shared, where the plan has `Equalize` for both; itself where it has
    none. Batch norms between two convolutions are merged into the first of them.

    Refused where no two of the selected layers are joined by a function with f(c y) = c f(y).
    """
    steps = {e.layer.name: m for e in planned.work for m in e.methods if isinstance(m, Equalize)}
    if not steps:
        return model
    found = pairs(model, batch)
    floats = Floats(model)
    todo = []
    for pair in found:
        source = pair.source or pair.behind
        names = [layer.name for layer in pair.consumers]
        if source is None or source.name not in steps or not all(name in steps for name in names):
            continue
        if pair.source is None:
            merged = _merged(floats, pair)
            if merged is None:
                continue
            pair = merged
        todo.append((pair, steps[source.name]))
    if not todo:
        reasons = _grouped({n: r for n, r in found.left_out.items() if n in steps})
        why = f": {reasons[0]}" if reasons else ""
        raise Refused(f"equalize: no two of the selected layers of {model.name} can share their ranges{why}")
    for turn in range(max(method.iterations for _, method in todo)):
        moved = [_share(floats, pair, method) for pair, method in todo if turn < method.iterations]
        if max(moved) < STILL:
            break
    return floats.overlaid


def _share(floats: Floats, pair: Pair, method: Equalize) -> float:
    """One pair brought into balance; how far its factors were from 1."""
    assert pair.source is not None
    rows = floats.weight(pair.source)[pair.rows].abs().amax(1)
    if method.bias and pair.vectors:
        rows = torch.maximum(rows, floats.vector(pair.vectors[0])[pair.rows].abs())
    columns = _by_channel(pair, [floats.weight(layer).abs().amax(0) for layer in pair.consumers])
    c = factor(rows, columns, method.alpha)
    floats.move(pair, 1 / c)
    return float((c - 1).abs().max())


def _by_channel(pair: Pair, columns: Sequence[Tensor]) -> Tensor:
    """The largest over all columns that read a channel: [channels]."""
    largest = torch.stack(list(columns)).amax(0)
    return torch.zeros(pair.count).scatter_reduce(0, pair.channels, largest, "amax")


def _merged(floats: Floats, pair: Pair) -> Pair | None:
    """A batch norm's gain moved into the rows of the convolution behind it; the pair that has this as its source.

    gain (y - mean) / sigma + bias = (z - mean) + bias' with z = y gain / sigma: the norm keeps its running mean and
    gets the gain sigma, and bias' - mean scales along with the rows.
    """
    norm = floats.model.runner.module.get_submodule(pair.norm)
    if (
        not isinstance(norm, torch.nn.modules.batchnorm._BatchNorm)
        or pair.behind is None
        or len(pair.vectors) < 2
    ):
        return None
    if norm.running_mean is None or norm.running_var is None or pair.behind.shape[0] != pair.count:
        return None
    mean, sigma = norm.running_mean.float(), (norm.running_var.float() + norm.eps).sqrt()
    gain_name, bias_name = pair.vectors
    gain, bias = floats.vector(gain_name) / sigma, floats.vector(bias_name)
    floats.weights[pair.behind.name] = floats.weight(pair.behind) * gain[:, None]
    floats.vectors[gain_name] = sigma
    floats.vectors[bias_name] = bias + mean - gain * mean
    return replace(pair, source=pair.behind, vectors=(bias_name,), offset=-mean)
