"""A compressed layer from the bench as the kernels take it: codes, scales and zeros, or the reason why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import Refused
from .lowbit import LowBit

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ...grid import CompressedWeight

SHORTEST = 8  # inputs that share a scale; below that the packings are mostly filling
MOST_BITS = 8
TABLE_BITS = 4  # of a codebook: what a byte shuffle looks up


def low_bit(compressed: CompressedWeight) -> LowBit:
    """The weight that the kernels pack. Its columns stay in the order of the codes (`compressed.order`) and are those
    of w * input_scale: both are done to the input.

    Refused with the reason: floats and codebooks of more than 16 values, scales shared across few inputs, input
    channels kept in float, and removed weights where no code stands for 0.
    """
    import numpy as np

    from ...grid.grids import IntGrid, TableGrid
    from ...grid.mx import FixedPoint

    blocks, grid = compressed.blocks, compressed.grid
    if compressed.patch is not None:
        raise Refused("input channels kept in float are a second product, which these kernels do not have")
    if compressed.scales is None:
        raise Refused(
            "this weight has no scale: its codes are floats, for which torch's products are the kernels"
        )
    if grid.code_bits > MOST_BITS:
        raise Refused(f"codes of {grid.code_bits} bits; the kernels unpack up to {MOST_BITS}")
    if blocks.columns < min(SHORTEST, compressed.shape[1]):
        raise Refused(
            f"a scale for every {blocks.columns} inputs; the kernels share one among {SHORTEST} or more (group_size)"
        )

    def per_row(values: torch.Tensor | None) -> np.ndarray | None:
        if values is None:
            return None
        spread = values.float().repeat_interleave(blocks.rows, 0)[: compressed.shape[0]]
        return np.ascontiguousarray(spread.expand(compressed.shape[0], blocks.counts[1]).numpy())

    bits, codes = grid.code_bits, compressed.codes.numpy()
    if isinstance(grid, IntGrid | FixedPoint):
        lowest = 0 if isinstance(grid, IntGrid) and not grid.signed else -(1 << (bits - 1))
        codes = (codes.astype(np.int16) - lowest).astype(np.uint8)
        values = np.arange(1 << bits, dtype=np.float32) + lowest
        if isinstance(grid, FixedPoint):
            values /= 2**grid.fraction_bits
    elif isinstance(grid, TableGrid):
        values = grid.table.float().numpy()
    else:
        raise Refused(f"a grid of the kind {type(grid).__name__} is no integer and no table of values")

    scale, zero = per_row(compressed.scales), per_row(compressed.zero)
    assert scale is not None
    order = np.argsort(values, kind="stable")
    step = (values[order[-1]] - values[order[0]]) / (len(values) - 1)
    ladder = values[order[0]] + step * np.arange(len(values))
    table = None
    if step > 0 and np.array_equal(ladder.astype(np.float32), values[order]):
        # equal steps: an integer with a zero point, w = step * scale * (rank - (zero - lowest) / step)
        ranks = np.empty(len(values), np.uint8)
        ranks[order] = np.arange(len(values))
        codes = ranks[codes]
        shifted = ((0.0 if zero is None else zero) - values[order[0]]) / step
        zero = np.broadcast_to(np.float32(shifted), scale.shape).astype(np.float32)
        scale = (scale * np.float32(step)).astype(np.float32)
    else:
        if bits > TABLE_BITS:
            raise Refused(
                f"a table of {len(values)} values with unequal steps; "
                f"the kernels look up at most {1 << TABLE_BITS} in a register"
            )
        table = values
    made = LowBit(bits, codes, scale, zero, blocks.columns, table)
    return made if compressed.mask is None else _masked(made, compressed)


def _masked(made: LowBit, compressed: CompressedWeight) -> LowBit:
    """The code that stands for 0 where a weight was removed. Refused where there is none."""
    import numpy as np

    assert compressed.mask is not None
    mask = compressed.mask.numpy()
    if compressed.order is not None:
        mask = mask[
            :, compressed.order.numpy()
        ]  # the mask has the order of the inputs, the codes have their own
    if made.values is not None:
        nothing = np.flatnonzero(made.values == 0)
        if made.zero is not None or not len(nothing):
            raise Refused("weights are removed, but no code of this codebook stands for 0")
        codes = np.where(mask, made.codes, np.uint8(nothing[0]))
    else:
        assert made.zero is not None
        zero = np.repeat(made.zero, made.group_size, axis=1)[:, : made.codes.shape[1]]
        whole = (zero == np.round(zero)) & (zero >= 0) & (zero < 1 << made.bits)
        if not (whole | mask).all():
            raise Refused(
                "weights are removed, but their group's zero point is no code, so that none stands for 0"
            )
        codes = np.where(mask, made.codes, zero.astype(np.uint8))
    return LowBit(made.bits, codes, made.scale, made.zero, made.group_size, made.values)
