"""The scale search, compiled: what a slider moves. For float32 on the CPU and groups along the input, integers and
tables; the same steps as `search`, which serves everything else.

Candidates are compared by multiplication with 1 / scale; codes are made by division, as everywhere. Sums run along a
group in order, so the result depends neither on the number of threads nor on the width of a vector.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import fused
from .blocks import Blocks
from .chunks import over_rows
from .fused import DROPPED, new_codes
from .grids import IntGrid, TableGrid
from .rules import AffineRule, Family, Rule
from .search import REFITS
from .tables import levels_of, ranks_of
from .tiles import TOGETHER, search_rows

Made = tuple[Tensor, Tensor, Tensor | None]


def serves(w: Tensor, blocks: Blocks, rule: Rule) -> bool:
    """Whether the compiled search knows this grid, these blocks and how their scales are kept."""
    known = isinstance(rule.grid, IntGrid | TableGrid) and rule.keep.dtype in DROPPED
    return known and blocks.rows == 1 and fused.fits(w, blocks)


def search(w: Tensor, blocks: Blocks, rule: Rule, h: Tensor | None) -> Made:
    """(codes, scale, zero) of w [out, in]: float32 scales as they are kept, uint8 zeros. h [in] weighs the inputs;
    without it errors count as |e|^2.4."""
    grid = rule.grid
    assert isinstance(grid, IntGrid | TableGrid)
    array, codes = w.numpy(), new_codes(w, grid.dtype)
    affine = isinstance(rule, AffineRule)
    scales = np.empty(blocks.counts, np.float32)
    zeros = np.zeros(blocks.counts if affine else (blocks.counts[0], 0), np.uint8)
    base = np.zeros((blocks.counts[0], 0), np.float32) if affine else rule.measured(w, blocks)[0].numpy()
    integers = isinstance(grid, IntGrid)
    low, high = (grid.lowest, grid.highest) if isinstance(grid, IntGrid) else (0, 0)
    mirrored = isinstance(grid, TableGrid) and grid.mirrored
    dropped = DROPPED[rule.keep.dtype]
    how = integers, mirrored, h is None, np.float32(low), np.float32(high), dropped
    levels, ranks = (of(grid if isinstance(grid, TableGrid) else None) for of in (levels_of, ranks_of))
    sign = 1 << (grid.code_bits - 1) if mirrored else 0
    ratios = _ratios((rule.shrinks,) if h is None else rule.families)
    weights = np.ones(w.shape[1], np.float32) if h is None else h.float().contiguous().numpy()
    refits = 0 if h is None else REFITS
    target = codes.numpy()

    def work(start: int, stop: int) -> None:
        search_rows(
            array, weights, base, start, stop, blocks.columns, ratios, refits, how, levels, ranks, sign,
            scales, zeros, target,
        )  # fmt: skip

    over_rows(work, len(array))
    return codes, torch.from_numpy(scales), torch.from_numpy(zeros) if affine else None


def _ratios(families: tuple[Family, ...]) -> np.ndarray:
    """[families, candidates, 2], each family filled up to a multiple of TOGETHER with its first candidate."""
    longest = max(len(family) for family in families)
    length = longest + -longest % TOGETHER
    return np.array([[*family, *[family[0]] * (length - len(family))] for family in families], np.float32)
