"""The packing "planes": bit planes whose four neighbours along the inputs are one index, as T-MAC looks them up.

Wei et al. 2024, "T-MAC: CPU Renaissance via Table Lookup for Low-Bit LLM Deployment on Edge". Bit j of an index is
input 4 q + j of quad q. Tiles of 32 rows, blocks of 4 quads (16 inputs). Planes go in pairs, since one instruction
then looks up both and adds the upper one twice:

pair      two vectors of 64 bytes; byte 2 r + p of vector v: row r, plane p, quad 2 v in the low half, 2 v + 1 in the
          high one
single    (the last plane of an odd number) one vector; byte b of its lower 32 bytes: row ROW[b], quads 0 and 1; of its
          upper 32: quads 2 and 3. ROW undoes what interleaving within 16 bytes does to the order of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ROWS, QUAD, QUADS = 32, 4, 4
BLOCK = QUAD * QUADS
ROW = [*range(8), *range(16, 24), *range(8, 16), *range(24, 32)]


def pack_planes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [tiles, 32, runs, padded], padded a multiple of 16, as bytes: [tiles, runs, blocks * 64 bits], where the
    pairs of planes and the single plane each lie together within a run."""
    import numpy as np

    tiles, rows, runs, padded = codes.shape
    blocks = padded // BLOCK
    quads = codes.reshape(tiles, rows, runs, blocks, QUADS, QUAD).transpose(0, 2, 3, 4, 1, 5)
    index = np.zeros((bits, tiles, runs, blocks, QUADS, rows), np.uint8)
    for plane in range(bits):
        for j in range(QUAD):
            index[plane] |= ((quads[..., j] >> plane) & 1) << np.uint8(j)
    made = []
    for plane in range(0, bits - 1, 2):
        two = np.stack([index[plane], index[plane + 1]], axis=-1)  # [..., quad, row, plane]
        two = two.reshape(tiles, runs, blocks, QUADS, 2 * rows)
        vectors = two[..., 0::2, :] | two[..., 1::2, :] << np.uint8(4)
        made.append(vectors.reshape(tiles, runs, -1))
    if bits % 2:
        one = index[bits - 1][..., ROW]
        vectors = one[..., 0::2, :] | one[..., 1::2, :] << np.uint8(4)
        made.append(vectors.reshape(tiles, runs, -1))
    return np.concatenate(made, axis=-1)


def unpack_planes(packed: np.ndarray, bits: int) -> np.ndarray:
    """The codes that `pack_planes` packed."""
    import numpy as np

    tiles, runs, size = packed.shape
    blocks = size // (64 * bits)
    codes = np.zeros((tiles, runs, blocks, QUADS, ROWS, QUAD), np.uint8)
    begin = 0
    for plane in range(0, bits, 2):
        pair = plane + 1 < bits
        length = blocks * (128 if pair else 64)
        vectors = packed[..., begin : begin + length].reshape(tiles, runs, blocks, 2, -1)
        begin += length
        index = np.stack([vectors & np.uint8(15), vectors >> np.uint8(4)], axis=-2).reshape(
            tiles, runs, blocks, QUADS, -1
        )
        planes = (
            {plane: index[..., 0::2], plane + 1: index[..., 1::2]}
            if pair
            else {plane: index[..., np.argsort(ROW)]}
        )
        for number, of in planes.items():
            for j in range(QUAD):
                codes[..., j] |= ((of >> np.uint8(j)) & 1) << np.uint8(number)
    return codes.transpose(0, 4, 1, 2, 3, 5).reshape(tiles, ROWS, runs, blocks * BLOCK)
