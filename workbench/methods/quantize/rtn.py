"""Round to nearest: every weight to the closest point of a grid. The floor every method must beat.

The scale comes from the range of each tensor, output channel or group, or from a search over it. Nothing else is
fitted. Grids, blocks and searches: `workbench.grid.scheme`; conventions of integers: `workbench.grid.affine`.
"""

from __future__ import annotations

from torch import Tensor

from ...grid import CompressedWeight
from ..base import Statistics
from ..rounding import Rounding


class RTN(Rounding):
    """Round to nearest on a grid."""

    name = "rtn"
    summary = "Round to nearest: each weight to the closest point of a grid"
    source = "baseline of GPTQ (Frantar et al. 2023) and AWQ (Lin et al. 2024); grids as in their quantizers"

    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        """w [out, in] float32 to codes, scales and zeros."""
        return self.quantize(w, self.given(statistics).mean_square if self.needed else None)
