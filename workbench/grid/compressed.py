"""CompressedWeight: what every method makes, and all that error maps, exporters and kernels read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .blocks import Blocks
from .grids import FloatGrid, Grid
from .inputs import InputQuantizer
from .report import Report

ALL = slice(None)


@dataclass(frozen=True)
class Running:
    """What stands in for a layer in a run: its matrix [out, in], what happens to its input, what its output gains."""

    matrix: Tensor
    inputs: Callable[[Tensor], Tensor] | None = None
    shift: Tensor | None = None  # [out]


@dataclass(frozen=True)
class Patch:
    """Whole input channels kept in float: `columns` [k] of them, and their `values` [out, k]."""

    columns: Tensor
    values: Tensor

    def divided(self, s: Tensor) -> Patch:
        """The same of w / s, s [in]."""
        return Patch(self.columns, (self.values.float() / s[self.columns].float()).to(self.values.dtype))


@dataclass(frozen=True)
class CompressedWeight:
    """A matrix [out, in] as codes on a grid: w is about mask * (decode(codes) - zero) * scale / input_scale.

    codes [out, in]; scale and zero of the shape `blocks.counts` or None. A scale may itself be a compressed matrix of
    that shape: two-level scales. mask [out, in] bool, True = kept, or None; `n_m` = (kept, of) where the mask keeps
    that many weights of every aligned run, which makes it cheaper.

    What belongs to the layer's input: `input_scale` [in] says that the codes are of w * input_scale, for an input
    divided by it; `order` [in] that column j of the codes is input order[j]; `inputs` quantizes the (divided) input.
    `shift` [out] is added to the layer's output; `patch` holds input channels kept in float. `report` is what the
    method had to say.
    """

    grid: Grid
    codes: Tensor
    blocks: Blocks
    scale: Tensor | CompressedWeight | None = None
    zero: Tensor | None = None
    mask: Tensor | None = None
    n_m: tuple[int, int] | None = None
    input_scale: Tensor | None = None
    order: Tensor | None = None
    inputs: InputQuantizer | None = None
    shift: Tensor | None = None
    patch: Patch | None = None
    report: Report = field(default_factory=Report, compare=False)

    @property
    def shape(self) -> tuple[int, int]:
        return self.blocks.shape

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def scales(self) -> Tensor | None:
        """The scale of each block, float32 [counts], whatever it is stored as."""
        return self.scale.dequantize() if isinstance(self.scale, CompressedWeight) else _float(self.scale)

    @property
    def plain(self) -> bool:
        """Whether the weights are codes, scale and zero alone, so that a compiled loop can decode them."""
        return all(part is None for part in (self.mask, self.input_scale, self.order, self.patch))

    def dequantize(self, rows: slice = ALL, columns: slice = ALL) -> Tensor:
        """The weights it stands for, float32 [out, in], or a window of them (slices with step 1)."""
        (r0, r1, _), (c0, c1, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        if self.order is None:
            values = self._decoded(r0, r1, c0, c1)
        else:
            values = self._decoded(r0, r1, 0, self.shape[1])[:, self.order.argsort()[c0:c1]]
        if self.mask is not None:
            values = values * self.mask[r0:r1, c0:c1]
        if self.input_scale is not None:
            values = values / self.input_scale[c0:c1].float()
        if self.patch is not None:
            values = values.clone()
            inside = (self.patch.columns >= c0) & (self.patch.columns < c1)
            values[:, self.patch.columns[inside] - c0] = self.patch.values[r0:r1, inside].float()
        return values

    def _decoded(self, r0: int, r1: int, c0: int, c1: int) -> Tensor:
        """Columns as they are stored: (decode(codes) - zero) * scale."""
        values = self.grid.decode(self.codes[r0:r1, c0:c1])
        if self.zero is not None:
            values = values - self._spread(self.zero, r0, r1, c0, c1)
        return values if self.scale is None else values * self._spread(self.scale, r0, r1, c0, c1)

    def _spread(self, per_block: Tensor | CompressedWeight, r0: int, r1: int, c0: int, c1: int) -> Tensor:
        """A value per block as float32 for each weight of rows [r0, r1), columns [c0, c1); size 1 where shared."""
        down = slice(r0 // self.blocks.rows, -(-r1 // self.blocks.rows))
        across = slice(c0 // self.blocks.columns, -(-c1 // self.blocks.columns))
        nested = isinstance(per_block, CompressedWeight)
        part = per_block.dequantize(down, across) if nested else per_block[down, across].float()
        for axis, size, start, stop in ((0, self.blocks.rows, r0, r1), (1, self.blocks.columns, c0, c1)):
            if part.shape[axis] > 1 and size > 1:
                part = part.repeat_interleave(size, axis).narrow(axis, start % size, stop - start)
        return part

    def running(self) -> Running:
        """What a run of the network needs of it."""
        return Running(self.dequantize(), None if self.inputs is None else self._quantize_inputs, self.shift)

    def _quantize_inputs(self, x: Tensor) -> Tensor:
        """x [..., in] as the layer sees it: divided by the input scale, quantized, and multiplied back."""
        assert self.inputs is not None
        if self.input_scale is None:
            return self.inputs(x)
        s = self.input_scale.to(x.dtype)
        return self.inputs(x / s) * s

    def at(self, row: int, column: int) -> dict[str, float | int | None]:
        """code, scale and zero of one weight, for the hover line; None where there is none."""
        stored = column if self.order is None else int((self.order == column).nonzero()[0])
        window = row, row + 1, stored, stored + 1
        return {
            "code": int(self.codes[row, stored]) if self.scale is not None else None,
            "scale": None if self.scale is None else float(self._spread(self.scale, *window)),
            "zero": None if self.zero is None else float(self._spread(self.zero, *window)),
        }

    def with_mask(self, mask: Tensor | None, n_m: tuple[int, int] | None = None) -> CompressedWeight:
        """The same codes with weights removed by `mask` too (True = kept)."""
        if mask is None:
            return self
        kept = mask if self.mask is None else self.mask & mask
        return replace(self, mask=kept, n_m=n_m if self.mask is None else None)

    def with_input_scale(self, s: Tensor) -> CompressedWeight:
        """For codes that were made of w * s: the input is divided by s [in] (on top of an earlier division)."""
        if bool((s == 1).all()):
            return self
        patch = None if self.patch is None else self.patch.divided(s)
        s = s.float() if self.input_scale is None else s.float() * self.input_scale.float()
        return replace(self, input_scale=s.half() if torch.equal(s.half().float(), s) else s, patch=patch)

    def with_report(self, report: Report) -> CompressedWeight:
        return replace(self, report=self.report + report)

    def storage_bits(self) -> dict[str, float]:
        """Bits in all for codes, scales, zeros, mask, what belongs to the input and what the output gains: what a file
        that wastes nothing would hold.

        What a grid costs by itself (a learned codebook) counts as scales. Pruned weights have no code. The mask costs
        a bit per weight, or for N:M the positions of the kept ones, ceil(log2 M) bits each, where that is less.
        """
        kept = self.numel if self.mask is None else int(self.mask.sum())
        bits = {
            "codes": float(self.grid.code_bits * kept),
            "scales": _bits(self.scale) + self.grid.shared_bits,
            "zeros": 0.0,
            "mask": 0.0,
            "shift": _bits(self.shift),
            "inputs": _bits(self.input_scale)
            + (16.0 * self.shape[1] if self.order is not None else 0)
            + (0 if self.patch is None else _bits(self.patch.values) + 16.0 * len(self.patch.columns)),
        }
        if self.zero is not None:
            size = self.zero.dtype.itemsize * 8 if self.zero.is_floating_point() else self.grid.code_bits
            bits["zeros"] = float(self.zero.numel() * size)
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


def _float(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.float()


def _bits(stored: Tensor | CompressedWeight | None) -> float:
    if isinstance(stored, CompressedWeight):
        return sum(stored.storage_bits().values())
    return 0.0 if stored is None else float(stored.numel() * stored.dtype.itemsize * 8)


def uncompressed(w: Tensor) -> CompressedWeight:
    """A weight as it is, in the narrowest float format that holds every value exactly: what pruning starts from,
    and what an untouched layer costs."""
    narrow = (torch.float16, torch.bfloat16)
    dtype = next((d for d in narrow if torch.equal(w.to(d).to(w.dtype), w)), torch.float32)
    grid = FloatGrid.of(dtype)
    return CompressedWeight(grid, grid.encode(w), Blocks((w.shape[0], w.shape[1]), *w.shape))
