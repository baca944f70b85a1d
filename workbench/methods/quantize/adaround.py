"""AdaRound: each weight goes to the point of the grid below or above it, whichever serves the layer's output.

Nagel et al. 2020; steps and constants as in BRECQ's `adaptive_rounding.py` and `layer_recon.py`:

    h(V) = clamp(sigmoid(V) (zeta - gamma) + gamma, 0, 1)          the rectified sigmoid (eq. 23)
    w^ = lower + h(V) (upper - lower)                              soft while it is learned, h(V) = r at the start
    loss + lambda sum(1 - |2 h - 1|^beta)                          the regulariser pushes h to 0 or 1 (eq. 24)

`lower` and `upper` are neighbours on whatever grid the format has, so that floats and codebooks work as integers do.
Ours: lambda is in units of the start's loss for each weight, so that it means the same for every layer; and the best
hard state is kept. The layer's loss is exact over all calibration inputs, where the original draws batches.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import hardtanh

from ...grid import CompressedWeight, Fit
from ..learned import Learning

GAMMA, ZETA = -0.1, 1.1  # the sigmoid reaches beyond 0 and 1, so that h gets there


class AdaRound(Learning):
    """Learn whether each weight is rounded down or up."""

    name = "adaround"
    summary = "AdaRound: learn for each weight whether it goes down or up"
    source = "Nagel et al. 2020; constants of BRECQ (Li et al. 2021)"

    scale_search: Literal["none", "activation", "mse", "percentile"] = Field(
        "activation", description="the range of a block: all of it, or what loses least"
    )
    rate: float = Field(
        0.1, gt=0, le=1, description="learning rate of Adam",
        json_schema_extra={"stops": [0.003, 0.01, 0.03, 0.1, 0.3], "more": True},
    )  # fmt: skip
    regulariser: float = Field(
        30.0, ge=0, le=1000, description="lambda: how strongly each choice is driven to 0 or 1",
        json_schema_extra={"stops": [0.0, 1.0, 3.0, 10.0, 30.0, 100.0]},
    )  # fmt: skip
    warm_up: float = Field(
        0.2, ge=0, le=0.9, description="share of the steps before the regulariser sets in",
        json_schema_extra={"stops": [0.0, 0.1, 0.2, 0.4], "more": True},
    )  # fmt: skip

    def schedule(self, progress: float) -> float:
        return self.rate

    def part(self, w: Tensor, fit: Fit, mask: Tensor | None) -> Choice:
        return Choice(w, fit, mask, self.regulariser, self.warm_up)


class Choice:
    """Each weight between its two neighbours on the grid. V [out, in] is learned."""

    def __init__(
        self, w: Tensor, fit: Fit, mask: Tensor | None = None, weight: float = 1.0, warm_up: float = 0.2
    ):
        self.fit, self.mask, self.weight, self.warm_up = fit, mask, weight, warm_up
        lower, upper = neighbours(w, fit)
        self.gap = upper - lower
        self.lower = lower
        share = (w - lower) / torch.where(self.gap == 0, torch.ones_like(w), self.gap)
        self.v = inverse(share.clamp(0, 1)).requires_grad_()

    @property
    def trained(self) -> list[tuple[Tensor, float]]:
        return [(self.v, 1.0)]

    @property
    def h(self) -> Tensor:
        return rectified(self.v)

    def values(self) -> Tensor:
        values = torch.addcmul(self.lower, self.h, self.gap)
        return values if self.mask is None else values * self.mask

    def penalty(self, progress: float) -> Tensor | None:
        if progress < self.warm_up or not self.weight:
            return None
        return self.weight * regulariser(self.h, beta(progress, self.warm_up))

    def compressed(self) -> CompressedWeight:
        hard = torch.where(self.h.detach() >= 0.5, self.lower + self.gap, self.lower)
        return self.fit.encode(hard).with_mask(self.mask)


def neighbours(w: Tensor, fit: Fit) -> tuple[Tensor, Tensor]:
    """The points of the grid next to each weight of w [out, in], in its units; both the same beyond the ends."""
    wide = fit.blocks.expand(fit.scales)
    zero = torch.zeros(()) if fit.zero is None else fit.blocks.expand(fit.zero.float())
    table = fit.grid.values
    above = torch.searchsorted(table, (w / wide + zero).contiguous(), right=True)
    low, high = (table[place.clamp(0, len(table) - 1)] for place in (above - 1, above))
    return (low - zero) * wide, (high - zero) * wide


def rectified(v: Tensor) -> Tensor:
    """h(V), in [0, 1]."""
    return hardtanh(torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA, 0.0, 1.0)  # a clamp whose gradient is quicker


def inverse(h: Tensor) -> Tensor:
    """V with rectified(V) = h."""
    return -torch.log((ZETA - GAMMA) / (h - GAMMA) - 1)


def regulariser(h: Tensor, beta: float) -> Tensor:
    """sum(1 - |2 h - 1|^beta): 0 where every h is 0 or 1."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


def beta(progress: float, warm_up: float) -> float:
    """From 20 at the end of the warm-up to 2 at the end: first only what is undecided, then everything."""
    return 20 - 18 * max(0.0, (progress - warm_up) / (1 - warm_up))
