"""Calibration: what enters each layer, streamed over the calibration data into the few sums that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..methods import Statistics
from ..model import Layer, Model

SAMPLE = 256  # rows kept where a sample is asked for


def collect(
    model: Model,
    layers: list[Layer],
    needs: Iterable[str],
    batches: Iterable[Tensor],
    step: Callable[[int], None] = lambda done: None,
) -> dict[str, Statistics]:
    """Statistics of each layer's input over `batches` of token ids [n, context] or images.

    Layers without input rows (embeddings, grouped convolutions) are absent from the result. `step(batches done)`
    is called after each batch and may raise to stop.
    """
    wanted, gathered = frozenset(needs), {}

    def hear(layer: Layer, x: Tensor) -> None:
        _add(gathered.setdefault(layer.name, Statistics()), x, wanted)

    weights = {model.layer(name): cw.dequantize() for name, cw in model.overlays.items()}
    with model.runner.inputs_of(layers, hear):
        for done, batch in enumerate(batches, 1):
            model.runner.logits(batch, weights)
            step(done)
    return gathered


def _add(sums: Statistics, x: Tensor, needs: frozenset[str]) -> None:
    """Add rows x [tokens, in] to running means: m <- m + (mean of x - m) * new / (old + new)."""
    new, share = len(x), len(x) / (sums.tokens + len(x))
    means = {
        "mean_abs": lambda: x.abs().mean(0),
        "mean_square": lambda: x.square().mean(0),
        "hessian": lambda: x.T @ x / new,
    }
    for name in needs & means.keys():
        value, old = means[name](), getattr(sums, name)
        setattr(sums, name, value if old is None else old.lerp_(value, share))
    if "max_abs" in needs:
        largest = x.abs().amax(0)
        sums.max_abs = largest if sums.max_abs is None else torch.maximum(sums.max_abs, largest)
    if "sample" in needs:
        sums.sample = _spread(sums.sample, x, sums.tokens, new)
    sums.tokens += new


def _spread(kept: Tensor | None, x: Tensor, old: int, new: int) -> Tensor:
    """Rows for the sample so far: its share of the new ones at equal distances, so that all text is in it."""
    if kept is None:
        take = torch.linspace(0, new - 1, min(SAMPLE, new)).long()
        return x[take].clone()
    count = max(1, round(SAMPLE * new / (old + new)))
    fresh = x[torch.linspace(0, new - 1, min(count, new)).long()]
    room = torch.linspace(0, len(kept) - 1, min(len(kept), SAMPLE - len(fresh))).long()
    return torch.cat([kept[room], fresh])
