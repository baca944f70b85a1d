"""The packing "steps": tiles of 16 rows, steps of 4 inputs, so that 64 bytes are one integer dot product of 16 rows.

Byte 4 r + j of a step is row r, input j. A code of b bits is cut into parts of 4, 2 and 1 bits, low bits first; the
vector of 64 bytes holds the part of 2, 4 or 8 steps, so that a shift and a mask unpack a whole step. Eight steps (32
inputs) are a block, and a block of b bits has 64 b bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ROWS, STEP, STEPS = 16, 4, 8
BLOCK = STEP * STEPS


def parts_of(bits: int) -> list[tuple[int, int]]:
    """(width, lowest bit) of the parts that a code is cut into."""
    if bits == 8:
        return [(8, 0)]
    parts, low = [], 0
    for width in (4, 2, 1):
        if bits & width:
            parts.append((width, low))
            low += width
    return parts


def pack_steps(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [tiles, 16, runs, padded], padded a multiple of 32, as bytes [tiles, runs, blocks, 64 bits]."""
    import numpy as np

    tiles, _, runs, padded = codes.shape
    steps = codes.reshape(tiles, ROWS, runs, padded // BLOCK, STEPS, STEP)
    steps = steps.transpose(0, 2, 3, 4, 1, 5).reshape(tiles, runs, padded // BLOCK, STEPS, ROWS * STEP)
    made = []
    for width, low in parts_of(bits):
        each = 8 // width  # steps in one vector
        part = ((steps >> low) & ((1 << width) - 1)).reshape(*steps.shape[:3], width, each, ROWS * STEP)
        vectors = np.zeros((*steps.shape[:3], width, ROWS * STEP), np.uint8)
        for place in range(each):
            vectors |= part[..., place, :] << np.uint8(width * place)
        made.append(vectors.reshape(*steps.shape[:3], -1))
    return np.concatenate(made, axis=-1)


def unpack_steps(packed: np.ndarray, bits: int) -> np.ndarray:
    """The codes that `pack_steps` packed."""
    import numpy as np

    tiles, runs, blocks, _ = packed.shape
    steps = np.zeros((tiles, runs, blocks, STEPS, ROWS * STEP), np.uint8)
    begin = 0
    for width, low in parts_of(bits):
        each = 8 // width
        vectors = packed[..., begin : begin + 64 * width].reshape(tiles, runs, blocks, width, 1, ROWS * STEP)
        places = (width * np.arange(each, dtype=np.uint8))[:, None]
        part = (vectors >> places) & np.uint8((1 << width) - 1)
        steps |= part.reshape(steps.shape) << np.uint8(low)
        begin += 64 * width
    steps = steps.reshape(tiles, runs, blocks, STEPS, ROWS, STEP).transpose(0, 4, 1, 2, 3, 5)
    return steps.reshape(tiles, ROWS, runs, blocks * BLOCK)
