"""FlexRound: each weight is divided by a factor of its own before it is rounded, and the grid's step is learned too.

Lee et al. 2023, eq. 2; steps as in the authors' `UniformAffineQuantizer.py` and `REM_fast.py`:

    w^ = s1 clamp(round(w / (s1 S2 s3)))    s1 one a block, S2 [out, in], s3 [out, 1]

All are learned as logarithms, from S2 = s3 = 1, which is round to nearest. The rounding hands gradients on as they
are. The zero point stays. A weight may move by several codes, a large one more easily: dw^/dS2 = -w / (S2^2 s3).
A weight of 0 stays where it is. Ours: s1 is rounded while it is learned as it will be stored; the rate shrinks as the
grid gets finer, because a code is a smaller share of a weight there; and grids other than integers work as well (where
scales are powers of two or have two levels, s1 stays).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from ...grid import CompressedWeight, Fit
from ...grid.grids import FLOATS
from ...grid.rules import Keep
from ..learned import Learning

USUAL = 8  # values of the grid that the learning rate is given for: 3 bits


class FlexRound(Learning):
    """Learn by what each weight is divided before it is rounded."""

    name = "flexround"
    summary = "FlexRound: learn a divisor for every weight and the step of the grid"
    source = "Lee et al. 2023 (ICML); code of FlexRound_LRQ"

    rate: float = Field(
        0.0025, gt=0, le=1, description="learning rate of Adam at 3 bits; it falls along a cosine",
        json_schema_extra={"stops": [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02]},
    )  # fmt: skip
    learn_step: bool = Field(True, description="learn the step s1 of the grid too")

    def schedule(self, progress: float) -> float:
        return self.rate * (1 + math.cos(math.pi * progress)) / 2

    def part(self, w: Tensor, fit: Fit, mask: Tensor | None) -> Divided:
        return Divided(w, fit, mask, self.learn_step)


class Divided:
    """w under its divisors. Logarithms d1 [counts], d2 [out, in] and d3 [out, 1] are learned."""

    def __init__(self, w: Tensor, fit: Fit, mask: Tensor | None = None, learn_step: bool = True):
        self.fit, self.mask, self.scale = fit, mask, fit.scales
        self.x = w / fit.blocks.expand(self.scale)
        self.zero = None if fit.zero is None else fit.blocks.expand(fit.zero.float())
        # Only a scale that is one float can follow what is learned.
        dtype = fit.scale.dtype if isinstance(fit.scale, Tensor) else None
        self.keep = Keep(dtype) if dtype is not None and dtype in FLOATS.values() and learn_step else None
        self.d1 = torch.zeros_like(self.scale, requires_grad=self.keep is not None)
        self.d2 = torch.zeros_like(w, requires_grad=True)
        self.d3 = torch.zeros(len(w), 1, requires_grad=True)
        values = fit.grid.values
        shift = torch.zeros(()) if self.zero is None else self.zero
        # Beyond the ends by more than half a step nothing is rounded any more, but cut: no gradient.
        self.low = 1.5 * values[0] - 0.5 * values[1] - shift
        self.high = 1.5 * values[-1] - 0.5 * values[-2] - shift
        self.share = USUAL / len(values)

    @property
    def trained(self) -> list[tuple[Tensor, float]]:
        return [(d, self.share) for d in (self.d1, self.d2, self.d3) if d.requires_grad]

    def divided(self) -> Tensor:
        """w / (s1 S2 s3), in steps of the grid."""
        return self.x * torch.exp(-(self.fit.blocks.expand(self.d1) + self.d2 + self.d3))

    def step(self) -> Tensor:
        """s1 [counts] as it will be stored."""
        step = self.scale * torch.exp(self.d1)
        return step if self.keep is None else through(step, self.keep.rounded(step.detach()))

    def values(self) -> Tensor:
        x = self.divided()
        nearest = self.fit.grid.decode(self.fit.grid.encode(x.detach(), self.zero))
        nearest = nearest if self.zero is None else nearest - self.zero
        inside = (x >= self.low) & (x <= self.high)
        values = torch.where(inside, through(x, nearest), nearest) * self.fit.blocks.expand(self.step())
        return values if self.mask is None else values * self.mask

    def penalty(self, progress: float) -> Tensor | None:
        return None

    def compressed(self) -> CompressedWeight:
        codes = self.fit.grid.encode(self.divided().detach(), self.zero)
        scale = self.fit.scale if self.keep is None else self.keep.pack(self.step().detach())
        return replace(self.fit, scale=scale).compressed(codes).with_mask(self.mask)


def through(x: Tensor, rounded: Tensor) -> Tensor:
    """The rounded values, with the gradient of x: the straight-through estimator (Bengio et al. 2013)."""
    return x + (rounded - x).detach()
