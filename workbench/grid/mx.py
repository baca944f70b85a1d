"""OCP Microscaling formats and NVFP4: small floats in short blocks along the input, with scales of 8 bits.

MX: 32 elements share a power of two, stored as E8M0 (OCP Microscaling 1.0; microxcaling; torchao `mx_tensor.py`).
NVFP4: 16 elements of E2M1 share a scale in E4M3, and those one float32 a tensor (NVIDIA ModelOpt `nvfp4_tensor.py`).
The blocks lie along the input because that is summed over, so a transposed matrix is another rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from .affine import block_range
from .blocks import Blocks
from .compressed import CompressedWeight
from .grids import Grid
from .minifloat import MiniFloat
from .rules import Family, Keep, Rule, absmax

ScaleRule = Literal["floor", "rceil", "ceil", "even"]
MX_BLOCK, NVFP4_BLOCK = 32, 16
E2M1 = MiniFloat(exponent_bits=2, mantissa_bits=1)
E4M3 = MiniFloat(exponent_bits=4, mantissa_bits=3, specials="nan")


class FixedPoint(Grid):
    """Integers over 2^fraction_bits, without the lowest code: MXINT8 is 8 bits with 6 after the point."""

    bits: int = Field(default=8, ge=2, le=8)
    fraction_bits: int = Field(default=6, ge=0, le=7)

    @property
    def code_bits(self) -> int:
        return self.bits

    @property
    def values(self) -> Tensor:
        most = 2 ** (self.bits - 1) - 1
        return torch.arange(-most, most + 1) / 2**self.fraction_bits

    def encode(self, x: Tensor, zero: Tensor | None = None) -> Tensor:
        most = 2 ** (self.bits - 1) - 1
        steps = (x if zero is None else x + zero) * 2**self.fraction_bits
        return steps.round().clamp_(-most, most).to(torch.int8)

    def decode(self, codes: Tensor) -> Tensor:
        return codes.float() / 2**self.fraction_bits


ELEMENTS: dict[str, Grid] = {
    "mxfp4": E2M1,
    "mxfp6": MiniFloat(exponent_bits=2, mantissa_bits=3),
    "mxfp6_e3m2": MiniFloat(exponent_bits=3, mantissa_bits=2),
    "mxfp8": E4M3,
    "mxfp8_e5m2": MiniFloat(exponent_bits=5, mantissa_bits=2, specials="ieee"),
    "mxint8": FixedPoint(),
}


@dataclass(frozen=True)
class PowerOfTwo(Keep):
    """Scales as E8M0, one byte: 2^-127..2^127. A scale in between becomes the next power up, so that nothing is
    clipped. A search tries the neighbouring powers."""

    dtype: torch.dtype = torch.float8_e8m0fnu

    def rounded(self, scale: Tensor) -> Tensor:
        fraction, exponent = torch.frexp(scale)
        return _power(torch.where(fraction == 0.5, exponent - 1, exponent))

    def holds(self, scale: Tensor) -> bool:
        return True

    @property
    def multiples(self) -> Family:
        return tuple((p, p) for p in (1.0, 0.5, 0.25, 2.0))


@dataclass(frozen=True)
class TwoLevel(Keep):
    """Scales as E4M3 times one float32 for the tensor."""

    dtype: torch.dtype = torch.float8_e4m3fn
    tensor: float = 1.0

    @property
    def nothing(self) -> float:
        return self.tensor

    def rounded(self, scale: Tensor) -> Tensor:
        return E4M3.decode(self._codes(scale)) * self.tensor

    def holds(self, scale: Tensor) -> bool:
        return True

    def pack(self, scale: Tensor) -> CompressedWeight:
        blocks = Blocks((scale.shape[0], scale.shape[1]), *scale.shape)
        return CompressedWeight(E4M3, self._codes(scale), blocks, torch.tensor([[self.tensor]]))

    def _codes(self, scale: Tensor) -> Tensor:
        """Blocks whose scale is rounded to 0 get 1, after the rounding: nothing may be divided by 0."""
        codes = E4M3.encode(scale / self.tensor)
        return torch.where(E4M3.decode(codes) == 0, E4M3.encode(torch.ones(())), codes)


def mx_rule(grid: Grid, how: ScaleRule) -> Rule:
    """The rule of an MX format with these elements."""
    return Rule(grid, PowerOfTwo(), shared_exponent(grid, how))


def nvfp4_rule(w: Tensor) -> Rule:
    """The rule of NVFP4 for a matrix: its largest weight gets the largest scale, 448."""
    largest = float(w.abs().max()) if w.numel() else 0.0
    tensor = float(torch.tensor(largest / (E2M1.largest * E4M3.largest)))  # as it is stored, in float32
    return Rule(E2M1, TwoLevel(tensor=tensor or 1.0), absmax(E2M1.largest))


def shared_exponent(grid: Grid, how: ScaleRule) -> Callable[[Tensor, Blocks], Tensor]:
    """2^e for each block, from its largest |w| = m and the grid's emax = floor(log2 largest):

    floor   e = floor(log2 m) - emax: the rule of OCP; an m with a long mantissa is clipped
    rceil   e = ceil(log2(m / largest)): the least power that clips nothing
    ceil    e = ceil(log2 m) - emax
    even    e = floor(log2 m') - emax, m' = m rounded to the mantissa of the elements
    """
    top = math.frexp(grid.largest)[1]
    mantissa = grid.mantissa_bits if isinstance(grid, MiniFloat) else 6

    def of(w: Tensor, blocks: Blocks) -> Tensor:
        low, high = block_range(w, blocks)
        size = torch.maximum(-low, high)
        # frexp gives m = f 2^e with f in [1/2, 1): exact, where log2 in float32 is not.
        fraction, exponent = torch.frexp(size)
        if how == "rceil":
            fraction, exponent = torch.frexp(size.double() / grid.largest)
            shared = torch.where(fraction == 0.5, exponent - 1, exponent)
        else:
            more = {
                "floor": torch.zeros_like(fraction, dtype=torch.bool),
                "ceil": fraction > 0.5,
                "even": 2 * fraction >= 2 - 2.0 ** -(mantissa + 1),
            }[how]
            shared = exponent - top + more
        return torch.where(size > 0, _power(shared), torch.zeros_like(size))

    return of


def _power(exponent: Tensor) -> Tensor:
    """2^exponent as float32, within the range of E8M0; exact, which pow need not be."""
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent.clamp(-127, 127))
