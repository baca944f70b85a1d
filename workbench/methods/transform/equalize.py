"""Weight equalization across layers (CLE): two layers in a row share the burden of their ranges.

Through an activation with f(c y) = c f(y) for c > 0 (ReLU, none at all), row i of the first layer can be multiplied by
c and column i of the second divided by it; c is chosen so that both end with the same range. It needs pairs of layers,
so it works on the whole model before anything else does: `engine.fold.equalized` walks over the pairs. Helps grids
that are shared by a whole tensor. Nagel et al. 2019, section 4.1.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ...grid import CompressedWeight, uncompressed
from ..base import Method, Statistics

UNTOUCHED = 1e-9  # a channel of less range on either side stays as it is, as in the reference


def factor(rows: Tensor, columns: Tensor, alpha: float = 0.5) -> Tensor:
    """c [channels] that the source is multiplied by and the consumer divided by; rows and columns [channels] are their
    ranges. c = columns^(1 - alpha) / rows^alpha: at alpha = 1/2 both ranges become sqrt(rows * columns)."""
    dead = (rows <= UNTOUCHED) | (columns <= UNTOUCHED)
    ones = torch.ones_like(rows)
    c = torch.where(dead, ones, columns) ** (1 - alpha) / torch.where(dead, ones, rows) ** alpha
    return torch.where(dead, ones, c)


class Equalize(Method):
    """Share the ranges of two layers in a row."""

    name = "equalize"
    kind = "transform"
    summary = "Weight equalization (CLE): layers in a row share their ranges, channel by channel"
    source = "Nagel et al. 2019 (DFQ), section 4.1; brevitas, equalize.py"
    whole_model = True

    alpha: float = Field(
        0.5, ge=0, le=1, description="share of the burden; 0.5: both layers end with the same range",
        json_schema_extra={"stops": [0.25, 0.5, 0.75], "more": True},
    )  # fmt: skip
    iterations: int = Field(
        20, ge=1, le=100, description="passes over all pairs at most; it ends earlier where nothing moves",
        json_schema_extra={"stops": [1, 5, 20, 50]},
    )  # fmt: skip
    bias: bool = Field(
        False, description="count the bias of the first layer in its range", json_schema_extra={"more": True}
    )

    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        """One layer alone has nothing to share: it stays as it is."""
        return uncompressed(w)
