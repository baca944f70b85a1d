"""Scale search: the range of a block that loses least, by three measures. Any grid, any blocks.

mse         GPTQ's: both ends of the range times p = 1, 0.99, ..., 0.21; least sum |e|^2.4 (Frantar et al. 2023, code)
percentile  |w| of a block is cut at its p-th percentile
activation  weighted by h_j = E[x_j^2] of the input channels: 20 ratios on both ends, on the low end only, on the high
            end only; the best few are refitted twice by least squares, s = sum h w (q - z) / sum h (q - z)^2 with the
            codes fixed, and coded again. Least sum h e^2.

The plain scale is always among the candidates, so a search is never worse than none in its own measure.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .blocks import Blocks
from .rules import RATIOS, SHRINKS, Rule, Scale

REFITTED = 3  # of the candidates: the best without a refit is nearly always among the best with one
REFITS = 2
CHUNK = 2**20  # weights at once: their temporaries fit the last cache
POWER = 2.4  # GPTQ's norm


def search(
    w: Tensor, blocks: Blocks, rule: Rule, how: str, *, h: Tensor | None = None, percentile: float = 99.9
) -> Scale:
    """(scale, zero) of w [out, in] float32, each float32 [counts]; h [in] for "activation"."""

    def of(part: Tensor, cut: Blocks) -> Scale:
        if how == "percentile":
            return rule.clipped(part, cut, _percentile(part, cut, percentile))
        if how == "mse":
            return _least(part, cut, rule, SHRINKS, lambda e: e.abs().pow_(POWER))
        assert h is not None
        return _refitted(part, cut, rule, h)

    return _by_rows(w, blocks, of)


def _by_rows(w: Tensor, blocks: Blocks, of: Callable[[Tensor, Blocks], Scale]) -> Scale:
    """`of` for runs of whole blocks of rows, put together."""
    step = max(1, CHUNK // max(1, blocks.rows * w.shape[1])) * blocks.rows
    found = []
    for start in range(0, w.shape[0], step):
        part = w[start : start + step].contiguous()
        found.append(of(part, Blocks((part.shape[0], part.shape[1]), blocks.rows, blocks.columns)))
    scales, zeros = zip(*found, strict=True)
    return torch.cat(scales), None if zeros[0] is None else torch.cat(zeros)


def _percentile(w: Tensor, blocks: Blocks, percentile: float) -> Tensor:
    """The p-th percentile of |w| in each block [counts], p in percent, with NumPy's linear interpolation."""
    limits = torch.empty(blocks.counts)
    for i in range(blocks.counts[0]):
        rows = w[i * blocks.rows : (i + 1) * blocks.rows].abs()
        for j in range(blocks.counts[1]):
            part = rows[:, j * blocks.columns : (j + 1) * blocks.columns].flatten().sort().values
            place = percentile / 100 * (len(part) - 1)
            below = part[int(place)]
            limits[i, j] = below + (part[min(int(place) + 1, len(part) - 1)] - below) * (place - int(place))
    return limits


def _decoded(w: Tensor, blocks: Blocks, rule: Rule, scale: Tensor, zero: Tensor | None) -> tuple[Tensor, Tensor]:
    """(values in units of the scale, values) of w on the grid."""
    wide, offset = blocks.expand(scale), None if zero is None else blocks.expand(zero)
    steps = rule.grid.decode(rule.grid.encode(w / wide, offset))
    steps = steps if offset is None else steps - offset
    return steps, steps * wide


def _least(
    w: Tensor, blocks: Blocks, rule: Rule, ratios: tuple[float, ...], measure: Callable[[Tensor], Tensor]
) -> Scale:
    """The candidate of least measure in each block; the earlier one of two that are equal."""
    best, least = None, None
    for candidate in rule.candidates(w, blocks, ratios):
        loss = blocks.reduce(measure(_decoded(w, blocks, rule, *candidate)[1] - w), "sum")
        best, least = (candidate, loss) if best is None or least is None else _better(best, least, candidate, loss)
    assert best is not None
    return best


def _better(best: Scale, least: Tensor, other: Scale, loss: Tensor) -> tuple[Scale, Tensor]:
    """Block by block the one of smaller loss."""
    take = loss < least
    scale = torch.where(take, other[0], best[0])
    zero = None if best[1] is None or other[1] is None else torch.where(take, other[1], best[1])
    return (scale, zero), torch.where(take, loss, least)


def _refitted(w: Tensor, blocks: Blocks, rule: Rule, h: Tensor) -> Scale:
    """The activation-weighted search."""

    def loss_of(scale: Tensor, zero: Tensor | None) -> tuple[Tensor, Tensor]:
        steps, values = _decoded(w, blocks, rule, scale, zero)
        return steps, blocks.reduce(h * (values - w).square_(), "sum")

    tried = list(rule.candidates(w, blocks, RATIOS))
    losses = torch.stack([loss_of(*candidate)[1] for candidate in tried])
    order = losses.sort(dim=0, stable=True)
    scales = torch.stack([scale for scale, _ in tried])
    zeros = None if tried[0][1] is None else torch.stack([zero for _, zero in tried if zero is not None])

    def ranked(r: int) -> Scale:
        picked = order.indices[r : r + 1]
        return scales.gather(0, picked)[0], None if zeros is None else zeros.gather(0, picked)[0]

    best, least = ranked(0), order.values[0]
    for rank in range(min(REFITTED, len(tried)) if rule.keep.continuous else 0):
        scale, zero = ranked(rank)
        for _ in range(REFITS):
            steps, _loss = loss_of(scale, zero)
            scale = _least_squares(w, steps, blocks, h, scale, rule)
            best, least = _better(best, least, (scale, zero), loss_of(scale, zero)[1])
    return best


def _least_squares(w: Tensor, steps: Tensor, blocks: Blocks, h: Tensor, scale: Tensor, rule: Rule) -> Tensor:
    """s = sum h w (q - z) / sum h (q - z)^2 of each block; the old scale where that has not its sign."""
    weighted = h * steps
    above, below = blocks.reduce(weighted * w, "sum"), blocks.reduce(weighted * steps, "sum")
    fitted = above / torch.where(below == 0, torch.ones_like(below), below)
    return rule.keep.rounded(torch.where((below > 0) & (fitted * scale > 0), fitted, scale))
