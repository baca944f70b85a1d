"""InputQuantizer: activations on a grid (WxAy). Fake quantization: values in, the nearest representable values out.

Per token and dynamic: every row of x has its own range, found when it arrives. Per tensor and static: one scale and
zero point from calibration. In blocks and dynamic: the MX formats and NVFP4, whose scales belong to 32 or 16 channels
of a token. The grids are those of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .grids import Grid, IntGrid


@dataclass(frozen=True)
class InputQuantizer:
    """Quantizes x [..., in]. `scale` and `zero` are set for "tensor" (static); None for "token" (dynamic). `format` is
    set for "block": its scheme does the work, and `grid` is that of the elements."""

    grid: Grid
    granularity: Literal["token", "tensor", "block"] = "token"
    scale: float | None = None
    zero: float | None = None
    format: str = ""

    @classmethod
    def fit(
        cls, grid: Grid, low: float, high: float, granularity: Literal["token", "tensor"] = "tensor"
    ) -> InputQuantizer:
        """Static, for values in [low, high]."""
        scale, zero = _scale(grid, torch.tensor([low]), torch.tensor([high]))
        return cls(grid, granularity, float(scale), None if zero is None else float(zero))

    @property
    def label(self) -> str:
        return f"a {self.format}" if self.format else f"a{self.grid.code_bits} {self.granularity}"

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """(codes, scale, zero) of x; scale and zero broadcast against it."""
        if self.scale is not None:
            scale = torch.as_tensor(self.scale, dtype=x.dtype)
            zero = None if self.zero is None else torch.as_tensor(self.zero, dtype=x.dtype)
        else:
            scale, zero = _scale(self.grid, x.amin(-1, keepdim=True), x.amax(-1, keepdim=True))
        return self.grid.encode(x / scale, zero), scale, zero

    def __call__(self, x: Tensor) -> Tensor:
        if self.granularity == "block":
            from .scheme import Scheme  # which knows compressed weights, and they know quantized inputs

            rows = x.float().reshape(-1, x.shape[-1])
            return Scheme(format=self.format).quantize(rows).dequantize().reshape(x.shape).to(x.dtype)
        codes, scale, zero = self.parts(x.float())
        values = self.grid.decode(codes)
        return ((values if zero is None else values - zero) * scale).to(x.dtype)


def _scale(grid: Grid, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor | None]:
    """Scale and zero for ranges; unsigned integer grids have a zero point and always represent 0."""
    if isinstance(grid, IntGrid) and not grid.signed:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = (high - low) / grid.highest
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        return scale, (-(low / scale).round()).clamp(0, grid.highest)
    scale = torch.maximum(-low, high) / grid.largest
    return torch.where(scale <= 0, torch.ones_like(scale), scale), None
