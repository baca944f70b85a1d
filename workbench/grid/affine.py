"""Scales and zero points of integer grids from the range of each block.

asymmetric     codes 0..n, n = 2^b - 1:  s = (max(w, 0) - min(w, 0)) / n,  z = -round(min / s); 0 is representable
symmetric      three conventions of the field, all without a zero point:
  narrow       codes -(2^(b-1) - 1)..2^(b-1) - 1,  s = absmax / (2^(b-1) - 1): nothing is clipped, one code is lost
  half_step    codes -2^(b-1)..2^(b-1) - 1,        s = absmax / (2^(b-1) - 0.5): every code used, a positive
               extreme clipped by half a step (compressed-tensors, GPTQ's "sym")
  signed       codes -2^(b-1)..2^(b-1) - 1,        s = -w_ext / 2^(b-1), w_ext the weight of largest magnitude with
               its sign: the extreme is hit exactly and the scale may be negative (llama.cpp Q4_0)
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .blocks import Blocks
from .compressed import CompressedWeight
from .grids import IntGrid

Convention = Literal["narrow", "half_step", "signed"]


def int_grid(bits: int, symmetric: bool, convention: Convention = "narrow") -> IntGrid:
    return IntGrid(bits=bits, signed=symmetric, narrow=symmetric and convention == "narrow")


def fit(
    w: Tensor,
    blocks: Blocks,
    bits: int,
    *,
    symmetric: bool = False,
    convention: Convention = "narrow",
    scale_dtype: torch.dtype = torch.float16,
) -> tuple[Tensor, Tensor | None]:
    """(scale, zero), each of the shape `blocks.counts`; zero is None for symmetric grids.

    w [out, in] float32. The scale is rounded to `scale_dtype` before the zero point is derived from it and any
    code is made, so that what is counted as 16 bits is what is used. A block of zeros has scale 1.
    """
    low, high = block_range(w, blocks)
    if not symmetric:
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = _stored((high - low) / (2**bits - 1), scale_dtype)
        zero = (-(low / scale.float()).round()).clamp_(0, 2**bits - 1)
        return scale, zero.to(torch.uint8)
    if convention == "narrow":
        scale = torch.maximum(-low, high) / (2 ** (bits - 1) - 1)
    elif convention == "half_step":
        scale = torch.maximum(-low, high) / (2 ** (bits - 1) - 0.5)
    else:
        scale = torch.where(-low > high, low, high) / -(2 ** (bits - 1))
    return _stored(scale, scale_dtype), None


def quantize(
    w: Tensor,
    blocks: Blocks,
    bits: int,
    *,
    symmetric: bool = False,
    convention: Convention = "narrow",
    scale_dtype: torch.dtype = torch.float16,
) -> CompressedWeight:
    """Round to nearest, w [out, in] float32: `fit` and `encode`, in one pass over a large matrix."""
    from . import fused

    grid = int_grid(bits, symmetric, convention)
    if blocks.rows == 1 and fused.fits(w, blocks):
        made = fused.quantize(w, grid, blocks, convention if symmetric else "asymmetric", scale_dtype)
        if made is not None:
            return CompressedWeight(grid, made[0], blocks, made[1], made[2])
    scale, zero = fit(w, blocks, bits, symmetric=symmetric, convention=convention, scale_dtype=scale_dtype)
    return CompressedWeight(grid, encode(w, grid, blocks, scale, zero), blocks, scale, zero)


def block_range(w: Tensor, blocks: Blocks) -> tuple[Tensor, Tensor]:
    """(min, max) of each block, float32, of the shape `blocks.counts`."""
    from . import fused  # numba: half a second that who only lists layers need not wait

    if fused.fits(w, blocks):
        return fused.block_range(w, blocks)
    return blocks.reduce(w, "amin").float(), blocks.reduce(w, "amax").float()


def encode(w: Tensor, grid: IntGrid, blocks: Blocks, scale: Tensor, zero: Tensor | None) -> Tensor:
    """Codes [out, in] of w: clamp(round(w / scale) + zero)."""
    from . import fused

    if fused.fits(w, blocks):
        return fused.encode(w, grid, blocks, scale, zero)
    offset = None if zero is None else blocks.expand(zero.float())
    return grid.encode(w.float() / blocks.expand(scale.float()), offset)


def _stored(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The scale as stored. Below half precision's normal range (6e-5) it would lose digits: then it stays float32."""
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    if scale.abs().min() < torch.finfo(dtype).tiny or scale.abs().max() > torch.finfo(dtype).max:
        return scale.float()
    return scale.to(dtype)
