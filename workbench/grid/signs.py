"""Binary and ternary grids with the scales of their papers.

Binary: sign(w) times the mean of |w|, which is the best scale for the signs (Rastegari et al. 2016, XNOR-Net).
Ternary: -1, 0, 1 times the mean of |w| over those beyond 0.7 mean |w| (Li et al. 2016, Ternary Weight Networks).
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from .blocks import Blocks
from .grids import TableGrid

THRESHOLD = 0.7  # of the mean of |w|


class Binary(TableGrid):
    """-1 and 1; 0 is 1, as XNOR and popcount need it."""

    @property
    def code_bits(self) -> int:
        return 1

    @cached_property
    def table(self) -> Tensor:
        return torch.tensor([-1.0, 1.0])

    def _upper(self) -> Tensor:
        return torch.tensor([True])


class Ternary(TableGrid):
    """-1, 0 and 1. Their log2 3 = 1.58 bits are stored as 2.

    Codes are the nearest values, so the border is half the scale. The paper cuts at its threshold instead, which
    approximates that border and is never nearer.
    """

    @property
    def code_bits(self) -> int:
        return 2

    @cached_property
    def table(self) -> Tensor:
        return torch.tensor([-1.0, 0.0, 1.0])

    def _upper(self) -> Tensor:
        return torch.tensor([True, False])


def mean_size(w: Tensor, blocks: Blocks) -> Tensor:
    """Mean of |w| in each block [counts]."""
    return blocks.reduce(w.abs(), "sum") / blocks.sizes


def mean_of_large(w: Tensor, blocks: Blocks) -> Tensor:
    """Mean of |w| over the weights of each block that are beyond 0.7 of its mean [counts]."""
    size = w.abs()
    large = size > blocks.expand(THRESHOLD * mean_size(w, blocks))
    return blocks.reduce(size * large, "sum") / blocks.reduce(large.float(), "sum").clamp(min=1)
