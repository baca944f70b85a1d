"""MiniFloat: floats of 3 to 8 bits with any split into sign, exponent and mantissa.

Codes are the bit patterns (sign, exponent, mantissa), subnormals included; what lies beyond the largest value becomes
it. Sources: brevitas `core/quant/float.py` (all codes finite), OCP 8-bit floating point 1.0 (E4M3, E5M2), OCP
Microscaling 1.0 (E2M1, E2M3, E3M2), microxcaling (half away from zero).
"""

from __future__ import annotations

import math
import re
from functools import cached_property
from typing import Any, Literal, Self

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor

from ..errors import Refused
from .grids import TableGrid


class MiniFloat(TableGrid):
    """1 sign, `exponent_bits` and `mantissa_bits`; the bias is 2^(E-1) - 1 unless given.

    `specials`: none (every code is finite), nan (the code of all ones is NaN: E4M3 up to 448) or ieee (the highest
    exponent is infinity and NaN: E5M2 up to 57344). They are never made, only decoded. E1Mx is the narrow integer of
    the same width exactly.
    """

    mirrored = True

    exponent_bits: int = Field(ge=1, le=7)
    mantissa_bits: int = Field(ge=0, le=6)
    bias: int | None = Field(default=None, ge=-32, le=96)
    specials: Literal["none", "nan", "ieee"] = "none"
    ties: Literal["even", "away"] = "even"

    @model_validator(mode="after")
    def _fits_a_byte(self) -> Self:
        if not 3 <= self.code_bits <= 8:
            raise ValueError(f"1 + {self.exponent_bits} + {self.mantissa_bits} bits: take 3 to 8 in all")
        if not torch.isfinite(self.ladder).all() or self.largest == 0:
            raise ValueError(
                f"bias {self.bias} gives values that float32 cannot hold: take one nearer to the default"
            )
        return self

    @property
    def code_bits(self) -> int:
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def name(self) -> str:
        return f"e{self.exponent_bits}m{self.mantissa_bits}"

    @cached_property
    def ladder(self) -> Tensor:
        """The finite values that are not negative, float32, in the order of their codes, which is ascending."""
        exponents, fractions = 2**self.exponent_bits, 2**self.mantissa_bits
        bias = 2 ** (self.exponent_bits - 1) - 1 if self.bias is None else self.bias
        subnormal = [m * 2.0 ** (1 - bias) / fractions for m in range(fractions)]
        normal = [
            (1 + m / fractions) * 2.0 ** (e - bias) for e in range(1, exponents) for m in range(fractions)
        ]
        dropped = {"none": 0, "nan": 1, "ieee": fractions}[self.specials]
        return torch.tensor((subnormal + normal)[: exponents * fractions - dropped])

    @cached_property
    def table(self) -> Tensor:
        beyond = torch.full((2 ** (self.code_bits - 1) - len(self.ladder),), torch.nan)
        if self.specials == "ieee":
            beyond[0] = torch.inf
        half = torch.cat([self.ladder, beyond])
        return torch.cat([half, -half])

    @property
    def values(self) -> Tensor:
        return torch.cat([-self.ladder[1:].flip(0), self.ladder])

    def _upper(self) -> Tensor:
        # The last bit of a code is that of the mantissa, so an even code is an even value. Without a mantissa all but 0
        # are odd: then IEEE 754 takes the larger one.
        below = torch.arange(len(self.ladder) - 1)
        if self.ties == "away":
            return below >= 0
        return below % 2 == 1 if self.mantissa_bits else below > 0

    @property
    def largest_exponent(self) -> int:
        """floor(log2) of the largest value: emax of the OCP formats."""
        return math.frexp(self.largest)[1] - 1

    def encode(self, x: Tensor, zero: Tensor | None = None) -> Tensor:
        x = x.float() if zero is None else x.float() + zero
        size = torch.bucketize(x.abs(), self.borders, out_int32=True).to(torch.uint8)
        return size | (x.signbit().to(torch.uint8) << (self.code_bits - 1))


_NAME = re.compile(r"e([1-7])m([0-6])(?:b(-?\d+))?(?:_(none|nan|ieee))?")
_OCP = {"e4m3": "nan", "e5m2": "ieee"}


def minifloat(name: str) -> MiniFloat | None:
    """The format of a name like e2m1, or None; e4m3 and e5m2 are those of OCP, the others have no special codes.

    A bias of one's own and other special codes are said behind it: e4m3b11, e4m3_none (up to 480), e3m4_ieee.
    """
    match = _NAME.fullmatch(name)
    if match is None or not 3 <= 1 + int(match[1]) + int(match[2]) <= 8:
        return None
    specials: Any = match[4] or _OCP.get(name, "none")
    bias = None if match[3] is None else int(match[3])
    try:
        return MiniFloat(
            exponent_bits=int(match[1]), mantissa_bits=int(match[2]), bias=bias, specials=specials
        )
    except (ValidationError, Refused):
        return None


MINIFLOATS = tuple(
    f"e{e}m{b - 1 - e}" for b in range(3, 9) for e in range(1, b) if minifloat(f"e{e}m{b - 1 - e}")
)
