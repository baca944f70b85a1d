"""Fit: a grid laid over one weight. What the scale search finds, and what rounding methods round to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import Refused
from .affine import encode
from .blocks import Blocks
from .compressed import CompressedWeight
from .grids import Grid, IntGrid, TableGrid


@dataclass(frozen=True)
class Fit:
    """Grid, blocks that share a scale, and their scales and zeros (as in CompressedWeight); no codes yet."""

    grid: Grid
    blocks: Blocks
    scale: Tensor | CompressedWeight | None = None
    zero: Tensor | None = None

    @property
    def scales(self) -> Tensor:
        """The scale of each block, float32 [counts]."""
        if self.scale is None:
            return torch.ones(self.blocks.counts)
        return self.scale.dequantize() if isinstance(self.scale, CompressedWeight) else self.scale.float()

    def encode(self, w: Tensor) -> CompressedWeight:
        """w [out, in] float32 at the nearest points. Refused where a scale is not finite."""
        return self.checked().compressed(self._codes(w, self.scales))

    def checked(self) -> Fit:
        """The same. Refused where a scale is not finite."""
        finite = torch.isfinite(self.scales)
        if not finite.all():
            bad = (~finite).nonzero()[0].tolist()
            raise Refused(
                f"the scale of block {bad} is not finite: look for huge weights there, or prune them"
            )
        return self

    def _codes(self, w: Tensor, scales: Tensor) -> Tensor:
        from . import fused, tables  # numba: half a second that who only lists layers need not wait

        if isinstance(self.grid, IntGrid) and (self.zero is None or not self.zero.is_floating_point()):
            return encode(w, self.grid, self.blocks, scales, self.zero)
        if isinstance(self.grid, TableGrid) and self.zero is None and fused.fits(w, self.blocks):
            return tables.encode(w, self.grid, self.blocks, scales)
        x = w.float() / self.blocks.expand(scales)
        # A zero that is no integer has to be added before rounding.
        return self.grid.encode(x if self.zero is None else x + self.blocks.expand(self.zero.float()))

    def compressed(self, codes: Tensor) -> CompressedWeight:
        """These codes [out, in] under this grid."""
        return CompressedWeight(self.grid, codes, self.blocks, self.scale, self.zero)
