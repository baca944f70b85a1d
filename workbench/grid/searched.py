"""The activation-weighted scale search, compiled: what a slider moves. For float32 on the CPU, integers, groups along
the input; the same steps as `search`, which serves everything else.

A tile is one group of inputs in up to 128 rows, transposed: neighbouring lanes are neighbouring rows, so every loop is
elementwise over lanes, and the weight h_j of an input is one number for all of them. Sums run along the group in order:
the result depends neither on the number of threads nor on the width of a vector. Candidates are compared by
multiplication with 1 / scale; the codes are made by division, as everywhere.

numba's cache of this file does not see changes of `fused`: whoever changes that touches this one too.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from .blocks import Blocks
from .chunks import over_rows
from .fused import ASYMMETRIC, CONVENTIONS, DROPPED, FAST, NOTHING, ROUND, SIGNED
from .fused import encode_group, new_codes, shorten, steps_of
from .grids import IntGrid

Families = tuple[tuple[tuple[float, float], ...], ...]

LANES = 128  # rows of a tile at most
TILE = 2**14  # weights of a tile, about: 64 kB, so that it stays in the second cache
TOGETHER = 4  # candidates in one pass over a tile: they share the loads of the weights
PADDING = 16  # floats between the rows of a tile: at a power of two they would share lines of the cache
ROWS = 25  # of working memory, see `_search_tile`
ONE = np.float32(1)
NONE_YET = np.float32(np.inf)


def search(
    w: Tensor,
    grid: IntGrid,
    blocks: Blocks,
    convention: str,
    h: Tensor,
    scale_dtype: torch.dtype,
    families: Families,
    refits: int,
) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """(codes, scale, zero) of w [out, in] for weights h [in] of its inputs; None where some scale does not fit into
    `scale_dtype`. `families`: ratios for the low and the high end of the range, of one length; the best candidate of
    each family is refitted `refits` times."""
    array, codes, asymmetric = w.numpy(), new_codes(w, grid), convention == "asymmetric"
    scales = np.empty(blocks.counts, np.float32)
    zeros = np.zeros(blocks.counts, np.uint8) if asymmetric else np.zeros((blocks.counts[0], 0), np.uint8)
    limits = torch.finfo(scale_dtype)
    rule = (
        CONVENTIONS.index(convention),
        np.float32(steps_of(grid.bits, convention)),
        np.float32(limits.tiny),
        np.float32(limits.max),
        DROPPED[scale_dtype],
    )
    bounds = np.float32(grid.lowest), np.float32(grid.highest)
    ratios, weights, target = _ratios(families), h.float().contiguous().numpy(), codes.numpy()

    def work(start: int, stop: int) -> bool:
        return _search(
            array, weights, start, stop, blocks.columns, ratios, refits, rule, bounds, scales, zeros, target
        )

    if not all(over_rows(work, len(array))):
        return None
    return codes, torch.from_numpy(scales).to(scale_dtype), torch.from_numpy(zeros) if asymmetric else None


def _ratios(families: Families) -> np.ndarray:
    """[families, candidates, 2], each family filled up to a multiple of TOGETHER with its first candidate."""
    longest = max(len(family) for family in families)
    length = longest + -longest % TOGETHER
    return np.array([[*family, *[family[0]] * (length - len(family))] for family in families], np.float32)


@njit(nogil=True, cache=True, fastmath=FAST)
def _search(w, h, start, stop, size, ratios, refits, rule, bounds, scales, zeros, codes):
    """Scales, zeros and codes of the rows [start, stop); False as soon as a scale does not fit."""
    least, most, columns = rule[2], rule[3], w.shape[1]
    lanes = min(LANES, max(16, TILE // size), stop - start)
    # The last tile may have fewer rows; the lanes that are left over compute with what was there before.
    tile = np.zeros((min(size, columns), lanes + PADDING), np.float32)
    room = np.empty((ROWS, lanes), np.float32)
    for top in range(start, stop, lanes):
        n = min(lanes, stop - top)
        for group in range(scales.shape[1]):
            first = group * size
            last = min(columns, first + size)
            for i in range(n):
                row = w[top + i, first:last]
                for j in range(row.shape[0]):
                    tile[j, i] = row[j]
            _search_tile(tile, h[first:last], ratios, refits, rule, bounds, room)
            for i in range(n):
                scale, zero = room[0, i], room[1, i]
                if abs(scale) < least or abs(scale) > most:
                    return False
                scales[top + i, group] = scale
                if rule[0] == ASYMMETRIC:
                    zeros[top + i, group] = np.uint8(zero)
                row, target = w[top + i, first:last], codes[top + i, first:last]
                encode_group(row, scale, zero, bounds[0], bounds[1], target)
    return True


@njit(nogil=True, cache=True, fastmath=FAST)
def _search_tile(x, h, ratios, refits, rule, bounds, room):
    """The best scale and zero of each lane of x [group, lanes], into room[0] and room[1]."""
    best, of_family = room[0:3], room[3:6]  # scale, zero, loss
    low, high, unit = room[6], room[7], room[8]
    scales, zeros, inverses, losses = room[9:13], room[13:17], room[17:21], room[21:25]
    _extremes(x, len(h), low, high)
    for family in range(ratios.shape[0]):
        for first in range(0, ratios.shape[1], TOGETHER):
            for k in range(TOGETHER):
                a, b = ratios[family, first + k]
                _candidate(low, high, a, b, rule, bounds, scales[k], zeros[k], inverses[k])
            if first == 0:
                _begin(scales[0], zeros[0], inverses[0], of_family, unit)
                if family == 0:
                    _begin(scales[0], zeros[0], inverses[0], best, unit)
            losses[:] = 0
            _four_losses(x, h, inverses, zeros, bounds, losses)
            for k in range(TOGETHER):
                _keep(scales[k], zeros[k], losses[k], unit, of_family)
        scale, zero = of_family[0], of_family[1]
        for step in range(refits + 1):
            losses[:] = 0
            _sums(x, h, scale, zero, inverses[0], bounds, losses)
            _keep(scale, zero, losses[0], unit, best)
            if step < refits:
                _refit(scale, losses[1], losses[2], rule[4])


@njit(nogil=True, cache=True, fastmath=FAST)
def _extremes(x, size, low, high):
    """Least and greatest of each lane and 0."""
    low[:] = 0
    high[:] = 0
    for j in range(size):
        row = x[j]
        for i in range(low.shape[0]):
            low[i] = row[i] if row[i] < low[i] else low[i]
            high[i] = row[i] if row[i] > high[i] else high[i]


@njit(nogil=True, cache=True, fastmath=FAST)
def _candidate(low, high, a, b, rule, bounds, scale, zero, inverse):
    """Scale, zero and 1 / scale of each lane for the range [a low, b high]; `fused` has the same formulas."""
    convention, steps = rule[0], rule[1]
    for i in range(low.shape[0]):
        if convention == ASYMMETRIC:
            s = (high[i] * b - low[i] * a) / steps
        elif convention == SIGNED:
            s = (low[i] if -low[i] > high[i] else high[i]) / steps * b
        else:
            s = max(-low[i], high[i]) / steps * b
        scale[i] = ONE if s == 0 else s
    shorten(scale.view(np.int32), rule[4])
    for i in range(low.shape[0]):
        z = NOTHING
        if convention == ASYMMETRIC:
            z = ROUND - (low[i] * a / scale[i] + ROUND)
            z = min(max(z, bounds[0]), bounds[1])
        zero[i], inverse[i] = z, ONE / scale[i]


@njit(nogil=True, cache=True, fastmath=FAST)
def _begin(scale, zero, inverse, best, unit):
    """The plain candidate, before any loss is known. Losses are in units of its scale."""
    best[0], best[1], best[2], unit[:] = scale, zero, NONE_YET, inverse


@njit(nogil=True, cache=True, fastmath=FAST)
def _four_losses(x, h, scale, zero, bounds, loss):
    """loss[k] += sum over the group of h e^2, e in units of the scale; TOGETHER is written out."""
    s0, s1, s2, s3 = scale[0], scale[1], scale[2], scale[3]
    z0, z1, z2, z3 = zero[0], zero[1], zero[2], zero[3]
    l0, l1, l2, l3 = loss[0], loss[1], loss[2], loss[3]
    for j in range(h.shape[0]):
        row, weight = x[j], h[j]
        for i in range(s0.shape[0]):
            w = row[i]
            e = _miss(w * s0[i] + z0[i], bounds)
            l0[i] += weight * (e * e)
            e = _miss(w * s1[i] + z1[i], bounds)
            l1[i] += weight * (e * e)
            e = _miss(w * s2[i] + z2[i], bounds)
            l2[i] += weight * (e * e)
            e = _miss(w * s3[i] + z3[i], bounds)
            l3[i] += weight * (e * e)


@njit(nogil=True, fastmath=FAST, inline="always")
def _miss(y, bounds):
    """y minus its code, both with the zero point."""
    c = y if y > bounds[0] else bounds[0]
    c = c if c < bounds[1] else bounds[1]
    return y - ((c + ROUND) - ROUND)


@njit(nogil=True, cache=True, fastmath=FAST)
def _keep(scale, zero, loss, unit, best):
    for i in range(loss.shape[0]):
        relative = scale[i] * unit[i]
        total = loss[i] * (relative * relative)
        better = total < best[2, i]
        best[0, i] = scale[i] if better else best[0, i]
        best[1, i] = zero[i] if better else best[1, i]
        best[2, i] = total if better else best[2, i]


@njit(nogil=True, cache=True, fastmath=FAST)
def _sums(x, h, scale, zero, inverse, bounds, sums):
    """sums[0] += h e^2, sums[1] += h w (q - z), sums[2] += h (q - z)^2 over the group."""
    squares, above, below = sums[0], sums[1], sums[2]
    for i in range(scale.shape[0]):
        inverse[i] = ONE / scale[i]
    for j in range(h.shape[0]):
        row, weight = x[j], h[j]
        for i in range(scale.shape[0]):
            y = row[i] * inverse[i] + zero[i]
            e = _miss(y, bounds)
            step = (y - e) - zero[i]
            weighted = weight * step
            squares[i] += weight * (e * e)
            above[i] += weighted * row[i]
            below[i] += weighted * step


@njit(nogil=True, cache=True, fastmath=FAST)
def _refit(scale, above, below, dropped):
    """The scale of least squares, where it has the sign of the one before."""
    for i in range(scale.shape[0]):
        fitted = above[i] / (ONE if below[i] == 0 else below[i])
        scale[i] = fitted if below[i] > 0 and fitted * scale[i] > 0 else scale[i]
    shorten(scale.view(np.int32), dropped)
