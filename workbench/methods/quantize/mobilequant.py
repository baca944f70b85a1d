"""MobileQuant: fully static W4/8-A8. Input scales, weight clips and activation ranges are learned together.

Tan et al. 2024; saic-fi/MobileQuant, qmodule.py. Here: one layer from its statistics (`compress`) and one block after
the other against the float network (`rebuild`). The paper learns through the whole stack at once and runs in integers:
`workbench.engine.integer`. What differs from the reference, and why:
- 0 stays inside every range. Weights and activations have both signs, so it is there anyway; where it is not, the zero
  point would leave the codes, and an accumulator could not be bounded.
- Learning rates are relative: of a scale to its initial value, of an offset to the whole range. The reference's 1e-6
  for ranges is absolute, and meant for 60 epochs.
- Clips begin at u = 8. The reference's u = 4 cuts the largest weight by 1.8 % at once, which hurts short runs.
- The shift d of the paper is not offered: through a gated MLP it does not preserve the function, and a norm without a
  bias has no place for it. It is off in the reference too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field, JsonValue
from torch import Tensor

from ...grid import Blocks, CompressedWeight, Fit, IntGrid, Report, Running
from ...grid.rules import Keep
from ...model.roles import block_prefix, role_of
from ..base import METHODS, Method, Span, Statistics, storable
from ..descent import Descent, descend
from ..ranges import Clip, Range
from ..transform.smoothquant import SmoothQuant

RATES: list[JsonValue] = [1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]
LEAST = 1e-2  # of a scale beside its initial value, as in the reference
FOLDED = ({"q", "k", "v", "qkv"}, {"gate", "up"})  # layers behind a norm, which takes 1 / s in


class MobileQuant(Method):
    """Learn input scales, weight clips and static activation ranges together."""

    name = "mobilequant"
    kind = "quantize"
    summary = "MobileQuant: static integer W4/8-A8; scales, clips and ranges learned by gradient"
    source = "Tan et al. 2024; saic-fi/MobileQuant, qmodule.py (block by block; end to end: wb.mobilequant)"
    needs = frozenset({"low", "high"})

    bits: Literal[4, 8] = Field(8, description="bits of a weight's code")
    act_bits: Literal[8, 16] = Field(8, description="bits of an activation's code")
    granularity: Literal["channel", "tensor"] = Field(
        "channel", description="which weights share a scale; down projections: always a row"
    )
    reconstruct: Literal["layer", "block"] = Field(
        "block", description="one layer from its statistics, or learned on a block against the float network"
    )
    steps: int = Field(
        200, ge=0, le=100_000, description="steps of the optimiser, one batch each (reference: 60 epochs of 1024)",
        json_schema_extra={"stops": [0, 50, 100, 200, 500, 2000]},
    )  # fmt: skip
    lr_scale: float = Field(
        1e-3, gt=0, le=0.1, description="learning rate of input scales, relative to their initial values",
        json_schema_extra={"stops": RATES, "more": True},
    )  # fmt: skip
    lr_clip: float = Field(
        1e-2, gt=0, le=0.1, description="learning rate of the weight clips u, sigmoid(u) of the largest weight",
        json_schema_extra={"stops": RATES, "more": True},
    )  # fmt: skip
    lr_range: float = Field(
        1e-3, gt=0, le=0.1, description="learning rate of activation ranges, relative to their width",
        json_schema_extra={"stops": RATES, "more": True},
    )  # fmt: skip
    clip: float = Field(
        8.0, ge=1, le=16, description="clips begin at sigmoid(u) of the largest weight (reference: 4)",
        json_schema_extra={"stops": [4.0, 6.0, 8.0, 12.0], "more": True},
    )  # fmt: skip
    smooth_alpha: float = Field(
        0.5, ge=0, le=1, description="SmoothQuant's exponent, where the input scales begin",
        json_schema_extra={"stops": [0.25, 0.5, 0.6, 0.75, 0.85]},
    )  # fmt: skip

    @property
    def works_on(self) -> Literal["layer", "block"]:
        return self.reconstruct

    @property
    def baseline(self) -> Method | None:
        return METHODS["rtn"](bits=self.bits, granularity=self.granularity)

    @property
    def label(self) -> str:
        return f"mobilequant w{self.bits}a{self.act_bits}{' tensor' if self.granularity == 'tensor' else ''}"

    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        """w [out, in] float32 with the initial values: SmoothQuant's s, clips at u, the range seen in calibration."""
        known = self.given(statistics)
        s = storable(self.smooth([w], known))
        found = Range.of(*_extremes(known.scaled(s)), self.act_bits)
        made = self._rounded(w, s, Clip(self.clip, self._blocks(w)), found)
        return made.with_mask(known.mask)

    def rebuild(self, span: Span) -> Mapping[str, CompressedWeight]:
        """All layers of a span at once: s, u and the ranges by descent on ||y' - y||^2 of its outputs."""
        groups = [self._group(names, span) for names in _groups(span)]
        clips = {n: Clip(self.clip, self._blocks(w, role_of(n, 2))) for n, w in span.weights.items()}

        def error(batch: int) -> Tensor:
            weights = {
                n: group.running(span.weights[n], clips[n], self.bits)
                for group in groups
                for n in group.names
            }
            return (span.run(span.inputs[batch], weights) - span.targets[batch]).square().mean()

        found = self.descended(
            [g.factor for g in groups if g.learns], list(clips.values()), [g.range for g in groups],
            error, len(span.targets),
        )  # fmt: skip
        made: dict[str, CompressedWeight] = {}
        for group in groups:
            for name in group.names:
                known = span.statistics[name]
                one = self._rounded(span.weights[name], storable(group.s.detach()), clips[name], group.range)
                made[name] = one.with_mask(known.mask).with_report(found.report)
        return {name: made[name] for name in span.weights}

    def descended(
        self,
        factors: Sequence[Tensor],
        clips: Sequence[Clip],
        ranges: Sequence[Range],
        error: Callable[[int], Tensor],
        batches: int,
    ) -> Descent:
        """Learn factors of scales (from 1), clips and ranges in place; `error(batch)` is what one batch loses."""

        @torch.no_grad()
        def floor() -> None:
            for factor in factors:
                factor.clamp_(min=LEAST)

        learned = [
            (factors, self.lr_scale),
            ([u for clip in clips for u in (clip.upper, clip.lower)], self.lr_clip),
            ([p for found in ranges for p in (found.stretch, found.shift)], self.lr_range),
        ]
        return descend(learned, error, batches, self.steps, after=floor)

    def smooth(self, weights: Sequence[Tensor], statistics: Statistics) -> Tensor:
        """SmoothQuant's s [in] for the weights [out_i, in] that read one input."""
        assert statistics.low is not None
        assert statistics.high is not None
        loud = torch.maximum(-statistics.low, statistics.high)
        return SmoothQuant(alpha=self.smooth_alpha).scales(weights, replace(statistics, max_abs=loud))

    def _group(self, names: Sequence[str], span: Span) -> Group:
        known, weights = self.given(span.statistics[names[0]]), [span.weights[n] for n in names]
        learns = _foldable(names, span)
        s = self.smooth(weights, known) if learns else torch.ones(weights[0].shape[1])
        return Group(tuple(names), s, Range.of(*_extremes(known.scaled(s)), self.act_bits), learns)

    def _blocks(self, w: Tensor, role: str = "") -> Blocks:
        return Blocks.of((w.shape[0], w.shape[1]), "channel" if role == "down" else self.granularity)

    def _rounded(self, w: Tensor, s: Tensor, clip: Clip, found: Range) -> CompressedWeight:
        scale, zero = clip.grid(w * s, self.bits, Keep())
        scale, zero = scale.detach(), zero.detach()
        fit = Fit(IntGrid(bits=self.bits), clip.blocks, Keep().pack(scale), zero.to(torch.uint8))
        made = replace(fit.encode(w * s), inputs=found.quantizer)
        low, high = found.ends
        return made.with_input_scale(s).with_report(Report(facts={"input range": f"{low:.3g} to {high:.3g}"}))


@dataclass
class Group:
    """Layers that read one input: they share s = initial * factor, and its range."""

    names: tuple[str, ...]
    initial: Tensor
    range: Range
    learns: bool

    def __post_init__(self) -> None:
        self.factor = torch.ones_like(self.initial, requires_grad=self.learns)

    @property
    def s(self) -> Tensor:
        return self.initial * self.factor

    def running(self, w: Tensor, clip: Clip, bits: int) -> Running:
        """w' = Q(w s) / s for inputs Q(x / s) s, all scales as they will be stored: what is learned is what remains."""
        s = self.s + (storable(self.s) - self.s).detach()
        return Running(clip.quantized(w * s, bits, Keep()) / s, lambda x: self.range(x / s) * s)


def _extremes(known: Statistics) -> tuple[float, float]:
    assert known.low is not None
    assert known.high is not None
    return float(known.low.min()), float(known.high.max())


def _groups(span: Span) -> list[list[str]]:
    """Names of layers that read one input: their statistics are the same object."""
    found: dict[int, list[str]] = {}
    for name in span.weights:
        found.setdefault(id(span.statistics[name].low), []).append(name)
    return list(found.values())


def _foldable(names: Sequence[str], span: Span) -> bool:
    """Whether 1 / s can be taken in by what makes their input: a norm; the up projection beside a gate (before a plain
    GELU it could not); the v projection where it has as many rows as o has columns (not with grouped queries)."""
    block = block_prefix(names[0])
    beside = {role_of(n, 2): w for n, w in span.weights.items() if block_prefix(n) == block}
    roles = {role_of(name, 2) for name in names}
    if roles == {"o"}:
        return "v" in beside and len(beside["v"]) == span.weights[names[0]].shape[1]
    if roles == {"down"}:
        return "gate" in beside
    return any(roles <= folded for folded in FOLDED)
