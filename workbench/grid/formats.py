"""Formats by name, and the rule that each of them means for one weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import Refused
from .affine import int_grid
from .blocks import Blocks
from .codebook import DoubleQuant, learned, normal_float
from .grids import FLOATS, Grid, IntGrid
from .minifloat import MINIFLOATS, minifloat
from .mx import ELEMENTS, MX_BLOCK, NVFP4_BLOCK, PowerOfTwo, mx_rule, nvfp4_rule
from .power import PowerGrid, best_exponent
from .rules import AffineRule, Keep, Rule, absmax, signed_extreme
from .signs import Binary, Ternary, mean_of_large, mean_size

if TYPE_CHECKING:
    from .scheme import Scheme

# Those that a control offers; any other e{E}m{M} of 3 to 8 bits is a format too.
OFFERED = (
    "int",
    *("e2m1", "e3m2", "e2m3", "e4m3", "e5m2"),
    *("nf4", "nf3", "kmeans", "power"),
    *("mxfp4", "mxfp6", "mxfp6_e3m2", "mxfp8", "mxfp8_e5m2", "mxint8", "nvfp4"),
    *("binary", "ternary"),
)
FORMATS = (*OFFERED, *(name for name in MINIFLOATS if name not in OFFERED))
MX = tuple(ELEMENTS)
FIXED_BLOCKS = {**dict.fromkeys(MX, MX_BLOCK), "nvfp4": NVFP4_BLOCK}
FREE = tuple(name for name in FORMATS if name not in FIXED_BLOCKS)  # their blocks are chosen
WITH_BITS = ("int", "power", "kmeans")  # the width of the others is in their name


def grid_of(scheme: Scheme) -> Grid:
    """The grid of a scheme, where it does not depend on the weight. Refused where it does."""
    if scheme.format == "power" and scheme.exponent:
        return PowerGrid(bits=scheme.bits, exponent=scheme.exponent)
    if scheme.format in ("kmeans", "power"):
        raise Refused(
            f"the grid of {scheme.format} is learned from a weight: take another format, or fit one first"
        )
    nothing = torch.zeros(1, 1)
    return rule_of(scheme, nothing, Blocks.of((1, 1), "tensor"), None).grid


def rule_of(scheme: Scheme, w: Tensor, blocks: Blocks, h: Tensor | None) -> Rule:
    """The rule of a scheme's format for w [out, in]; h [in] weighs its inputs where a codebook is learned."""
    name = scheme.format
    if name in ELEMENTS:
        return mx_rule(ELEMENTS[name], scheme.scale_rule)
    if name == "nvfp4":
        return nvfp4_rule(w)
    keep = PowerOfTwo() if scheme.scale_rounding == "po2" else Keep(FLOATS[scheme.scale_dtype])
    if name == "int":
        return int_rule(scheme, keep)
    if name in ("binary", "ternary"):
        return Rule(Binary(), keep, mean_size) if name == "binary" else Rule(Ternary(), keep, mean_of_large)
    if name in ("nf4", "nf3"):
        keep = DoubleQuant() if scheme.double_quant and scheme.scale_rounding == "none" else keep
        return Rule(normal_float(int(name[2])), keep, absmax(1))
    if name in ("kmeans", "power"):
        scale = torch.where((found := absmax(1)(w, blocks)) == 0, 1.0, found)
        if name == "kmeans":
            return Rule(learned(w, blocks, scale, scheme.bits, h), keep, absmax(1))
        exponent = scheme.exponent or best_exponent(w, blocks, scale, scheme.bits)
        return Rule(PowerGrid(bits=scheme.bits, exponent=exponent), keep, absmax(1))
    grid = minifloat(name)
    assert grid is not None, name
    return Rule(grid, keep, absmax(grid.largest))


def int_rule(scheme: Scheme, keep: Keep) -> Rule:
    if not scheme.symmetric:
        return AffineRule(IntGrid(bits=scheme.bits), keep, absmax(1))
    grid, half = int_grid(scheme.bits, True, scheme.convention), 2 ** (scheme.bits - 1)
    if scheme.convention == "signed":
        return Rule(grid, keep, signed_extreme(half))
    return Rule(grid, keep, absmax(half - (1 if scheme.convention == "narrow" else 0.5)))
