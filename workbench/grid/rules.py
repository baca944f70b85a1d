"""Rules: how the scale of a block follows from its weights, and how scales are kept.

A rule measures the blocks once; from that come the plain scale and those of a range whose low end is a times, whose
high end b times as far out. `Rule` is one number a block, without a zero point; `AffineRule` has two, for unsigned
integers. What a rule gives is rounded as it will be stored, so that all that is computed from it holds for what is
stored. `Keep` is the storing: a float dtype here, powers of two and a second level of scales in files of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from .affine import block_range
from .blocks import Blocks
from .compressed import CompressedWeight
from .grids import Grid, IntGrid

Scale = tuple[Tensor, Tensor | None]  # (scale, zero), float32 of the shape `blocks.counts`
Family = tuple[tuple[float, float], ...]  # ratios (a, b) of the low and the high end; the first is (1, 1)

# The activation-weighted search: 1, 0.962, ..., 0.278 on both ends, on the low end, on the high end. Steps of 0.025,
# down to 0.525, lose up to 1 % more: at 2 bits, and over many weights, the best range is a third of the whole.
RATIOS = tuple(1 - 0.038 * i for i in range(20))
BOTH: Family = tuple((p, p) for p in RATIOS)
ENDS: tuple[Family, ...] = (BOTH, tuple((p, 1.0) for p in RATIOS), tuple((1.0, p) for p in RATIOS))
# Without a zero point there is one end. Every third ratio is a family, so that three candidates are refitted as well.
THIRDS: tuple[Family, ...] = tuple(((1.0, 1.0), *BOTH[start::3]) for start in (1, 2, 3))
# GPTQ's search for the range: grid = 100, maxshrink = 0.8.
SHRINKS: Family = tuple((1 - i / 100, 1 - i / 100) for i in range(80))


@dataclass(frozen=True)
class Keep:
    """Scales as a float dtype."""

    dtype: torch.dtype = torch.float16

    @property
    def nothing(self) -> float:
        """The scale of a block of zeros."""
        return 1.0

    def rounded(self, scale: Tensor) -> Tensor:
        """float32 scales as they come back from the store."""
        return torch.where(self._normal(scale), scale.to(self.dtype).float(), scale)

    def holds(self, scale: Tensor) -> bool:
        """Whether no scale loses digits or its range. Then all of them have to be wider."""
        return bool(self._normal(scale).all())

    def wider(self) -> Keep:
        return Keep(torch.float32)

    def pack(self, scale: Tensor) -> Tensor | CompressedWeight:
        """float32 scales [counts] as they are stored; all of them wider where one would lose by it."""
        return scale.to(self.dtype) if self.holds(scale) else scale

    @property
    def multiples(self) -> Family | None:
        """The only multiples of a scale that can be kept, for a search; None where any can, closely."""
        return None

    def _normal(self, scale: Tensor) -> Tensor:
        limits, size = torch.finfo(self.dtype), scale.abs()
        return ~((size < limits.tiny) | (size > limits.max))  # NaN is left to whoever looks at the scales


@dataclass(frozen=True)
class Rule:
    """scale = of(w, blocks), without a zero point. `of` gives float32 [counts], 0 for a block of zeros."""

    grid: Grid
    keep: Keep
    of: Callable[[Tensor, Blocks], Tensor]

    def measured(self, w: Tensor, blocks: Blocks) -> tuple[Tensor, ...]:
        """What is known of the blocks of w [out, in]."""
        return (self.of(w, blocks),)

    def scale(self, measured: tuple[Tensor, ...], a: float = 1, b: float = 1) -> Scale:
        """Scale and zero of each block, its range shrunk by a and b."""
        return self._stored(measured[0] * b), None

    def plain(self, w: Tensor, blocks: Blocks) -> Scale:
        return self.scale(self.measured(w, blocks))

    def clipped(self, w: Tensor, blocks: Blocks, limit: Tensor) -> Scale:
        """With |w| cut at `limit` [counts] first."""
        bound = blocks.expand(limit)
        return self.plain(w.clamp(-bound, bound), blocks)

    @property
    def families(self) -> tuple[Family, ...]:
        """Candidates of the activation-weighted search: the best of each family is refitted."""
        return THIRDS if self.keep.multiples is None else (self.keep.multiples,)

    @property
    def shrinks(self) -> Family:
        """Candidates of the search by mean error."""
        return self.keep.multiples or SHRINKS

    def wider(self) -> Self:
        return replace(self, keep=self.keep.wider())

    def _stored(self, scale: Tensor) -> Tensor:
        return self.keep.rounded(torch.where(scale == 0, self.keep.nothing, scale))


@dataclass(frozen=True)
class AffineRule(Rule):
    """Unsigned integers with a zero point: the range of the block and 0. `of` is not used."""

    grid: IntGrid

    def measured(self, w: Tensor, blocks: Blocks) -> tuple[Tensor, ...]:
        low, high = block_range(w, blocks)
        return low.clamp(max=0), high.clamp(min=0)

    def scale(self, measured: tuple[Tensor, ...], a: float = 1, b: float = 1) -> Scale:
        low, high = measured[0] * a, measured[1] * b
        scale = self._stored((high - low) / self.grid.highest)
        return scale, (-(low / scale).round()).clamp_(0, self.grid.highest)

    def clipped(self, w: Tensor, blocks: Blocks, limit: Tensor) -> Scale:
        low, high = self.measured(w, blocks)
        return self.scale((torch.maximum(low, -limit), torch.minimum(high, limit)))

    @property
    def families(self) -> tuple[Family, ...]:
        return ENDS if self.keep.multiples is None else (self.keep.multiples,)


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
