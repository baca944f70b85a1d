"""Weights as the CUDA kernels read them: codes of 8, 4, 3 or 2 bits in the order of lanes and fragments, and 2:4.

A chunk is the 32 codes that a lane takes at once, in as many words of 32 bits as a code has bits. Within it the two
codes of a pair lie 16 bits apart, so that one instruction cuts both out of a word, each into its half of a half2:

4 bits  word j: codes 8j..8j+7; code 8j + 2p at bit 4p, code 8j + 2p + 1 at bit 16 + 4p
2 bits  word j: codes 16j..16j+15; code 16j + 2p at bit 2p, the next at bit 16 + 2p
3 bits  word j: codes 10j..10j+9; code 10j + 2p at bit 3p, the next at bit 16 + 3p; bits 15 and 31 of word j are bit j
        of codes 30 and 31

Which 32 columns are a chunk says the layout:

rows       neighbours; `plain` instead of pairs: code i at bit i * bits of its word
lanes      blocks of 256 columns for eight lanes; lane t has the octets 64j + 8t .. + 7, so that the lanes of a warp
           read activations side by side. The words of a lane are neighbours, for 3 bits those of eight lanes. The
           zero point is two halves: -1024 - z with z the nearest whole number, which is added to mantissas, and
           z - zero, the rest
fragments  tiles of 16 rows and 64 columns; word s of lane 4g + t is its fragment of A in mma.m16n8k16, columns 16s on
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...errors import Refused, near
from .lowbit import LowBit

if TYPE_CHECKING:
    from collections.abc import Callable

GROUPS = (32, 64, 128)  # inputs that share a scale in these kernels
CHUNK = 32  # codes
BLOCK = 256  # columns of eight lanes
MOST_SHIFT = (
    512  # a whole zero point beyond which -1024 less it, or a code less it, might not be exact in fp16
)
TILE = 16, 64  # rows, columns of a warp's four fragments
# QLoRA's NormalFloat: quantiles of a normal distribution (Dettmers et al. 2023, appendix E), in the order of its codes.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


# ---- 32 codes in `bits` words ------------------------------------------------------------------------------------


def places(bits: int, *, plain: bool = False) -> np.ndarray:
    """Where bit b of code c lies among the 32 * bits bits of a chunk: int [32, bits]."""
    code, bit = np.arange(CHUNK)[:, None], np.arange(bits)[None, :]
    if plain or bits == 8:
        return code * bits + bit
    pair, second = code // 2, code % 2
    each = 16 // bits  # pairs in a word
    found = pair // each * 32 + second * 16 + pair % each * bits + bit
    if bits == 3:  # five pairs fill 15 of 16 bits; what is left over holds the sixteenth
        found = np.where(pair == 15, bit * 32 + second * 16 + 15, found)
    return found


def pack_chunks(codes: np.ndarray, bits: int, *, plain: bool = False) -> np.ndarray:
    """Codes [..., 32] as words uint32 [..., bits]."""
    words = np.zeros((*codes.shape[:-1], bits), np.uint32)
    for code, of_code in enumerate(places(bits, plain=plain)):
        for bit, place in enumerate(of_code):
            one = (codes[..., code] >> np.uint8(bit) & np.uint8(1)).astype(np.uint32)
            words[..., place // 32] |= one << np.uint32(place % 32)
    return words


def unpack_chunks(words: np.ndarray, bits: int, *, plain: bool = False) -> np.ndarray:
    """The codes that `pack_chunks` packed."""
    codes = np.zeros((*words.shape[:-1], CHUNK), np.uint8)
    for code, of_code in enumerate(places(bits, plain=plain)):
        for bit, place in enumerate(of_code):
            one = words[..., place // 32] >> np.uint32(place % 32) & np.uint32(1)
            codes[..., code] |= one.astype(np.uint8) << np.uint8(bit)
    return codes


# ---- layouts: codes [N, K] to words and back ---------------------------------------------------------------------


def _padded(codes: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Filled with 0 to multiples of `rows` and `columns`: activations are 0 there, and rows beyond N are not kept."""
    N, K = codes.shape
    return np.pad(codes, ((0, -N % rows), (0, -K % columns)))


def pack_rows(codes: np.ndarray, bits: int, *, plain: bool = False) -> np.ndarray:
    """uint32 [N, ceil(K / 32) * bits]."""
    full = _padded(codes, 1, CHUNK)
    return pack_chunks(full.reshape(len(full), -1, CHUNK), bits, plain=plain).reshape(len(full), -1)


def unpack_rows(words: np.ndarray, bits: int, N: int, K: int, *, plain: bool = False) -> np.ndarray:
    """The codes that `pack_rows` packed."""
    return unpack_chunks(words.reshape(N, -1, bits), bits, plain=plain).reshape(N, -1)[:, :K]


def pack_lanes(codes: np.ndarray, bits: int) -> np.ndarray:
    """uint32 [N, ceil(K / 256) * 8 * bits]."""
    full = _padded(codes, 1, BLOCK)
    octets = full.reshape(len(full), -1, 4, 8, 8)  # row, block, octet j, lane t, code
    words = pack_chunks(octets.transpose(0, 1, 3, 2, 4).reshape(len(full), -1, 8, CHUNK), bits)
    if bits == 3:
        words = words.transpose(0, 1, 3, 2)
    return np.ascontiguousarray(words).reshape(len(full), -1)


def unpack_lanes(words: np.ndarray, bits: int, N: int, K: int) -> np.ndarray:
    """The codes that `pack_lanes` packed."""
    words = (
        words.reshape(N, -1, bits, 8).transpose(0, 1, 3, 2) if bits == 3 else words.reshape(N, -1, 8, bits)
    )
    octets = unpack_chunks(words, bits).reshape(N, -1, 8, 4, 8)
    return octets.transpose(0, 1, 3, 2, 4).reshape(N, -1)[:, :K]


def pack_fragments(codes: np.ndarray) -> np.ndarray:
    """Codes of 4 bits as uint32 [ceil(N / 16), ceil(K / 64) * 128]."""
    full = _padded(codes, *TILE)
    tiles = full.shape[0] // TILE[0]
    # tile, upper or lower eight rows, row g, tile of columns, word s, left or right eight columns, t, code
    split = full.reshape(tiles, 2, 8, -1, 4, 2, 4, 2)
    chunks = split.transpose(0, 3, 2, 6, 4, 5, 1, 7)
    return pack_chunks(chunks.reshape(tiles, -1, 32, CHUNK), 4).reshape(tiles, -1)


def unpack_fragments(words: np.ndarray, N: int, K: int) -> np.ndarray:
    """The codes that `pack_fragments` packed."""
    chunks = unpack_chunks(words.reshape(len(words), -1, 32, 4), 4).reshape(len(words), -1, 8, 4, 4, 2, 2, 2)
    return chunks.transpose(0, 6, 2, 1, 4, 5, 3, 7).reshape(16 * len(words), -1)[:N, :K]


@dataclass(frozen=True)
class Layout:
    """A way to lay out codes of `bits` bits; `table`: the codes are looked up."""

    bits: int
    pack: Callable[[np.ndarray], np.ndarray]
    unpack: Callable[[np.ndarray, int, int], np.ndarray]  # words, N, K
    table: bool = False
    split: bool = False  # the zero point in two parts


def _lanes(bits: int, *, table: bool = False) -> Layout:
    return Layout(
        bits, lambda c: pack_lanes(c, bits), lambda w, N, K: unpack_lanes(w, bits, N, K), table, not table
    )


def _rows(bits: int, *, plain: bool) -> Layout:
    return Layout(
        bits,
        lambda c: pack_rows(c, bits, plain=plain),
        lambda w, N, K: unpack_rows(w, bits, N, K, plain=plain),
    )


LAYOUTS: dict[str, Layout] = {
    "w8": _rows(8, plain=True),
    "w4": _rows(4, plain=True),
    "w4-pairs": _rows(4, plain=False),
    "w4-lanes": _lanes(4),
    "w4-fragments": Layout(4, pack_fragments, unpack_fragments),
    "nf4-lanes": _lanes(4, table=True),
    "w3-lanes": _lanes(3),
    "w2-lanes": _lanes(2),
}


# ---- a weight for a kernel ---------------------------------------------------------------------------------------


def fitted(weight: LowBit) -> LowBit:
    """The same weight with groups that the kernels have, and scales, zeros and table rounded to fp16, the table to
    float32. Refused where no group of 32, 64 or 128 inputs has one scale."""
    K = weight.shape[1]
    fits = [g for g in GROUPS if weight.group_size % g == 0 or weight.group_size >= K]
    if not fits:
        raise Refused(
            f"a scale for every {weight.group_size} inputs; the CUDA kernels share one among "
            f"{', '.join(map(str, GROUPS))} or a multiple (group_size)"
        )
    group = min(g for g in fits if g >= K) if fits[-1] >= K else fits[-1]
    at = np.arange(-(-K // group)) * group // weight.group_size
    with np.errstate(over="ignore"):
        scale = weight.scale[:, at].astype(np.float16)
    if not np.isfinite(scale).all():
        raise Refused("a scale is beyond fp16 (65504), which these kernels keep scales in")
    zero = None if weight.zero is None else weight.zero[:, at].astype(np.float16).astype(np.float32)
    return LowBit(weight.bits, weight.codes, scale.astype(np.float32), zero, group, weight.values)


def dense(weight: LowBit) -> np.ndarray:
    """What the codes stand for, float64 [N, K]."""
    N, K = weight.shape
    groups = weight.scale.shape[1]
    whole = np.zeros((N, groups * weight.group_size))  # the last group may be shorter
    whole[:, :K] = weight.codes if weight.values is None else weight.values[weight.codes]
    parts = whole.reshape(N, groups, -1)
    if weight.zero is not None:
        parts -= weight.zero[..., None]
    parts *= weight.scale[..., None]
    return whole[:, :K]


def pack(weight: LowBit, packing: str) -> dict[str, np.ndarray]:
    """The operands of a packing such as "w4-lanes-128": W uint32, S and Z fp16 [N * groups], T float32 [16].
    Codes
    of fewer bits than it has are stored in its bits.

    Refused where the weight is none of this kind: more bits, another group (see `fitted`), a table or none.
    """
    name, _, group = packing.rpartition("-")
    if name not in LAYOUTS or group not in map(str, GROUPS):
        known = [f"{one}-{g}" for one in LAYOUTS for g in GROUPS]
        raise Refused(f"{packing!r} is no packing of codes{near(packing, known)}")
    layout = LAYOUTS[name]
    if weight.bits > layout.bits:
        raise Refused(f"codes of {weight.bits} bits; the packing {packing} has {layout.bits}")
    if weight.group_size != int(group):
        raise Refused(
            f"a scale for every {weight.group_size} inputs; the packing {packing} has groups of {group}"
        )
    if (weight.values is not None) != layout.table:
        has = "a table of values" if weight.values is not None else "equal steps"
        raise Refused(f"this weight has {has}; the packing {packing} is for the other kind")
    made = {"W": layout.pack(weight.codes), "S": weight.scale.astype(np.float16).ravel()}
    if layout.table:
        assert weight.values is not None
        if weight.zero is not None:
            raise Refused("a table of values with a zero point; the kernels have the one or the other")
        table = np.zeros(1 << layout.bits, np.float32)
        table[: len(weight.values)] = weight.values
        return made | {"T": table}
    zero = np.zeros_like(weight.scale) if weight.zero is None else weight.zero
    if layout.split:
        whole = np.clip(np.rint(zero), -MOST_SHIFT, MOST_SHIFT)
        zero = np.stack([-1024 - whole, whole - zero], axis=-1)
    return made | {"Z": zero.astype(np.float16).ravel()}


def int8(weight: LowBit) -> tuple[np.ndarray, np.ndarray]:
    """(codes int8 [N, K], scale float32 [N]) of a weight that a product of whole numbers can take: w = scale * code.

    Refused with the reason: a table, several scales a row, a zero point that is no whole number near the middle.
    """
    if weight.values is not None:
        raise Refused("a table of values; a product of whole numbers needs equal steps")
    if weight.scale.shape[1] != 1:
        raise Refused(
            f"a scale for every {weight.group_size} inputs; a product of whole numbers has one for each output "
            "channel (group_size -1)"
        )
    zero = np.zeros_like(weight.scale) if weight.zero is None else weight.zero
    codes = weight.codes - zero
    if (zero != np.rint(zero)).any() or codes.min() < -128 or codes.max() > 127:
        raise Refused(
            "its codes less the zero point are no whole numbers from -128 to 127; symmetric ones of up to 8 bits are"
        )
    return codes.astype(np.int8), weight.scale[:, 0].astype(np.float32)


def random_weight(random: np.random.Generator, name: str, group: int, N: int, K: int) -> LowBit:
    """Any codes, scales from 0.5 to 1.5, zeros anywhere between the codes, as HQQ's are; NF4 for a table."""
    layout, groups = LAYOUTS[name], -(-K // group)
    codes = random.integers(0, 1 << layout.bits, (N, K), dtype=np.uint8)
    scale = random.uniform(0.5, 1.5, (N, groups)).astype(np.float16).astype(np.float32)
    zero = random.uniform(0, (1 << layout.bits) - 1, (N, groups)).astype(np.float16).astype(np.float32)
    if layout.table:
        return LowBit(layout.bits, codes, scale, None, group, np.array(NF4, np.float32))
    return LowBit(layout.bits, codes, scale, zero, group)


def maker(
    name: str, group: int
) -> Callable[[np.random.Generator, int, int], tuple[dict[str, np.ndarray], np.ndarray]]:
    """A random weight [rows, columns] in a layout: its operands, and the dense float64 matrix."""

    def make(
        random: np.random.Generator, rows: int, columns: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        weight = random_weight(random, name, group, rows, columns)
        return pack(weight, f"{name}-{group}"), dense(weight)

    return make


def regrouped(source: str, group: int) -> str:
    """The source of a kernel for another group: its constant GROUP and the packing of its header.

    Refused for a group that no packing has, and for a kernel without one.
    """
    if group not in GROUPS:
        raise Refused(f"a group of {group}; the packings have {', '.join(map(str, GROUPS))}")
    found = 0
    lines = source.split("\n")
    for number, line in enumerate(lines):
        if line.startswith("// packing: ") and line.rpartition("-")[2].isdecimal():
            lines[number] = f"{line.rpartition('-')[0]}-{group}"
        elif line.startswith("constexpr int GROUP = "):
            lines[number] = f"constexpr int GROUP = {group};{line.partition(';')[2]}"
        else:
            continue
        found += 1
    if found != 2:
        raise Refused("this kernel has no packing in groups and no line `constexpr int GROUP = ...;`")
    return "\n".join(lines)


# ---- 2:4 ---------------------------------------------------------------------------------------------------------


def pack_sparse(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A 2:4 sparse matrix [M, K] as (kept [M, ceil(K / 32) * 16], metadata uint32 [ceil(M / 16) * ceil(K / 32) * 16]).

    Metadata as mma.sp.m16n8k32 takes it: tiles of 16 rows and 32 columns, one after the other along K; word 2g + h
    of a tile has the places of row g among columns 16h to 16h + 15 in its low half, of row g + 8 in its high half,
    two bits for each kept element. Where fewer than two of four are not 0, zeros are kept. Refused, with row and
    column, where more are.
    """
    M = len(a)
    full = np.pad(a, ((0, 0), (0, -a.shape[1] % 32)))
    fours = full.reshape(M, -1, 4)
    there = fours != 0
    if (bad := there.sum(-1) > 2).any():
        row, four = (int(i) for i in np.argwhere(bad)[0])
        raise Refused(
            f"row {row}, columns {4 * four} to {4 * four + 3}: {int(there[row, four].sum())} of 4 elements are not 0; "
            "2:4 keeps at most 2 of every 4 neighbours (prune with n_m (2, 4))"
        )
    # The two places kept: first what is not 0, in order; then zeros fill up.
    order = np.sort(np.argsort(~there, axis=-1, kind="stable")[..., :2], axis=-1)
    kept = np.take_along_axis(fours, order, -1).reshape(M, -1)
    two = (order[..., 0] | order[..., 1] << 2).astype(np.uint32)  # 4 bits for a group of four
    halves = np.zeros((M + -M % 16, full.shape[1] // 16), np.uint32)
    for i in range(4):
        halves[:M] |= two[:, i::4] << np.uint32(4 * i)
    halves[M:] = 0x4444  # places 0 and 1: equal ones are not allowed
    tiles = halves.reshape(
        -1, 2, 8, full.shape[1] // 32, 2
    )  # tile, upper or lower rows, g, tile of columns, h
    words = tiles[:, 0] | tiles[:, 1] << np.uint32(16)
    return kept, np.ascontiguousarray(words.transpose(0, 2, 1, 3)).ravel()


def unpack_sparse(kept: np.ndarray, metadata: np.ndarray, K: int) -> np.ndarray:
    """The matrix [M, K] that `pack_sparse` packed."""
    M, columns = len(kept), kept.shape[1] * 2
    words = metadata.reshape(-1, columns // 32, 8, 2).transpose(0, 2, 1, 3)
    halves = np.stack([words & 0xFFFF, words >> 16], axis=1).reshape(-1, columns // 16)[:M]
    places = np.stack([halves >> (2 * i) & 3 for i in range(8)], axis=-1).reshape(M, -1, 2).astype(np.int64)
    fours = np.zeros((M, columns // 4, 4), kept.dtype)
    np.put_along_axis(fours, places, kept.reshape(M, -1, 2), -1)
    return fours.reshape(M, columns)[:, :K]


def random_sparse(random: np.random.Generator, M: int, K: int) -> np.ndarray:
    """Normal values, two of every four neighbours kept at random; float32 [M, K]."""
    full = random.standard_normal((M, K + -K % 4), np.float32).reshape(M, -1, 4)
    ranks = np.argsort(np.argsort(random.random(full.shape), axis=-1), axis=-1)
    return np.where(ranks < 2, full, np.float32(0)).reshape(M, -1)[:, :K]
