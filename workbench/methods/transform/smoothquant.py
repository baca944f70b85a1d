"""SmoothQuant: the range of loud input channels moves from the activations, which no 8-bit grid fits, into the weights.

x / s and w * s with s = max|x|^alpha / max|w|^(1 - alpha), channel by channel; at alpha = 1/2 both sides end with the
same maxima. It rounds nothing by itself: put it before a quantizer and `Activations`. Xiao et al. 2023.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from ..base import Statistics, Transform

FLOOR = 1e-5  # of a weight channel's maximum and of a scale, as in the reference


class SmoothQuant(Transform):
    """Divide loud input channels by s, multiply their weights by s."""

    name = "smoothquant"
    kind = "transform"
    summary = "SmoothQuant: moves the range of loud input channels from activations into weights"
    source = "Xiao et al. 2023, equation 4; mit-han-lab/smoothquant, smooth.py"
    needs = frozenset({"max_abs"})

    alpha: float = Field(
        0.5,
        ge=0,
        le=1,
        description="how much of the range moves; 0: weights keep equal maxima, 1: activations do",
        json_schema_extra={"stops": [0.0, 0.25, 0.5, 0.6, 0.75, 0.85, 1.0]},
    )

    def scales(self, weights: Sequence[Tensor], statistics: Statistics) -> Tensor:
        """s [in] = a^alpha / m^(1 - alpha) of a = max|x| and m = max|w| over all weights [out_i, in] that read x.

        A channel that was silent in calibration gets the geometric mean of the others: the reference's floor would
        multiply it by 1e5 the first time that it speaks, and 1 would let it outgrow its row where the others are small.
        """
        loud = self.given(statistics).max_abs
        assert loud is not None
        largest = torch.stack([w.abs().amax(0) for w in weights]).amax(0).clamp(min=FLOOR)
        s = (loud**self.alpha / largest ** (1 - self.alpha)).clamp(min=FLOOR)
        live = s[loud > 0]
        return torch.where(loud > 0, s, live.log().mean().exp() if len(live) else torch.ones(()))

    @property
    def label(self) -> str:
        return f"smoothquant {self.alpha:g}"
