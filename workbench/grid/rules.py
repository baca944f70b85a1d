"""Rules: how the scale of a block follows from its weights, and how scales are kept.

`Rule` is one number a block, without a zero point; `AffineRule` has two, for unsigned integers. What a rule gives is
rounded as it will be stored, so that everything computed from it holds for the stored scale. `Keep` is the storing:
a float dtype here, a power of two or a second level of scales in `mx`, `codebook` and `nvfp4`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .affine import block_range
from .blocks import Blocks
from .compressed import CompressedWeight
from .grids import Grid, IntGrid

# Clip ratios of the activation-weighted search: 1, 0.975, ..., 0.525.
RATIOS = tuple(1 - 0.025 * i for i in range(20))
# GPTQ's search for the range: grid = 100, maxshrink = 0.8.
SHRINKS = tuple(1 - i / 100 for i in range(80))

Scale = tuple[Tensor, Tensor | None]  # (scale, zero), float32 of the shape `blocks.counts`


@dataclass(frozen=True)
class Keep:
    """Scales as a float dtype. Where one of them is no normal number there, all of them stay float32."""

    dtype: torch.dtype = torch.float16

    def rounded(self, scale: Tensor) -> Tensor:
        """float32 scales as they come back from the store."""
        limits = torch.finfo(self.dtype)
        size = scale.abs()
        return torch.where((size < limits.tiny) | (size > limits.max), scale, scale.to(self.dtype).float())

    def pack(self, scale: Tensor) -> Tensor | CompressedWeight:
        """float32 scales [counts] as they are stored."""
        stored = scale.to(self.dtype)
        return stored if torch.equal(stored.float(), scale) else scale

    def factors(self, ratios: tuple[float, ...]) -> tuple[float, ...]:
        """What a search multiplies the plain scale with, if the range is to shrink by these ratios."""
        return ratios

    @property
    def continuous(self) -> bool:
        """Whether a scale fitted by least squares can be kept closely."""
        return True


@dataclass(frozen=True)
class Rule:
    """scale = of(w, blocks), without a zero point. `of` gives float32 [counts], 0 for a block of zeros."""

    grid: Grid
    keep: Keep
    of: Callable[[Tensor, Blocks], Tensor]

    def plain(self, w: Tensor, blocks: Blocks) -> Scale:
        """The scales of w [out, in] without a search."""
        return self._stored(self.of(w, blocks)), None

    def candidates(self, w: Tensor, blocks: Blocks, ratios: tuple[float, ...]) -> Iterator[Scale]:
        """The plain scales first, then with the range shrunk."""
        whole = self.of(w, blocks)
        for factor in self.keep.factors(ratios):
            yield self._stored(whole * factor), None

    def clipped(self, w: Tensor, blocks: Blocks, limit: Tensor) -> Scale:
        """With |w| cut at `limit` [counts] first."""
        bound = blocks.expand(limit)
        return self.plain(w.clamp(-bound, bound), blocks)

    def _stored(self, scale: Tensor) -> Tensor:
        return self.keep.rounded(torch.where(scale == 0, torch.ones_like(scale), scale))


@dataclass(frozen=True)
class AffineRule(Rule):
    """Unsigned integers with a zero point: the range of the block and 0. `of` is not used."""

    grid: IntGrid

    def plain(self, w: Tensor, blocks: Blocks) -> Scale:
        return self._of_range(*self._range(w, blocks))

    def candidates(self, w: Tensor, blocks: Blocks, ratios: tuple[float, ...]) -> Iterator[Scale]:
        """Both ends shrunk, then the low end only, then the high end only."""
        low, high = self._range(w, blocks)
        for p in ratios:
            yield self._of_range(low * p, high * p)
        for p in ratios[1:]:
            yield self._of_range(low * p, high)
        for p in ratios[1:]:
            yield self._of_range(low, high * p)

    def clipped(self, w: Tensor, blocks: Blocks, limit: Tensor) -> Scale:
        low, high = self._range(w, blocks)
        return self._of_range(torch.maximum(low, -limit), torch.minimum(high, limit))

    def _range(self, w: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
        low, high = block_range(w, blocks)
        return low.clamp(max=0), high.clamp(min=0)

    def _of_range(self, low: Tensor, high: Tensor) -> Scale:
        scale = self._stored((high - low) / self.grid.highest)
        return scale, (-(low / scale).round()).clamp_(0, self.grid.highest)


def absmax(peak: float) -> Callable[[Tensor, Blocks], Tensor]:
    """scale = max |w| / peak: the largest weight lies on the grid's largest value."""

    def of(w: Tensor, blocks: Blocks) -> Tensor:
        low, high = block_range(w, blocks)
        return torch.maximum(-low, high) / peak

    return of


def signed_extreme(peak: float) -> Callable[[Tensor, Blocks], Tensor]:
    """scale = -w_ext / peak, w_ext the weight of largest magnitude with its sign: it lies on the lowest value."""

    def of(w: Tensor, blocks: Blocks) -> Tensor:
        low, high = block_range(w, blocks)
        return torch.where(-low > high, low, high) / -peak

    return of
