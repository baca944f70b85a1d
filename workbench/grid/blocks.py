"""Who shares a scale: a matrix [out, in] cut into blocks of `rows` x `columns` weights.

One rule for every granularity of the literature: weight (i, j) belongs to block (i // rows, j // columns), and
the last block of a row or column may be smaller (ragged). Per tensor is (out, in), per output channel (1, in),
per group (1, g), per input channel group (g, 1), and a tile (a, b).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import Refused, near


@dataclass(frozen=True)
class Blocks:
    """The partition of a matrix [out, in] into blocks of rows x columns; scales have the shape `counts`."""

    shape: tuple[int, int]
    rows: int
    columns: int

    @classmethod
    def of(cls, shape: tuple[int, int], granularity: str, group_size: int = -1) -> Blocks:
        """`granularity` is tensor, channel, group, input (groups along the output, each inside one input channel) or
        block (square tiles). A group size of -1, or one beyond the side, is the whole side."""
        out, inputs = shape
        along_out, along_in = (n if group_size == -1 else min(group_size, n) for n in shape)
        sizes = {
            "tensor": (out, inputs),
            "channel": (1, inputs),
            "group": (1, along_in),
            "input": (along_out, 1),
            "block": (along_out, along_in),
        }
        if granularity not in sizes:
            raise Refused(f"no granularity is called {granularity!r}{near(granularity, sizes)}")
        return cls((out, inputs), *sizes[granularity])

    @property
    def counts(self) -> tuple[int, int]:
        return -(-self.shape[0] // self.rows), -(-self.shape[1] // self.columns)

    @property
    def ragged(self) -> bool:
        """Whether the last block is smaller than the others."""
        return self.shape[0] % self.rows != 0 or self.shape[1] % self.columns != 0

    @property
    def sizes(self) -> Tensor:
        """How many weights each block has: int64 [counts]."""
        sides = zip(self.shape, self.counts, (self.rows, self.columns), strict=True)
        lengths = [(length - size * torch.arange(n)).clamp(max=size) for length, n, size in sides]
        return torch.outer(*lengths)

    def reduce(self, w: Tensor, how: str) -> Tensor:
        """amin, amax or sum of w [out, in] over each block: [counts]."""
        for axis, size in ((1, self.columns), (0, self.rows)):
            w = _reduce_axis(w, axis, size, how)
        return w

    def expand(self, per_block: Tensor) -> Tensor:
        """A value per block, repeated for each weight of it: [counts] -> [out, in] (a view where it can be)."""
        for axis, size in ((0, self.rows), (1, self.columns)):
            length = self.shape[axis]
            if per_block.shape[axis] == 1:
                sizes = [-1, -1]
                sizes[axis] = length
                per_block = per_block.expand(*sizes)
            elif size > 1:
                per_block = per_block.repeat_interleave(size, axis).narrow(axis, 0, length)
        return per_block

    def tiles(self, w: Tensor, fill: float) -> Tensor:
        """The weights of each block side by side, [*counts, rows * columns]; what a ragged one lacks is `fill`."""
        (out, inputs), (down, across) = self.shape, self.counts
        whole = w.new_full((down * self.rows, across * self.columns), fill)
        whole[:out, :inputs] = w
        return whole.reshape(down, self.rows, across, self.columns).transpose(1, 2).flatten(2)


def _reduce_axis(w: Tensor, axis: int, size: int, how: str) -> Tensor:
    length = w.shape[axis]
    if size == 1:
        return w
    if size >= length:
        return getattr(torch, how)(w, axis, keepdim=True)
    ragged = -length % size
    if ragged:
        # The padding repeats the last weight for amin and amax, so that it never enters the range of a block.
        last = w.narrow(axis, length - 1, 1)
        padding = torch.zeros_like(last) if how == "sum" else last
        w = torch.cat([w, padding.expand(*(ragged if a == axis else -1 for a in range(2)))], axis)
    shape = list(w.shape)
    shape[axis : axis + 1] = [w.shape[axis] // size, size]
    return getattr(torch, how)(w.reshape(shape), axis + 1)
