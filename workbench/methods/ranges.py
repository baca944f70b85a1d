"""Ranges that learn: a static one of activations, the clipped ones of weights, and the quantizer that both go through.

MobileQuant (Tan et al. 2024; saic-fi/MobileQuant, qmodule.py) with 0 kept inside every range.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from ..grid import Blocks, InputQuantizer, IntGrid
from ..grid.rules import Keep


def fake_quantize(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """x' = (clamp(round(x / s) + o, 0, 2^b - 1) - o) s. Straight through the rounding: a code at a bound that was not
    clipped passes its gradient, a clipped one gives it to s and o."""
    return ((through(x / scale) + zero).clamp(0, 2**bits - 1) - zero) * scale


def through(x: Tensor) -> Tensor:
    """Rounded, half to even, with the gradient of the identity."""
    return x + (x.round() - x).detach()


class Range:
    """A static range of activations that can learn: scale * stretch, and zero + (2^b - 1) * shift, rounded."""

    def __init__(self, scale: float, zero: float, bits: int):
        self.bits, self._scale, self._zero = bits, scale, zero
        self.stretch, self.shift = torch.ones((), requires_grad=True), torch.zeros((), requires_grad=True)

    @classmethod
    def of(cls, low: float, high: float, bits: int) -> Range:
        """For values in [low, high] and 0."""
        found = InputQuantizer.fit(WideGrid(bits=bits), low, high)
        assert found.scale is not None
        assert found.zero is not None
        return cls(found.scale, found.zero, bits)

    @property
    def scale(self) -> Tensor:
        return self._scale * self.stretch

    @property
    def zero(self) -> Tensor:
        top = 2**self.bits - 1
        return through(self._zero + top * self.shift).clamp(0, top)

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and highest value."""
        scale, zero = self.scale.item(), self.zero.item()
        return -zero * scale, (2**self.bits - 1 - zero) * scale

    @property
    def quantizer(self) -> InputQuantizer:
        grid = IntGrid(bits=self.bits) if self.bits <= 8 else WideGrid(bits=self.bits)
        return InputQuantizer(grid, "tensor", self.scale.item(), self.zero.item())

    def __call__(self, x: Tensor) -> Tensor:
        return fake_quantize(x, self.scale, self.zero, self.bits)


class Clip:
    """Learned ends of the weights' ranges, a pair a block: max' = sigmoid(u) max(w, 0), min' = sigmoid(l) min(w, 0)."""

    def __init__(self, start: float, blocks: Blocks):
        self.blocks = blocks
        self.upper, self.lower = (
            torch.full(blocks.counts, float(start), requires_grad=True) for _ in range(2)
        )

    def grid(self, w: Tensor, bits: int, keep: Keep | None = None) -> tuple[Tensor, Tensor]:
        """(scale, zero) [counts] of w [out, in]; scales as `keep` stores them. A block of zeros has scale 1."""
        high = torch.sigmoid(self.upper) * self.blocks.reduce(w, "amax").clamp(min=0)
        low = torch.sigmoid(self.lower) * self.blocks.reduce(w, "amin").clamp(max=0)
        scale = (high - low) / (2**bits - 1)
        scale = torch.where(scale <= torch.finfo(torch.float32).tiny, torch.ones_like(scale), scale)
        if keep is not None:
            scale = scale + (keep.rounded(scale) - scale).detach()
        return scale, through(-low / scale).clamp(0, 2**bits - 1)

    def quantized(self, w: Tensor, bits: int, keep: Keep | None = None) -> Tensor:
        """w on its grid, differentiable in w, u and l."""
        scale, zero = (self.blocks.expand(each) for each in self.grid(w, bits, keep))
        return fake_quantize(w, scale, zero, bits)


class WideGrid(IntGrid):
    """Unsigned integers of up to 16 bits, for activations."""

    bits: int = Field(ge=1, le=16)

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.bits <= 8 else torch.int32
