"""Calibration: what enters each layer, streamed over the calibration data into the few sums that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..errors import Refused
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
    """Statistics of each layer's input over `batches` of token ids [n, context] or images, in one pass over the whole
    model as it is (`engine.walk` goes block by block and compresses on the way).

    Layers without input rows (embeddings, grouped convolutions) are absent from the result. `step(batches done)`
    is called after each batch and may raise to stop.
    """
    gathering = Gathering(needs)
    weights = model.running
    with model.runner.inputs_of(layers, gathering.hear):
        for done, batch in enumerate(batches, 1):
            model.runner.logits(batch, weights)
            step(done)
    return gathering.found


class Gathering:
    """Sums of the inputs that `hear` is told of. Layers that read the same tensor (q, k and v) share one set of sums;
    which ones do is in `groups`, in the order in which they run."""

    def __init__(self, needs: Iterable[str]):
        self.needs = frozenset(needs)
        self.found: dict[str, Statistics] = {}
        self.groups: list[list[Layer]] = []
        self.original: dict[str, Tensor] = {}  # by layer: the same rows in the unchanged network, for "cross"
        self._first: dict[str, str] = {}  # layer -> the layer whose sums it shares
        self._last: tuple[str, Tensor] | None = None

    def hear(self, layer: Layer, x: Tensor) -> None:
        """Rows x [tokens, in] that enter a layer. Refused where they are not finite."""
        shared = (
            self._last is not None
            and self._last[1].data_ptr() == x.data_ptr()
            and self._last[1].shape == x.shape
        )
        leader = self._last[0] if shared and self._last else layer.name
        if layer.name not in self._first:
            self._first[layer.name] = leader
            self._join(layer, leader)
        if self._first[layer.name] == layer.name or not shared:
            self._last = layer.name, x
            if not torch.isfinite(x.sum()) and not torch.isfinite(x).all():
                raise Refused(
                    f"the input of {layer.name} has NaN or infinite values: calibrate on other data, or leave "
                    "out the layers before it that were changed too much"
                )
        if self._first[layer.name] == layer.name:
            _add(
                self.found.setdefault(layer.name, Statistics()), x, self.needs, self.original.get(layer.name)
            )
        else:
            self.found[layer.name] = self.found[self._first[layer.name]]

    def _join(self, layer: Layer, leader: str) -> None:
        group = next((g for g in self.groups if g[0].name == leader), None)
        if group is None:
            self.groups.append([layer])
        else:
            group.append(layer)


def _add(sums: Statistics, x: Tensor, needs: frozenset[str], original: Tensor | None = None) -> None:
    """Add rows x [tokens, in] to running means: m <- m + (mean of x - m) * new / (old + new). `original` are the same
    rows in the unchanged network; they are x where nobody has changed it."""
    new, share = len(x), len(x) / (sums.tokens + len(x))
    means = {
        "mean": lambda: x.mean(0),
        "mean_abs": lambda: x.abs().mean(0),
        "mean_square": lambda: x.square().mean(0),
        "hessian": lambda: x.T @ x / new,
        "cross": lambda: (x if original is None else original).T @ x / new,
    }
    for name in needs & means.keys():
        value, old = means[name](), getattr(sums, name)
        setattr(sums, name, value if old is None else old.lerp_(value, share))
    extremes = {
        "max_abs": (lambda: x.abs().amax(0), torch.maximum),
        "high": (lambda: x.amax(0), torch.maximum),
        "low": (lambda: x.amin(0), torch.minimum),
    }
    for name in needs & extremes.keys():
        measure, choose = extremes[name]
        old = getattr(sums, name)
        setattr(sums, name, measure() if old is None else choose(old, measure()))
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
