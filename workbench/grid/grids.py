"""Number grids: sets of representable values and how a scaled weight becomes a code.

A weight is about (decode(code) - zero) * scale. `encode` takes weights that are divided by their scale already;
rounding is half to even, as in the reference implementations and in `rint` of the kernels.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

FLOATS = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


class Grid(BaseModel):
    """A set of representable values; `code_bits` is what one code costs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def code_bits(self) -> int:
        raise TypeError(f"{type(self).__name__} has no code_bits")

    def encode(self, x: Tensor, zero: Tensor | None = None) -> Tensor:
        """Codes of the values nearest to x (+ zero), x in units of the scale; any shape."""
        raise TypeError(f"{type(self).__name__} has no encode")

    def decode(self, codes: Tensor) -> Tensor:
        """The values of codes in units of the scale, float32; any shape."""
        raise TypeError(f"{type(self).__name__} has no decode")


class IntGrid(Grid):
    """Integers lowest..highest: 0..2^bits - 1 unsigned (with a zero point), else two's complement.

    `narrow` leaves out the lowest signed code, so that the grid is symmetric.
    """

    bits: int = Field(ge=1, le=8)
    signed: bool = False
    narrow: bool = False

    @property
    def code_bits(self) -> int:
        return self.bits

    @property
    def lowest(self) -> int:
        return -(2 ** (self.bits - 1)) + int(self.narrow) if self.signed else 0

    @property
    def highest(self) -> int:
        return 2 ** (self.bits - 1) - 1 if self.signed else 2**self.bits - 1

    @property
    def dtype(self) -> torch.dtype:
        return torch.int8 if self.signed else torch.uint8

    def encode(self, x: Tensor, zero: Tensor | None = None) -> Tensor:
        codes = x.round() if zero is None else x.round() + zero
        return codes.clamp_(self.lowest, self.highest).to(self.dtype)

    def decode(self, codes: Tensor) -> Tensor:
        return codes.float()


class FloatGrid(Grid):
    """Values kept as they are in a floating-point format: what pruning leaves, and what nothing has touched."""

    dtype_name: Literal["float16", "bfloat16", "float32", "float64"] = "float16"

    @classmethod
    def of(cls, dtype: torch.dtype) -> FloatGrid:
        name = str(dtype).removeprefix("torch.")
        return cls.model_validate(
            {"dtype_name": name if name in FLOATS else "float32"}
        )  # fp8 is stored widened

    @property
    def code_bits(self) -> int:
        return FLOATS[self.dtype_name].itemsize * 8

    def encode(self, x: Tensor, zero: Tensor | None = None) -> Tensor:
        return x.to(FLOATS[self.dtype_name])

    def decode(self, codes: Tensor) -> Tensor:
        return codes.float()
