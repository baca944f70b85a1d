"""Round to nearest: every weight to the closest point of an integer grid. The floor every method must beat.

The scale comes from the range of each tensor, output channel or group of inputs; nothing is searched and no data
is needed. Conventions: `workbench.grid.affine`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator
from torch import Tensor

from ...grid import Blocks, CompressedWeight, quantize
from ...grid.affine import Convention
from ...grid.grids import FLOATS
from ..base import Method, Statistics, Verdict


class RTN(Method):
    """Round to nearest on an integer grid."""

    name = "rtn"
    kind = "quantize"
    summary = "Round to nearest: each weight to the closest point of an integer grid"
    source = "baseline of GPTQ (Frantar et al. 2023) and AWQ (Lin et al. 2024); grids as in their quantizers"

    bits: int = Field(4, ge=2, le=8, description="bits of a code")
    granularity: Literal["group", "channel", "tensor"] = Field(
        "group", description="which weights share a scale"
    )
    group_size: int = Field(
        64,
        ge=-1,
        le=65536,
        description="inputs that share a scale; -1: the whole row",
        json_schema_extra={"stops": [16, 32, 64, 128, 256, -1], "where": {"granularity": ["group"]}},
    )
    symmetric: bool = Field(False, description="no zero point: the grid is centred on 0")
    convention: Convention = Field(
        "narrow",
        description="symmetric scale: absmax / (2^(b-1) - 1), absmax / (2^(b-1) - 0.5), or signed",
        json_schema_extra={"where": {"symmetric": [True]}},
    )
    ragged: bool = Field(
        True,
        description="a last group that is smaller; off: leave out layers that the group size does not divide",
        json_schema_extra={"where": {"granularity": ["group"]}, "more": True},
    )
    scale_dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float16", description="how scales are stored", json_schema_extra={"more": True}
    )

    @field_validator("group_size")
    @classmethod
    def _no_group_of_one(cls, value: int) -> int:
        if value in (0, 1):
            raise ValueError("take -1 (the whole row) or at least 2")
        return value

    def blocks(self, shape: tuple[int, int]) -> Blocks:
        return Blocks.of(shape, self.granularity, self.group_size)

    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        """w [out, in] float32 to codes, scales and zeros."""
        blocks = self.blocks((w.shape[0], w.shape[1]))
        return quantize(
            w,
            blocks,
            self.bits,
            symmetric=self.symmetric,
            convention=self.convention,
            scale_dtype=FLOATS[self.scale_dtype],
        )

    def judge(self, shape: tuple[int, int]) -> Verdict:
        if self.granularity != "group" or self.group_size == -1:
            return Verdict()
        inputs = shape[1]
        if self.group_size > inputs:
            return Verdict(note=f"group_size {self.group_size} is beyond in = {inputs}: one group a row")
        rest = inputs % self.group_size
        if not rest:
            return Verdict()
        fitting = [str(g) for g in (32, 64, 128, 256) if inputs % g == 0]
        fault = f"group_size {self.group_size} does not divide in = {inputs}"
        if self.ragged:
            return Verdict(note=f"{fault}: the last group of a row has {rest}")
        return Verdict(skip=f"{fault}; take {', '.join([*fitting, '-1'])} or ragged: true")

    @property
    def label(self) -> str:
        where = {"tensor": "tensor", "channel": "channel"}.get(self.granularity, f"g{self.group_size}")
        if self.granularity == "group" and self.group_size == -1:
            where = "channel"
        return f"rtn {self.bits} {where}{' sym' if self.symmetric else ''}"
