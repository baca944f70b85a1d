"""Scheme: which grid, who shares a scale, how the scale is found. Methods inherit its fields: `class RTN(Scheme, Method)`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from torch import Tensor

from ..errors import Refused
from .affine import Convention, int_grid, quantize
from .blocks import Blocks
from .compressed import CompressedWeight
from .fitted import Fit
from .grids import FLOATS, IntGrid
from .rules import AffineRule, Keep, Rule, absmax, signed_extreme
from .search import search


class Scheme(BaseModel):
    """Which grid, who shares a scale, how the scale is found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = Field("int", description="number format", json_schema_extra={"choices": ["int"]})
    bits: int = Field(4, ge=1, le=8, description="bits of a code")
    granularity: Literal["group", "channel", "tensor", "input", "block"] = Field(
        "group", description="which weights share a scale"
    )
    group_size: int = Field(
        64,
        ge=-1,
        le=65536,
        description="inputs that share a scale; -1: the whole row",
        json_schema_extra={
            "stops": [16, 32, 64, 128, 256, -1],
            "where": {"granularity": ["group", "input", "block"]},
        },
    )
    symmetric: bool = Field(False, description="no zero point: the grid is centred on 0")
    convention: Convention = Field(
        "narrow",
        description="symmetric scale: absmax / (2^(b-1) - 1), absmax / (2^(b-1) - 0.5), or signed",
        json_schema_extra={"where": {"symmetric": [True]}},
    )
    scale_search: Literal["none", "activation", "mse", "percentile"] = Field(
        "none", description="how the range of a block is chosen"
    )
    percentile: float = Field(
        99.9,
        ge=50,
        le=100,
        description="percent of a block's weights that the range keeps",
        json_schema_extra={"where": {"scale_search": ["percentile"]}},
    )
    ragged: bool = Field(
        True,
        description="a last group that is smaller; off: leave out layers that the group size does not divide",
        json_schema_extra={"where": {"granularity": ["group", "input", "block"]}, "more": True},
    )
    scale_dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float16", description="how scales are stored", json_schema_extra={"more": True}
    )

    def __init__(self, **fields: Any):
        try:
            super().__init__(**fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = f"{first['loc'][0]} = {first['input']!r}: " if first["loc"] else ""
            raise Refused(f"scheme: {where}{first['msg'].removeprefix('Value error, ')}") from None

    @field_validator("group_size")
    @classmethod
    def _no_group_of_one(cls, value: int) -> int:
        if value in (0, 1):
            raise ValueError("take -1 (the whole row) or at least 2")
        return value

    @model_validator(mode="after")
    def _has_levels(self) -> Scheme:
        if self.bits == 1 and self.symmetric and self.convention != "signed":
            raise ValueError("1 bit without a zero point leaves no level but 0: take symmetric: false")
        return self

    def blocks(self, shape: tuple[int, int]) -> Blocks:
        """Who shares a scale in a matrix of this shape [out, in]."""
        return Blocks.of(shape, self.granularity, self.group_size)

    def fit(self, w: Tensor, h: Tensor | None = None) -> Fit:
        """The grid laid over w [out, in] float32; h [in] = E[x^2] of each input channel, for "activation"."""
        blocks, rule = self.blocks((w.shape[0], w.shape[1])), self._rule
        if self.scale_search == "none":
            scale, zero = rule.plain(w, blocks)
        else:
            scale, zero = search(
                w, blocks, rule, self.scale_search, h=self._weights(w, h), percentile=self.percentile
            )
        return Fit(rule.grid, blocks, rule.keep.pack(scale), None if zero is None else zero.to(torch.uint8))

    def quantize(self, w: Tensor, h: Tensor | None = None) -> CompressedWeight:
        """w [out, in] float32 rounded to nearest on its fit."""
        if self.scale_search == "none":
            return quantize(
                w,
                self.blocks((w.shape[0], w.shape[1])),
                self.bits,
                symmetric=self.symmetric,
                convention=self.convention,
                scale_dtype=FLOATS[self.scale_dtype],
            )
        return self.fit(w, h).encode(w)

    def plain(self) -> Scheme:
        """The same without a search, to compare with."""
        return self.model_copy(update={"scale_search": "none"})

    @property
    def searches_inputs(self) -> bool:
        """Whether `fit` needs h."""
        return self.scale_search == "activation"

    @property
    def _rule(self) -> Rule:
        keep, grid = Keep(FLOATS[self.scale_dtype]), int_grid(self.bits, self.symmetric, self.convention)
        if not self.symmetric:
            return AffineRule(IntGrid(bits=self.bits), keep, absmax(1))
        half = 2 ** (self.bits - 1)
        if self.convention == "signed":
            return Rule(grid, keep, signed_extreme(half))
        return Rule(grid, keep, absmax(half - 1 if self.convention == "narrow" else half - 0.5))

    def _weights(self, w: Tensor, h: Tensor | None) -> Tensor | None:
        if self.scale_search != "activation":
            return None
        if h is None or h.shape != w.shape[1:]:
            given = "none were given" if h is None else f"{list(h.shape)} were given for {w.shape[1]} inputs"
            raise Refused(
                f"scale_search: activation weighs errors by the mean square of each input: {given}; "
                "give calibration, or take scale_search: mse"
            )
        return h.float() / h.float().mean().clamp(min=torch.finfo(torch.float32).tiny)

    def judge_shape(self, shape: tuple[int, int]) -> tuple[str, str]:
        """(reason to leave a layer of this shape out, what is worth knowing of it); empty where there is none."""
        if self.granularity != "group" or self.group_size == -1:
            return "", ""
        inputs = shape[1]
        if self.group_size > inputs:
            return "", f"group_size {self.group_size} is beyond in = {inputs}: one group a row"
        rest = inputs % self.group_size
        if not rest:
            return "", ""
        fitting = [str(g) for g in (32, 64, 128, 256) if inputs % g == 0]
        fault = f"group_size {self.group_size} does not divide in = {inputs}"
        if self.ragged:
            return "", f"{fault}: the last group of a row has {rest}"
        return f"{fault}; take {', '.join([*fitting, '-1'])} or ragged: true", ""

    @property
    def scheme_label(self) -> str:
        """A short name: 4 g64 sym act."""
        where = {"group": f"g{self.group_size}"}.get(self.granularity, self.granularity)
        if self.granularity == "group" and self.group_size == -1:
            where = "channel"
        searched = {"none": "", "activation": " act", "mse": " mse", "percentile": " pct"}[self.scale_search]
        return f"{self.bits} {where}{' sym' if self.symmetric else ''}{searched}"
