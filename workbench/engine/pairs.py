"""Pairs: what makes the input of some layers, so that a scale of its channels can move from one side to the other.

A norm's gain, or the rows of a linear or convolutional layer, divided by s; the columns of every layer that reads it,
multiplied by s. The network answers as before. `pairing` finds them, `Floats` moves scales through them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import Refused
from ..grid import CompressedWeight, uncompressed
from ..model import Layer, Model
from ..model.runner import Weights


@dataclass(frozen=True, eq=False)
class Pair:
    """`consumers` read channels that `source` (a layer's `rows`) or a norm makes.

    channels [in] says which channel each of their columns reads. `vectors` are the tensors of the checkpoint that are
    divided along: the norm's gain and bias, or the layer's bias, at `rows`; of the first, value + `offset` is what
    counts. `norm` is the norm's module, and `behind` the layer whose output it takes.
    """

    consumers: tuple[Layer, ...]
    channels: Tensor
    source: Layer | None
    rows: slice
    vectors: tuple[str, ...] = ()
    offset: float | Tensor = 0.0
    norm: str = ""
    behind: Layer | None = None

    @property
    def count(self) -> int:
        return self.rows.stop - self.rows.start

    @property
    def label(self) -> str:
        """input_layernorm -> q_proj, k_proj, v_proj"""
        made = self.source.name if self.source is not None else self.norm
        return f"{made} -> {', '.join(layer.name.rpartition('.')[2] for layer in self.consumers)}"


@dataclass(frozen=True)
class Pairs:
    """The pairs of a network, and for every other layer that was looked at the reason why it has none."""

    found: tuple[Pair, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.found)


class Floats:
    """The weights and vectors of a model as float32 while scales move through them; the model stays as it is."""

    def __init__(self, model: Model):
        self.model = model
        self.weights: dict[str, Tensor] = {}
        self.vectors: dict[str, Tensor] = {}

    def weight(self, layer: Layer) -> Tensor:
        """[out, in]. Refused where something was fitted to its input or output as it was."""
        if layer.name not in self.weights:
            made = self.model.overlays.get(layer.name)
            if made is not None and (made.inputs is not None or made.shift is not None):
                raise Refused(
                    f"{layer.name} has a quantized input or a corrected bias: scale the unchanged model"
                )
            return self.model.weight(layer.name)
        return self.weights[layer.name]

    def vector(self, name: str) -> Tensor:
        known = self.vectors.get(name, self.model.vectors.get(name))
        return self.model.source.read(name).float() if known is None else known

    def move(self, pair: Pair, s: Tensor) -> None:
        """Divide what makes the channels by s [channels] and multiply what reads them by it."""
        if pair.source is not None:
            w = self.weight(pair.source).clone()
            w[pair.rows] /= s[:, None]
            self.weights[pair.source.name] = w
        self.vectors |= divided(pair, s, self.vector)
        for layer in pair.consumers:
            self.weights[layer.name] = self.weight(layer) * s[pair.channels]

    @property
    def running(self) -> Weights:
        changed = {self.model.layer(name): w for name, w in self.weights.items()}
        return {**self.model.running, **changed, **self.vectors}

    @property
    def overlaid(self) -> Model:
        """The model with what has moved, uncompressed."""
        moved: dict[str, CompressedWeight] = {name: uncompressed(w) for name, w in self.weights.items()}
        return self.model.with_overlays(
            {**self.model.overlays, **moved}, {**self.model.vectors, **self.vectors}
        )


def divided(pair: Pair, s: Tensor, vector: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """The vectors of a pair, read by `vector(name)`, divided by s [channels]."""
    made = {}
    for position, name in enumerate(pair.vectors):
        v, offset = vector(name).clone(), pair.offset if position == 0 else 0.0
        v[pair.rows] = (v[pair.rows] + offset) / s - offset
        made[name] = v
    return made


def relative(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||; infinite where something is not finite."""
    error = float((found - expected).norm() / expected.norm().clamp(min=torch.finfo(torch.float32).tiny))
    return error if error == error else float("inf")
