"""Outliers on purpose: a network that answers as before, and whose layers read a few very loud channels.

Large language models grow such channels; small ones that are trained for a laptop do not. Here the gain of each norm
is multiplied by a factor on a few channels, and the columns of the layers that read it are divided by it: the float
function stays, to the bit where the factor is a power of two. It is SmoothQuant backwards, so what SmoothQuant and AWQ
do against it is what they do in earnest. After what Dettmers et al. 2022 found: the same few channels in every block.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from ..errors import Refused
from ..model import Model, Runner
from ..model.model import module_layers
from ..model.runner import Task
from .pairing import pairs
from .pairs import Floats, Pair


def with_outliers(
    model: Model,
    channels: int | Sequence[int] = 4,
    factor: float = 32.0,
    *,
    layers: str = "*",
    batch: Tensor | None = None,
    seed: int = 0,
) -> Model:
    """A new model whose norms are `factor` times as loud on some channels, with the float function of `model`.

    channels: how many, drawn by `seed` and the same for all norms of one width, or which. layers: only norms that all
    their readers are selected of. `batch` is a small input to find the places with. The model is in memory, in float32;
    `model` stays as it is. Refused where it has overlays, where no norm can be scaled, or a channel does not exist.
    """
    if model.overlays or model.vectors:
        raise Refused(f"{model.name} has changed weights: give the unchanged model, model.base")
    if not (math.isfinite(factor) and factor > 0):
        raise Refused(f"a factor of {factor} is not possible: take a number above 0, such as 32")
    chosen = {layer.name for layer in model.select(layers)}
    norms = [
        p for p in pairs(model, batch) if p.source is None and all(la.name in chosen for la in p.consumers)
    ]
    if not norms:
        raise Refused(f"no norm of {model.name} feeds the selected layers alone: nothing to make loud")
    floats = Floats(model)
    for pair in norms:
        s = torch.ones(pair.count)
        s[_chosen(pair, channels, seed)] = 1 / factor
        floats.move(pair, s)
    return _rebuilt(model, floats)


def _chosen(pair: Pair, channels: int | Sequence[int], seed: int) -> list[int]:
    """The channels of a norm that become loud."""
    if isinstance(channels, int):
        if not 1 <= channels <= pair.count:
            raise Refused(f"{channels} loud channels are not possible: {pair.label} has {pair.count}")
        # By rand: randperm of the same seed is what AWQ protects "at random".
        drawn = torch.rand(pair.count, generator=torch.Generator().manual_seed(seed))
        return drawn.topk(channels).indices.tolist()
    bad = [c for c in channels if not 0 <= c < pair.count]
    if bad or not channels:
        what = f"channel {bad[0]}" if bad else "an empty list of channels"
        raise Refused(f"{what} is not possible: {pair.label} has channels 0 to {pair.count - 1}")
    return list(channels)


def _rebuilt(model: Model, floats: Floats) -> Model:
    """A model of a module with what has moved in place."""
    runner = model.runner
    module = copy.deepcopy(runner.module)
    for name, w in floats.weights.items():
        layer = model.layer(name)
        module.get_parameter(runner.parameter_name(layer)).data = layer.to_tensor(w).clone()
    for name, v in floats.vectors.items():
        module.get_parameter(runner.parameter_name(name)).data = v.clone()
    source, layers = module_layers(module)
    config = model.config | {key: "float32" for key in ("dtype", "torch_dtype") if key in model.config}
    again = Runner(
        lambda: module, cast(Task, runner.task), runner.context, lambda: runner.tokenizer, runner.prepare
    )
    return Model(f"{model.name} with outliers", source, layers, config, None, again)
