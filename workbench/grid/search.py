"""Scale search: the range of a block that loses least, by three measures. Any grid, any blocks.

mse         GPTQ's: both ends of the range times p = 1, 0.99, ..., 0.21; least sum |e|^2.4 (Frantar et al. 2023, code)
percentile  |w| of a block is cut at its p-th percentile
activation  weighted by h_j = E[x_j^2] of the input channels: 20 ratios on both ends, on the low end only, on the high
            end only; the best of each three is refitted by least squares, s = sum h w (q - z) / sum h (q - z)^2 with
            the codes fixed, and coded again. Least sum h e^2. (Refitting all 58 candidates gains about 1 %.)

The plain scale is always among the candidates, so a search is never worse than none in its own measure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .blocks import Blocks
from .chunks import pool
from .rules import Family, Rule, Scale

REFITS = 3
# Weights at once: torch shares the work on more of them among threads, which here are busy already.
TILE = 2**15
POWER = 2.4  # GPTQ's norm


def search(
    w: Tensor, blocks: Blocks, rule: Rule, how: str, *, h: Tensor | None = None, percentile: float = 99.9
) -> Scale:
    """(scale, zero) of w [out, in] float32, each float32 [counts]; h [in] for "activation"."""
    if how == "percentile":
        return rule.clipped(w, blocks, percentiles(w, blocks, percentile))
    measured = rule.measured(w, blocks)
    scale, zero = rule.scale(measured)
    scale = scale.clone()

    def work(part: tuple[slice, slice, slice, slice]) -> None:
        rows, columns, down, across = part
        w_part = w[rows, columns].contiguous()
        blocks_part = Blocks((w_part.shape[0], w_part.shape[1]), blocks.rows, blocks.columns)
        weights = None if h is None or how == "mse" else h[columns]
        tile = _Tile(w_part, blocks_part, rule, tuple(m[down, across] for m in measured), weights)
        found = tile.least(rule.shrinks)[0] if how == "mse" else tile.refitted()
        scale[down, across] = found[0]
        if zero is not None and found[1] is not None:
            zero[down, across] = found[1]

    list(pool().map(work, _parts(blocks)))
    return scale, zero


def percentiles(w: Tensor, blocks: Blocks, percentile: float) -> Tensor:
    """The p-th percentile of |w| in each block [counts], p in percent, linear between two weights as in NumPy."""
    counts = blocks.sizes
    place = (counts - 1).double() * (percentile / 100)
    largest = int((counts - place.long()).max())  # so many have to be known of each block
    tops = blocks.tiles(w.abs(), fill=-1).topk(largest, dim=-1).values
    index = (counts - 1 - place.long()).unsqueeze(-1)
    below, above = tops.gather(-1, index).squeeze(-1), tops.gather(-1, (index - 1).clamp(min=0)).squeeze(-1)
    return below + (above - below) * (place - place.floor()).float()


def _parts(blocks: Blocks) -> Iterator[tuple[slice, slice, slice, slice]]:
    """Tiles of whole blocks: rows and columns of the weights, and of the blocks."""
    down = max(1, TILE // (blocks.rows * blocks.columns * blocks.counts[1]))
    across = blocks.counts[1] if down > 1 else max(1, TILE // (blocks.rows * blocks.columns))
    for top in range(0, blocks.counts[0], down):
        for left in range(0, blocks.counts[1], across):
            rows = slice(top * blocks.rows, (top + down) * blocks.rows)
            columns = slice(left * blocks.columns, (left + across) * blocks.columns)
            yield rows, columns, slice(top, top + down), slice(left, left + across)


@dataclass
class _Tile:
    """Some blocks of a weight, and what is known of them. Without h errors count as |e|^2.4."""

    w: Tensor
    blocks: Blocks
    rule: Rule
    measured: tuple[Tensor, ...]
    h: Tensor | None

    def steps(self, scale: Tensor, zero: Tensor | None) -> Tensor:
        """q - z: the weights on the grid, in units of the scale."""
        offset = None if zero is None else self.blocks.expand(zero)
        steps = self.rule.grid.decode(self.rule.grid.encode(self.w / self.blocks.expand(scale), offset))
        return steps if offset is None else steps - offset

    def loss(self, scale: Tensor, zero: Tensor | None) -> Tensor:
        error = self.steps(scale, zero) * self.blocks.expand(scale) - self.w
        lost = error.abs().pow(POWER) if self.h is None else self.h * (error * error)
        return self.blocks.reduce(lost, "sum")

    def least(self, family: Family) -> tuple[Scale, Tensor]:
        """The candidate of least loss in each block, the earlier one of two that are equal, and its loss."""
        best = self.rule.scale(self.measured)
        least = torch.full_like(best[0], torch.inf)
        for a, b in family:
            candidate = self.rule.scale(self.measured, a, b)
            best, least = better(best, least, candidate, self.loss(*candidate))
        return best, least

    def refitted(self) -> Scale:
        """The best of each family, refitted by least squares, and the best of all of these."""
        starts = [self.least(family) for family in self.rule.families]
        best, least = starts[0]
        for (scale, zero), loss in starts:
            best, least = better(best, least, (scale, zero), loss)
            for _ in range(REFITS if self.rule.keep.multiples is None else 0):
                scale = self.refit(scale, zero)
                best, least = better(best, least, (scale, zero), self.loss(scale, zero))
        return best

    def refit(self, scale: Tensor, zero: Tensor | None) -> Tensor:
        """s = sum h w (q - z) / sum h (q - z)^2; the old scale where that has not its sign."""
        steps = self.steps(scale, zero)
        weighted = steps if self.h is None else self.h * steps
        above, below = (self.blocks.reduce(weighted * other, "sum") for other in (self.w, steps))
        fitted = above / torch.where(below == 0, 1.0, below)
        return self.rule.keep.rounded(torch.where((below > 0) & (fitted * scale > 0), fitted, scale))


def better(best: Scale, least: Tensor, other: Scale, loss: Tensor) -> tuple[Scale, Tensor]:
    """Block by block the one of smaller loss."""
    take = loss < least
    zero = None if best[1] is None or other[1] is None else torch.where(take, other[1], best[1])
    return (torch.where(take, other[0], best[0]), zero), torch.where(take, loss, least)
