"""Recognising weights that lie on a grid already: a checkpoint that was quantized once and stored as floats.

Every comparison of methods on such weights is a lie: round-to-nearest at the same width finds nothing to do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCKS = (32, 64, 128)  # besides the whole row


@dataclass(frozen=True)
class FoundGrid:
    """At most `levels` distinct values in every aligned run of `block` inputs."""

    levels: int
    block: int

    def __str__(self) -> str:
        return f"the weights lie on {self.levels} levels in every {self.block} inputs already"


def find_grid(sample: Tensor) -> FoundGrid | None:
    """The grid that some rows [n, in] of a weight lie on, or None.

    Distinct values other than zero are counted in aligned blocks; a grid is there where they are at most half as
    many as the weights that are not zero, in three quarters of the blocks (random weights have none such; four
    bits on 32 weights have 95 %), and at most 256.
    """
    best: FoundGrid | None = None
    inputs = sample.shape[1]
    for block in (*(b for b in BLOCKS if b < inputs and inputs % b == 0), inputs):
        runs = sample.float().reshape(-1, block).sort(1).values
        changes = (runs[:, 1:] != runs[:, :-1]) & (runs[:, 1:] != 0)
        distinct = changes.sum(1) + (runs[:, 0] != 0)
        occupied = (runs != 0).sum(1)
        runs_in_use = occupied >= max(1, min(16, block // 2))
        if not runs_in_use.any():
            continue
        on_grid = (2 * distinct <= occupied)[runs_in_use].float().mean()
        # Zero may be a level too: it is counted where any run has it.
        count = int(distinct[runs_in_use].float().quantile(0.95).ceil()) + int(bool((runs == 0).any()))
        levels = 2 ** max(1, (count - 1).bit_length())
        if on_grid >= 0.75 and levels <= 256 and (best is None or levels <= best.levels):
            best = FoundGrid(levels, block)
    return best


def sample_rows(rows: int, most: int = 16) -> Tensor:
    """Indices of at most `most` rows spread over [0, rows)."""
    return torch.linspace(0, rows - 1, min(rows, most)).long().unique()
