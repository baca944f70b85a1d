"""PowerGrid: levels sign(q) (|q| / Q)^(1/a), q = -Q..Q, Q = 2^(b-1) - 1. PowerQuant (ICLR 2023) and NUPES.

A reconstruction: neither paper has public code, and of NUPES only the abstract could be read. w / absmax is raised to
the power a and rounded there; the exponent of least squared error is searched on [0.2, 1.2] by golden section, as
PowerQuant describes it (locally convex, one minimum). Theirs is one exponent for the network, here one for a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from pydantic import Field
from torch import Tensor

from .blocks import Blocks
from .grids import TableGrid

LEAST, MOST = 0.2, 1.2
TOLERANCE = 1e-2


class PowerGrid(TableGrid):
    """Levels crowd round 0 for exponents below 1; 1 is the narrow integer grid, 1/2 has squares as values."""

    bits: int = Field(ge=2, le=8)
    exponent: float = Field(ge=0.1, le=2)

    @property
    def code_bits(self) -> int:
        return self.bits

    @property
    def shared_bits(self) -> int:
        return 32

    @property
    def steps(self) -> int:
        """Q: the levels on each side of 0."""
        return 2 ** (self.bits - 1) - 1

    @cached_property
    def table(self) -> Tensor:
        return self._raised(torch.arange(-self.steps, self.steps + 1, dtype=torch.float64)).float()

    def _middles(self) -> Tensor:
        # Rounding happens before the root, so the border is where q + 1/2 comes to lie, not half way between levels.
        return self._raised(torch.arange(2 * self.steps) - self.steps + 0.5)

    def _upper(self) -> Tensor:
        return (torch.arange(1, 2 * self.steps + 1) - self.steps) % 2 == 0

    def _raised(self, q: Tensor) -> Tensor:
        return q.sign() * (q.double().abs() / self.steps) ** (1 / self.exponent)


def best_exponent(w: Tensor, blocks: Blocks, absmax: Tensor, bits: int) -> float:
    """The exponent of least squared error for w [out, in] with scales absmax [counts]."""
    x = w / blocks.expand(absmax)
    scale = blocks.expand(absmax)

    def error(exponent: float) -> float:
        grid = PowerGrid(bits=bits, exponent=exponent)
        return float(((grid.decode(grid.encode(x)) - x) * scale).square().sum())

    return golden_section(error, LEAST, MOST, TOLERANCE)


def golden_section(f: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """Where f has its minimum on [low, high], if there is one, to within the tolerance."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = f(a), f(b)
    while high - low > tolerance:
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = f(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = f(b)
    return (low + high) / 2
