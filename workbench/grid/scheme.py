"""Scheme: which grid, who shares a scale, how the scale is found. Methods inherit its fields.

The number formats are in `formats`, the granularities in `blocks`, the searches in `search`. A field that does not
matter under the values of the others (`where`) is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from torch import Tensor

from ..errors import Refused, near
from .affine import Convention, quantize
from .blocks import Blocks
from .compressed import CompressedWeight
from .fitted import Fit
from .formats import FIXED_BLOCKS, FORMATS, FREE, MX, OFFERED, WITH_BITS, grid_of, rule_of
from .grids import FLOATS, Grid
from .minifloat import minifloat
from .mx import ScaleRule
from .rules import Rule
from .search import search

IN_GROUPS = ("group", "input", "block")
Found = tuple[Tensor | None, Tensor, Tensor | None]  # codes where they are known already, scale, zero
SEARCHED = {"none": "", "activation": " act", "mse": " mse", "percentile": " pct"}


def _extra(stops: tuple[int, ...] = (), more: bool = False, **where: Iterable[Any]) -> dict[str, Any]:
    """What only controls need: stops of a slider, whether the field is out of sight, which others it depends on."""
    found: dict[str, Any] = {"where": {name: list(values) for name, values in where.items()}}
    return found | ({"stops": list(stops)} if stops else {}) | ({"more": True} if more else {})


class Scheme(BaseModel):
    """Which grid, who shares a scale, how the scale is found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = Field(
        "int",
        description="number format; any e{E}m{M} of 3 to 8 bits is one, also e4m3b11 (bias) or e4m3_none (specials)",
        json_schema_extra={"choices": list(OFFERED)},
    )
    bits: int = Field(4, ge=1, le=8, description="bits of a code", json_schema_extra=_extra(format=WITH_BITS))
    granularity: Literal["group", "channel", "tensor", "input", "block"] = Field(
        "group",
        description="which weights share a scale; input: groups of outputs inside each input channel",
        json_schema_extra=_extra(more=True, format=FREE),
    )
    group_size: int = Field(
        64,
        ge=-1,
        le=65536,
        description="inputs that share a scale; -1: the whole row",
        json_schema_extra=_extra((16, 32, 64, 128, 256, -1), granularity=IN_GROUPS, format=FREE),
    )
    symmetric: bool = Field(
        False,
        description="no zero point: the grid is centred on 0",
        json_schema_extra=_extra(format=("int",)),
    )
    convention: Convention = Field(
        "narrow",
        description="symmetric scale: absmax / (2^(b-1) - 1), absmax / (2^(b-1) - 0.5), or signed",
        json_schema_extra=_extra(symmetric=(True,), format=("int",)),
    )
    exponent: float = Field(
        0.0,
        ge=0,
        le=1.5,
        description="exponent of the power grid, 0.2 to 1.5; 0: searched",
        json_schema_extra=_extra(format=("power",)),
    )
    scale_search: Literal["none", "activation", "mse", "percentile"] = Field(
        "none", description="the range of a block: all of it, or what loses least"
    )
    percentile: float = Field(
        99.9,
        ge=50,
        le=100,
        description="percent of a block's weights that are in its range",
        json_schema_extra=_extra(scale_search=("percentile",)),
    )
    scale_rule: ScaleRule = Field(
        "floor",
        description="how the shared exponent of an MX block follows from its largest weight",
        json_schema_extra=_extra(format=MX),
    )
    double_quant: bool = Field(
        False,
        description="the scales in 8 bits themselves, in blocks of 256",
        json_schema_extra=_extra(format=("nf4", "nf3"), scale_rounding=("none",)),
    )
    scale_rounding: Literal["none", "po2"] = Field(
        "none",
        description="po2: scales are powers of two, in one byte",
        json_schema_extra=_extra(more=True, format=FREE),
    )
    ragged: bool = Field(
        True,
        description="a last group that is smaller; off: leave out layers that the group size does not divide",
        json_schema_extra=_extra(more=True, granularity=IN_GROUPS),
    )
    scale_dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "float16",
        description="how scales are stored",
        json_schema_extra=_extra(more=True, format=FREE, scale_rounding=("none",)),
    )

    def __init__(self, **fields: Any):
        try:
            super().__init__(**fields)
        except ValidationError as error:  # a method explains it in its own words before
            first = error.errors()[0]
            where = f"{first['loc'][0]} = {first['input']!r}: " if first["loc"] else ""
            raise Refused(f"scheme: {where}{first['msg'].removeprefix('Value error, ')}") from None

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        if value not in FORMATS and minifloat(value) is None:
            raise ValueError(f"no such format{near(value, FORMATS)}; any e{{E}}m{{M}} of 3 to 8 bits")
        return value

    @field_validator("group_size")
    @classmethod
    def _no_group_of_one(cls, value: int) -> int:
        if value in (0, 1):
            raise ValueError("take -1 (the whole row) or at least 2")
        return value

    @field_validator("exponent")
    @classmethod
    def _exponent_or_searched(cls, value: float) -> float:
        if 0 < value < 0.2:
            raise ValueError("take 0.2 to 1.5, or 0 to have it searched")
        return value

    @model_validator(mode="after")
    def _has_levels(self) -> Self:
        signed = self.convention == "signed"
        if self.bits == 1 and self.format == "int" and self.symmetric and not signed:
            raise ValueError(
                "1 bit without a zero point leaves no level but 0: take format: binary or symmetric: false"
            )
        if self.bits == 1 and self.format == "power":
            raise ValueError("a power grid of 1 bit has no level but 0: take format: binary or 2 bits")
        if self.scale_rounding == "po2" and self.format == "int" and self.symmetric and signed:
            raise ValueError("a power of two has no sign: take convention: narrow or scale_rounding: none")
        return self

    def blocks(self, shape: tuple[int, int]) -> Blocks:
        """Who shares a scale in a matrix of this shape [out, in]."""
        if self.format in FIXED_BLOCKS:
            return Blocks.of(shape, "group", FIXED_BLOCKS[self.format])
        return Blocks.of(shape, self.granularity, self.group_size)

    @property
    def grid(self) -> Grid:
        """The grid, where it is the same for every weight. Refused for those that are learned from it."""
        return grid_of(self)

    def fit(self, w: Tensor, h: Tensor | None = None) -> Fit:
        """The grid laid over w [out, in] float32; h [in] = E[x^2] of each input channel, for "activation"."""
        return self._fitted(w, h)[0]

    def quantize(self, w: Tensor, h: Tensor | None = None) -> CompressedWeight:
        """w [out, in] float32 rounded to nearest on its fit."""
        fit, codes = self._fitted(w, h)
        return fit.encode(w) if codes is None else fit.compressed(codes)

    def plain(self) -> Self:
        """The same without a search, to compare with."""
        return self.model_copy(update={"scale_search": "none"})

    @property
    def _conventions(self) -> dict[str, Any]:
        """What `affine` wants to know of an integer grid beside its bits."""
        dtype = FLOATS[self.scale_dtype]
        return {"symmetric": self.symmetric, "convention": self.convention, "scale_dtype": dtype}

    @property
    def searches_inputs(self) -> bool:
        """Whether `fit` needs h."""
        return self.scale_search == "activation"

    def _fitted(self, w: Tensor, h: Tensor | None) -> tuple[Fit, Tensor | None]:
        """The fit, and the codes where the compiled loops made them on the way."""
        if not torch.isfinite(w.sum()) and not torch.isfinite(w).all():
            raise Refused("the weight has NaN or infinite values: it has no range to lay a grid over")
        blocks = self.blocks((w.shape[0], w.shape[1]))
        h = self._weights(w, h) if self.searches_inputs else None
        if self.format == "int" and self.scale_search == self.scale_rounding == "none":
            made = quantize(w, blocks, self.bits, **self._conventions)
            return Fit(made.grid, blocks, made.scale, made.zero).checked(), made.codes
        rule = rule_of(self, w, blocks, h)
        codes, scale, zero = self._searched(w, blocks, rule, h)
        if not rule.keep.holds(scale):
            rule = rule.wider()
            codes, scale, zero = self._searched(w, blocks, rule, h)
        packed = rule.keep.pack(scale)
        fit = Fit(rule.grid, blocks, packed, None if zero is None else zero.to(torch.uint8))
        # Scales that are codes themselves are not quite those that were searched: the weights are coded anew.
        return fit.checked(), codes if isinstance(packed, Tensor) else None

    def _searched(self, w: Tensor, blocks: Blocks, rule: Rule, h: Tensor | None) -> Found:
        """(codes or None, scale, zero), scales as `rule` keeps them."""
        from . import searched  # numba: half a second that who only lists layers need not wait

        if self.scale_search == "none":
            return None, *rule.plain(w, blocks)
        if self.scale_search != "percentile" and searched.serves(w, blocks, rule):
            return searched.search(w, blocks, rule, h)
        return None, *search(w, blocks, rule, self.scale_search, h=h, percentile=self.percentile)

    def _weights(self, w: Tensor, h: Tensor | None) -> Tensor:
        """h [in], its mean 1. Refused where it is missing or does not fit."""
        if h is None or h.shape != w.shape[1:] or not torch.isfinite(h).all() or (h < 0).any():
            given = "none were given" if h is None else f"{list(h.shape)} were given for {w.shape[1]} inputs"
            if h is not None and h.shape == w.shape[1:]:
                given = "some are negative or not finite"
            raise Refused(
                f"scale_search: activation weighs errors by the mean square of each input: {given}; "
                "give calibration, or take scale_search: mse"
            )
        mean = h.float().mean()
        return h.float() / mean if mean > 0 else torch.ones_like(h, dtype=torch.float32)

    def judge_shape(self, shape: tuple[int, int]) -> tuple[str, str]:
        """(reason to leave a layer of this shape out, what is worth knowing of it); empty where there is none."""
        if self.format in FIXED_BLOCKS:
            rest = shape[1] % FIXED_BLOCKS[self.format]
            fault = f"blocks of {FIXED_BLOCKS[self.format]} do not divide in = {shape[1]}"
            if rest and not self.ragged:
                return f"{fault}; take another format or ragged: true", ""
            return "", f"{fault}: the last block of a row has {rest}" if rest else ""
        if self.granularity not in IN_GROUPS or self.group_size == -1:
            return "", ""
        sides = {"group": ("in",), "input": ("out",), "block": ("out", "in")}[self.granularity]
        found = [self._judge_side(side, shape[("out", "in").index(side)]) for side in sides]
        return "; ".join(filter(None, (s for s, _ in found))), "; ".join(filter(None, (n for _, n in found)))

    def _judge_side(self, side: str, length: int) -> tuple[str, str]:
        row = {"in": "row", "out": "column"}[side]
        if self.group_size > length:
            return "", f"group_size {self.group_size} is beyond {side} = {length}: one group a {row}"
        rest = length % self.group_size
        if not rest:
            return "", ""
        fault = f"group_size {self.group_size} does not divide {side} = {length}"
        if self.ragged:
            return "", f"{fault}: the last group of a {row} has {rest}"
        fitting = [str(g) for g in (32, 64, 128, 256) if length % g == 0]
        return f"{fault}; take {', '.join([*fitting, '-1'])} or ragged: true", ""

    @property
    def scheme_label(self) -> str:
        """A short name: 4 g64 sym act, nf4 g64, mxfp4."""
        searched = SEARCHED[self.scale_search]
        if self.format in FIXED_BLOCKS:
            return f"{self.format}{searched}"
        name = {"int": str(self.bits)}.get(
            self.format, self.format + str(self.bits) * (self.format in WITH_BITS)
        )
        whole = self.group_size == -1
        where = {
            "group": "channel" if whole else f"g{self.group_size}",
            "input": "input" if whole else f"input g{self.group_size}",
            "block": "tensor" if whole else f"{self.group_size}x{self.group_size}",
        }.get(self.granularity, self.granularity)
        symmetric = " sym" if self.symmetric and self.format == "int" else ""
        return f"{name} {where}{symmetric}{searched}"
