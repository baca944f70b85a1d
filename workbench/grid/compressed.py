"""CompressedWeight: what every method makes, and all that error maps, exporters and kernels read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .blocks import Blocks
from .grids import FloatGrid, Grid


@dataclass(frozen=True)
class CompressedWeight:
    """A matrix [out, in] as codes on a grid: w is about mask * (decode(codes) - zero) * scale.

    codes [out, in]; scale and zero of the shape `blocks.counts` or None; mask [out, in] bool, True = kept, or
    None; `n_m` = (kept, of) where the mask keeps that many weights of every aligned run, which makes it cheaper.
    """

    grid: Grid
    codes: Tensor
    blocks: Blocks
    scale: Tensor | None = None
    zero: Tensor | None = None
    mask: Tensor | None = None
    n_m: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.blocks.shape

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def dequantize(self, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """The weights it stands for, float32 [out, in], or a window of them (slices with step 1)."""
        (r0, r1, _), (c0, c1, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        values = self.grid.decode(self.codes[r0:r1, c0:c1])
        if self.zero is not None:
            values = values - self._spread(self.zero, r0, r1, c0, c1)
        if self.scale is not None:
            values = values * self._spread(self.scale, r0, r1, c0, c1)
        return values if self.mask is None else values * self.mask[r0:r1, c0:c1]

    def _spread(self, per_block: Tensor, r0: int, r1: int, c0: int, c1: int) -> Tensor:
        """A value per block as float32 for each weight of rows [r0, r1), columns [c0, c1); size 1 where shared."""
        top, left = r0 // self.blocks.rows, c0 // self.blocks.columns
        part = per_block[top : -(-r1 // self.blocks.rows), left : -(-c1 // self.blocks.columns)].float()
        for axis, size, start, stop in ((0, self.blocks.rows, r0, r1), (1, self.blocks.columns, c0, c1)):
            if part.shape[axis] > 1 and size > 1:
                part = part.repeat_interleave(size, axis).narrow(axis, start % size, stop - start)
        return part

    def scale_at(self, row: int, column: int) -> tuple[float | None, float | None]:
        """(scale, zero) of one weight, for the hover line."""
        at = row // self.blocks.rows, column // self.blocks.columns
        scale = None if self.scale is None else float(self.scale[at])
        return scale, None if self.zero is None else float(self.zero[at])

    def with_mask(self, mask: Tensor | None, n_m: tuple[int, int] | None = None) -> CompressedWeight:
        """The same codes with weights removed by `mask` too (True = kept)."""
        if mask is None:
            return self
        kept = mask if self.mask is None else self.mask & mask
        return replace(self, mask=kept, n_m=n_m if self.mask is None else None)

    def storage_bits(self) -> dict[str, float]:
        """Bits in all for codes, scales, zeros and mask: what a file that wastes nothing would hold.

        Pruned weights have no code. The mask costs a bit per weight, or for N:M the positions of the kept
        ones, ceil(log2 M) bits each, where that is less.
        """
        kept = self.numel if self.mask is None else int(self.mask.sum())
        bits = {"codes": float(self.grid.code_bits * kept), "scales": 0.0, "zeros": 0.0, "mask": 0.0}
        if self.scale is not None:
            bits["scales"] = float(self.scale.numel() * self.scale.dtype.itemsize * 8)
        if self.zero is not None:
            bits["zeros"] = float(self.zero.numel() * self.grid.code_bits)
        if self.mask is not None:
            bits["mask"] = float(self.numel)
            if self.n_m is not None:
                bits["mask"] = min(bits["mask"], float(kept * math.ceil(math.log2(self.n_m[1]))))
        return bits

    @property
    def bits_per_weight(self) -> float:
        """Everything that has to be stored, over out * in."""
        return sum(self.storage_bits().values()) / self.numel

    @property
    def nbytes(self) -> int:
        return math.ceil(sum(self.storage_bits().values()) / 8)

    @property
    def sparsity(self) -> float:
        """Share of weights removed by the mask."""
        return 0.0 if self.mask is None else 1 - int(self.mask.sum()) / self.numel


def uncompressed(w: Tensor) -> CompressedWeight:
    """A weight as it is, in the narrowest float format that holds every value exactly: what pruning starts from,
    and what an untouched layer costs."""
    narrow = (torch.float16, torch.bfloat16)
    dtype = next((d for d in narrow if torch.equal(w.to(d).to(w.dtype), w)), torch.float32)
    grid = FloatGrid.of(dtype)
    return CompressedWeight(grid, grid.encode(w), Blocks((w.shape[0], w.shape[1]), *w.shape))
