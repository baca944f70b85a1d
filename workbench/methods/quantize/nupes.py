"""NUPES: a power-function grid whose exponent and codes are learned. A reconstruction.

Yvinec et al. 2023 (NUPES) and PowerQuant (ICLR 2023): |w / m|^a is rounded uniformly, m the largest weight of a block.

    q = round(sign(w) (|w| / m)^a Q),  Q = 2^(b-1) - 1        w^ = sign(q) (|q| / Q)^(1/a) m

Neither paper has public code, and of NUPES only the abstract could be read. The grid and the data-free search of the
exponent (golden section, `workbench.grid.power`) are as PowerQuant describes them, one exponent for a layer. How codes
and exponent are learned is ours:

    codes     V [out, in], from sign(w) (|w| / m)^a Q, anywhere between -Q and Q. `soft`: levels are interpolated
              between the codes next to V, and AdaRound's regulariser drives V to whole codes. `straight`: V is rounded
              in every step and gradients pass the rounding, with the slope of the grid at q by central differences (at
              q = 0 the derivative is 0 or infinite, and zeros could never move); codes near a border then swing.
    exponent  through the dequantizer alone: dw^/da = -w^ ln(|q| / Q) / a^2, 0 at q = 0; kept within [0.2, 2]
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ...grid import CompressedWeight, Fit
from ...grid.power import PowerGrid
from ..base import METHODS, Method
from ..learned import Learning
from .adaround import beta, regulariser

LEAST, MOST = 0.2, 2.0  # of the exponent
EXPONENT_SHARE = 0.1  # of the learning rate: the exponent moves every weight, a code only itself
STRAIGHT_SHARE = 1 / 20  # of the learning rate where codes are rounded in every step: faster ones only swing
WARM_UP = 0.2  # share of the steps before the regulariser sets in


class NUPES(Learning):
    """Learn the exponent of a power grid and the code of every weight."""

    name = "nupes"
    summary = "NUPES: a power grid; codes and exponent are learned (a reconstruction)"
    source = "Yvinec et al. 2023, from its abstract; PowerQuant (ICLR 2023) for the grid"

    format: str = Field(
        "power", description="number format", json_schema_extra={"choices": ["power"], "more": True}
    )
    bits: int = Field(4, ge=2, le=8, description="bits of a code")
    exponent: float = Field(
        0.0, ge=0, le=1.5, description="exponent to start from, 0.2 to 1.5; 0: searched",
        json_schema_extra={"stops": [0.0, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5]},
    )  # fmt: skip
    scale_search: Literal["none", "activation", "mse", "percentile"] = Field(
        "activation", description="the range of a block: all of it, or what loses least"
    )
    rounding: Literal["soft", "straight"] = Field(
        "soft", description="codes between two levels that are driven to one, or rounded in every step"
    )
    rate: float = Field(
        0.02, gt=0, le=1, description="learning rate of Adam, in codes",
        json_schema_extra={"stops": [0.005, 0.01, 0.02, 0.05], "more": True},
    )  # fmt: skip
    regulariser: float = Field(
        10.0, ge=0, le=1000, description="lambda: how strongly each code is driven to a whole one",
        json_schema_extra={"stops": [0.0, 1.0, 3.0, 10.0, 30.0, 100.0], "where": {"rounding": ["soft"]}},
    )  # fmt: skip
    learn_codes: bool = Field(True, description="learn the codes")
    learn_exponent: bool = Field(True, description="learn the exponent")

    @field_validator("format")
    @classmethod
    def _power_only(cls, value: str) -> str:
        if value != "power":
            raise ValueError(
                "nupes has a grid of its own: take format: power, or RTN, AdaRound or FlexRound for others"
            )
        return value

    @property
    def baseline(self) -> Method | None:
        """Uniform levels: the power grid of exponent 1 is the narrow symmetric integer grid."""
        uniform: dict[str, Any] = {
            "format": "int",
            "symmetric": True,
            "convention": "narrow",
            "scale_search": "none",
        }
        return METHODS["rtn"](**self.scheme | uniform)

    def schedule(self, progress: float) -> float:
        if self.rounding == "soft":
            return self.rate
        return self.rate * STRAIGHT_SHARE * (1 + math.cos(math.pi * progress)) / 2

    def part(self, w: Tensor, fit: Fit, mask: Tensor | None) -> PowerCodes:
        kind = SoftCodes if self.rounding == "soft" else PowerCodes
        return kind(w, fit, mask, self.learn_codes, self.learn_exponent, self.regulariser)


class PowerCodes:
    """Codes before rounding, V [out, in], and the exponent a; rounded in every step."""

    def __init__(
        self,
        w: Tensor,
        fit: Fit,
        mask: Tensor | None = None,
        learn_codes: bool = True,
        learn_exponent: bool = True,
        weight: float = 10.0,
    ):
        assert isinstance(fit.grid, PowerGrid)
        self.fit, self.mask, self.top, self.weight = fit, mask, fit.grid.steps, weight
        self.m = fit.blocks.expand(fit.scales)
        x = w / self.m
        self.a = torch.tensor(fit.grid.exponent, dtype=torch.float64, requires_grad=learn_exponent)
        v = x.sign() * x.abs() ** fit.grid.exponent * self.top
        self.v = v.clamp(-self.top, self.top).requires_grad_(learn_codes)

    @property
    def trained(self) -> list[tuple[Tensor, float]]:
        return [(x, share) for x, share in ((self.v, 1.0), (self.a, EXPONENT_SHARE)) if x.requires_grad]

    def level(self, q: Tensor) -> Tensor:
        """sign(q) (|q| / Q)^(1/a), differentiable in a."""
        return q.sign() * (q.abs() / self.top).clamp(min=1e-8) ** (1 / self.a)

    def codes(self) -> Tensor:
        """q [out, in], -Q to Q."""
        return self.v.detach().round().clamp(-self.top, self.top)

    def values(self) -> Tensor:
        with torch.no_grad():
            self.a.clamp_(LEAST, MOST)
            self.v.clamp_(-self.top, self.top)
        values = self.between() * self.m
        return values if self.mask is None else values * self.mask

    def between(self) -> Tensor:
        """The levels of the codes, w^ / m, with a gradient for V."""
        q = self.codes()
        with torch.no_grad():
            slope = (self.level((q + 1).clamp(max=self.top)) - self.level((q - 1).clamp(min=-self.top))) / 2
        return self.level(q) + slope * (self.v - self.v.detach())

    def penalty(self, progress: float) -> Tensor | None:
        return None

    def compressed(self) -> CompressedWeight:
        grid = PowerGrid(bits=self.fit.grid.code_bits, exponent=float(self.a.detach().clamp(LEAST, MOST)))
        codes = (self.codes() + self.top).to(torch.uint8)
        return replace(self.fit, grid=grid).compressed(codes).with_mask(self.mask)


class SoftCodes(PowerCodes):
    """Codes that may lie between two whole ones until the regulariser has driven them to one."""

    def between(self) -> Tensor:
        below = self.below()
        low, high = self.level(below), self.level(below + 1)
        return low + (high - low) * (self.v - below)

    def below(self) -> Tensor:
        return self.v.detach().floor().clamp(max=self.top - 1)

    def penalty(self, progress: float) -> Tensor | None:
        if progress < WARM_UP or not self.weight or not self.v.requires_grad:
            return None
        return self.weight * regulariser(self.v - self.below(), beta(progress, WARM_UP))
