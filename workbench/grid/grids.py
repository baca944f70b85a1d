"""Number grids: sets of representable values and how a scaled weight becomes a code.

A weight is about (decode(code) - zero) * scale. `encode` takes weights that are divided by their scale already;
rounding is half to even, as in the reference implementations and in `rint` of the kernels.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Literal

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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Grid) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Any, ...]:
        """The class and its fields: what is computed from them once and kept does not count."""
        return type(self), *(getattr(self, name) for name in type(self).model_fields)

    @property
    def code_bits(self) -> int:
        raise TypeError(f"{type(self).__name__} has no code_bits")

    @property
    def shared_bits(self) -> int:
        """What the grid itself costs, once a matrix: a codebook that was learned, an exponent that was searched."""
        return 0

    @property
    def values(self) -> Tensor:
        """All representable values, float32, ascending, in units of the scale."""
        raise TypeError(f"{type(self).__name__} has no list of values")

    @property
    def largest(self) -> float:
        """The largest representable value, in units of the scale."""
        return float(self.values[-1])

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
    def largest(self) -> float:
        return float(self.highest)

    @property
    def values(self) -> Tensor:
        return torch.arange(self.lowest, self.highest + 1, dtype=torch.float32)

    @property
    def dtype(self) -> torch.dtype:
        return torch.int8 if self.signed else torch.uint8

    def encode(self, x: Tensor, zero: Tensor | None = None) -> Tensor:
        codes = x.round() if zero is None else x.round() + zero
        return codes.clamp_(self.lowest, self.highest).to(self.dtype)

    def decode(self, codes: Tensor) -> Tensor:
        return codes.float()


class TableGrid(Grid):
    """A grid of at most 256 values in a table, codes uint8. A subclass gives the table, ascending; `encode` takes the
    nearest value. Of two that are equally near it takes the lower one, unless `_upper` says otherwise."""

    # Whether the codes are a sign and a magnitude; then ladder and borders are those of the magnitudes.
    mirrored: ClassVar[bool] = False

    @cached_property
    def table(self) -> Tensor:
        """The value of each code, float32 [n]."""
        raise TypeError(f"{type(self).__name__} has no table")

    @cached_property
    def ladder(self) -> Tensor:
        """The values that weights go to, float32, ascending."""
        return self.table

    @cached_property
    def borders(self) -> Tensor:
        """The greatest float32 that still goes to each value of the ladder but the last."""
        middles = self._middles().float()
        # Where the middle itself goes up, the border is the float before it. So a tie rule costs nothing later.
        return torch.where(
            self._upper(), torch.nextafter(middles, torch.full_like(middles, -torch.inf)), middles
        )

    def _middles(self) -> Tensor:
        """Where one value of the ladder ends and the next begins, float64."""
        values = self.ladder.double()
        return (values[1:] + values[:-1]) / 2

    def _upper(self) -> Tensor:
        """For each middle whether it belongs to the value above."""
        return torch.zeros(len(self.ladder) - 1, dtype=torch.bool)

    @property
    def values(self) -> Tensor:
        return self.ladder

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8

    def encode(self, x: Tensor, zero: Tensor | None = None) -> Tensor:
        x = x.float() if zero is None else x.float() + zero
        return torch.bucketize(x, self.borders, out_int32=True).to(torch.uint8)

    def decode(self, codes: Tensor) -> Tensor:
        return self.table[codes.int()]


class FloatGrid(Grid):
    """Values kept as they are in a floating-point format: what pruning leaves, and what nothing has touched."""

    dtype_name: Literal["float16", "bfloat16", "float32", "float64"] = "float16"

    @classmethod
    def of(cls, dtype: torch.dtype) -> FloatGrid:
        name = str(dtype).removeprefix("torch.")
        # fp8 is stored widened.
        return cls.model_validate({"dtype_name": name if name in FLOATS else "float32"})

    @property
    def code_bits(self) -> int:
        return FLOATS[self.dtype_name].itemsize * 8

    @property
    def largest(self) -> float:
        return torch.finfo(FLOATS[self.dtype_name]).max

    def encode(self, x: Tensor, zero: Tensor | None = None) -> Tensor:
        return x.to(FLOATS[self.dtype_name])

    def decode(self, codes: Tensor) -> Tensor:
        return codes.float()
