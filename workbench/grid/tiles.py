"""Compiled loops of the scale search, over a tile: one group of inputs in many rows, transposed.

x [group, lanes]: neighbouring lanes are neighbouring rows of the weight, so every loop is elementwise over lanes and
needs no reassociation to be vectorised, and the weight h_j of an input is one number for all lanes. Errors are in
units of the scale: with y = w / scale + zero and q its code, e = y - q.

numba's cache of this file does not see changes of `fused` and `tables`: whoever changes those touches this one
too.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from .fused import FAST, NOTHING, ROUND, encode_group, shorten
from .tables import as_float, as_int, encode_table_group, nearest

LANES = 128  # rows of a tile at most
TILE = 2**14  # weights of a tile, about: 64 kB, so that it stays in the second cache
PADDING = 16  # floats between the rows of a tile: at a power of two they would share lines of the cache
TOGETHER = 4  # candidates in one pass over a tile of integers: they share the loads of the weights
ROWS = 27  # of working memory, see `_search_tile`
ONE = np.float32(1)
NONE_YET = np.float32(np.inf)
# As in NumPy nothing is raised where a divisor is 0: looking for one would keep loops from being vectorised.
compiled = njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")


@compiled
def search_rows(
    w, h, base, start, stop, size, ratios, refits, rule, levels, ranks, sign, scales, zeros, codes
):
    """Scales, zeros and codes of the rows [start, stop), into the last three."""
    columns = w.shape[1]
    lanes = min(LANES, max(16, TILE // size), stop - start)
    # The last tile may have fewer rows; the lanes that are left over compute with what was there before.
    tile = np.zeros((min(size, columns), lanes + PADDING), np.float32)
    room, plain = np.empty((ROWS, lanes), np.float32), np.ones(lanes if base.shape[1] else 0, np.float32)
    scratch = np.empty((2, min(size, columns)), np.float32)
    for top in range(start, stop, lanes):
        n = min(lanes, stop - top)
        for group in range(scales.shape[1]):
            first = group * size
            last = min(columns, first + size)
            for i in range(n):
                row = w[top + i, first:last]
                for j in range(row.shape[0]):
                    tile[j, i] = row[j]
                if base.shape[1]:
                    plain[i] = base[top + i, group]
            _search_tile(tile[: last - first], h[first:last], plain, ratios, refits, rule, levels, room)
            for i in range(n):
                scale, row, target = room[0, i], w[top + i, first:last], codes[top + i, first:last]
                scales[top + i, group] = scale
                if zeros.shape[1]:
                    zeros[top + i, group] = np.uint8(room[1, i])
                if rule[0]:
                    encode_group(row, scale, room[1, i], rule[3], rule[4], target)
                else:
                    encode_table_group(row, scale, ranks, sign, scratch, target)


@compiled
def _search_tile(x, h, base, ratios, refits, rule, levels, room):
    """The best scale and zero of each lane, into room[0] and room[1].

    `base` [lanes] are the plain scales; empty for integers with a zero point, which have the range of the group and 0.
    `ratios` [families, candidates, 2] shrink its low and its high end, or the scale; the best of each family is
    refitted. `rule`: (integers, mirrored, power, lowest, highest, dropped); `levels`: borders and values of a table.
    """
    best, of_family = room[0:3], room[3:6]  # scale, zero, loss
    low, high, unit = room[6], room[7], room[8]
    scales, zeros, inverses, losses = room[9:13], room[13:17], room[17:21], room[21:25]
    if len(base) == 0:
        _extremes(x, low, high)
    for family in range(ratios.shape[0]):
        for first in range(0, ratios.shape[1], TOGETHER):
            for k in range(TOGETHER):
                a, b = ratios[family, first + k]
                if len(base) == 0:
                    _affine_candidate(low, high, a, b, rule, scales[k], zeros[k], inverses[k])
                else:
                    _candidate(base, b, rule, scales[k], zeros[k], inverses[k])
            if first == 0:
                _begin(scales[0], zeros[0], inverses[0], of_family, unit)
                if family == 0:
                    _begin(scales[0], zeros[0], inverses[0], best, unit)
            losses[:] = 0
            if not rule[0]:
                for k in range(TOGETHER):
                    _table_losses(x, h, inverses[k], rule, levels, room[25:], losses[k])
            elif rule[2]:
                _four_powers(x, inverses, zeros, rule, losses)
            else:
                _four_losses(x, h, inverses, zeros, rule, losses)
            for k in range(TOGETHER):
                _keep(scales[k], zeros[k], losses[k], unit, rule[2], of_family)
        if refits == 0:
            _take(of_family, best)
        scale, zero = of_family[0], of_family[1]
        for step in range(refits + 1 if refits else 0):
            losses[:] = 0
            if rule[0]:
                _sums(x, h, scale, zero, inverses[0], rule, losses)
            else:
                _table_sums(x, h, scale, inverses[0], rule, levels, room[25:], losses)
            _keep(scale, zero, losses[0], unit, rule[2], best)
            if step < refits:
                _refit(scale, losses[1], losses[2], rule[5])


@compiled
def _extremes(x, low, high):
    """Least and greatest of each lane and 0."""
    low[:] = 0
    high[:] = 0
    for j in range(x.shape[0]):
        row = x[j]
        for i in range(low.shape[0]):
            low[i] = row[i] if row[i] < low[i] else low[i]
            high[i] = row[i] if row[i] > high[i] else high[i]


@compiled
def _affine_candidate(low, high, a, b, rule, scale, zero, inverse):
    """Scale, zero and 1 / scale of each lane for the range [a low, b high], as in `affine.fit`."""
    steps = rule[4]
    for i in range(low.shape[0]):
        s = (high[i] * b - low[i] * a) / steps
        scale[i] = ONE if s == 0 else s
    shorten(scale.view(np.int32), rule[5])
    for i in range(low.shape[0]):
        z = ROUND - (low[i] * a / scale[i] + ROUND)
        zero[i], inverse[i] = min(max(z, NOTHING), steps), ONE / scale[i]


@compiled
def _candidate(base, b, rule, scale, zero, inverse):
    for i in range(base.shape[0]):
        s = base[i] * b
        scale[i] = ONE if s == 0 else s
    shorten(scale.view(np.int32), rule[5])
    for i in range(base.shape[0]):
        zero[i], inverse[i] = NOTHING, ONE / scale[i]


@compiled
def _begin(scale, zero, inverse, best, unit):
    """The plain candidate, before any loss is known. Losses are in units of its scale."""
    best[0], best[1], best[2], unit[:] = scale, zero, NONE_YET, inverse


@compiled
def _keep(scale, zero, loss, unit, power, best):
    """Lane by lane the one of smaller loss, which is in units of its scale, and there squared or raised to 2.4."""
    for i in range(scale.shape[0]):
        relative = scale[i] * unit[i]
        relative *= relative
        total = loss[i] * (raised(relative) if power else relative)
        better = total < best[2, i]
        best[0, i] = scale[i] if better else best[0, i]
        best[1, i] = zero[i] if better else best[1, i]
        best[2, i] = total if better else best[2, i]


@compiled
def _take(other, best):
    for i in range(best.shape[1]):
        better = other[2, i] < best[2, i]
        for part in range(3):
            best[part, i] = other[part, i] if better else best[part, i]


@compiled
def _refit(scale, above, below, dropped):
    """The scale of least squares, where it has the sign of the one before."""
    for i in range(scale.shape[0]):
        fitted = above[i] / (ONE if below[i] == 0 else below[i])
        scale[i] = fitted if below[i] > 0 and fitted * scale[i] > 0 else scale[i]
    shorten(scale.view(np.int32), dropped)


# Integers


@njit(nogil=True, fastmath=FAST, error_model="numpy", inline="always")
def _miss(y, low, high):
    """y minus its code."""
    c = y if y > low else low
    c = c if c < high else high
    return y - ((c + ROUND) - ROUND)


@compiled
def _four_losses(x, h, inverse, zero, rule, loss):
    """loss[k] += sum of h e^2 over the group. TOGETHER is written out: a loop over k would not be unrolled."""
    low, high = rule[3], rule[4]
    s0, s1, s2, s3 = inverse[0], inverse[1], inverse[2], inverse[3]
    z0, z1, z2, z3 = zero[0], zero[1], zero[2], zero[3]
    l0, l1, l2, l3 = loss[0], loss[1], loss[2], loss[3]
    for j in range(x.shape[0]):
        row, weight = x[j], h[j]
        for i in range(s0.shape[0]):
            w = row[i]
            e = _miss(w * s0[i] + z0[i], low, high)
            l0[i] += weight * (e * e)
            e = _miss(w * s1[i] + z1[i], low, high)
            l1[i] += weight * (e * e)
            e = _miss(w * s2[i] + z2[i], low, high)
            l2[i] += weight * (e * e)
            e = _miss(w * s3[i] + z3[i], low, high)
            l3[i] += weight * (e * e)


@compiled
def _four_powers(x, inverse, zero, rule, loss):
    """loss[k] += sum of |e|^2.4 over the group."""
    low, high = rule[3], rule[4]
    for k in range(TOGETHER):
        s, z, total = inverse[k], zero[k], loss[k]
        for j in range(x.shape[0]):
            row = x[j]
            for i in range(s.shape[0]):
                e = _miss(row[i] * s[i] + z[i], low, high)
                total[i] += raised(e * e)


@compiled
def _sums(x, h, scale, zero, inverse, rule, sums):
    """sums[0] += h e^2, sums[1] += h w (q - z), sums[2] += h (q - z)^2 over the group."""
    low, high = rule[3], rule[4]
    squares, above, below = sums[0], sums[1], sums[2]
    for i in range(scale.shape[0]):
        inverse[i] = ONE / scale[i]
    for j in range(x.shape[0]):
        row, weight = x[j], h[j]
        for i in range(scale.shape[0]):
            y = row[i] * inverse[i] + zero[i]
            e = _miss(y, low, high)
            step = (y - e) - zero[i]
            weighted = weight * step
            squares[i] += weight * (e * e)
            above[i] += weighted * row[i]
            below[i] += weighted * step


# Tables


@compiled
def _table_losses(x, h, inverse, rule, levels, room, loss):
    """loss += sum of h e^2 over the group, or of |e|^2.4. A mirrored table has the magnitudes only."""
    mirrored, power = rule[1], rule[2]
    y, found = room[0], room[1]
    for j in range(x.shape[0]):
        row, weight = x[j], h[j]
        for i in range(inverse.shape[0]):
            scaled = row[i] * inverse[i]
            y[i] = abs(scaled) if mirrored else scaled
        nearest(y, levels[0], levels[1], found)
        if power:
            for i in range(inverse.shape[0]):
                e = y[i] - found[i]
                loss[i] += raised(e * e)
        else:
            for i in range(inverse.shape[0]):
                e = y[i] - found[i]
                loss[i] += weight * (e * e)


@compiled
def _table_sums(x, h, scale, inverse, rule, levels, room, sums):
    """As `_sums`."""
    mirrored = rule[1]
    y, found = room[0], room[1]
    squares, above, below = sums[0], sums[1], sums[2]
    for i in range(scale.shape[0]):
        inverse[i] = ONE / scale[i]
    for j in range(x.shape[0]):
        row, weight = x[j], h[j]
        for i in range(scale.shape[0]):
            scaled = row[i] * inverse[i]
            y[i] = abs(scaled) if mirrored else scaled
        nearest(y, levels[0], levels[1], found)
        for i in range(scale.shape[0]):
            e, step = y[i] - found[i], found[i]
            w = abs(row[i]) if mirrored else row[i]
            weighted = weight * step
            squares[i] += weight * (e * e)
            above[i] += weighted * w
            below[i] += weighted * step


# |e|^2.4 = t^1.2 for t = e^2, without a call that would keep the loop from being vectorised


FIFTH, ROOT_OF_ONE = np.float32(0.2), np.int32(0x3F800000 - 0x3F800000 // 5)
FOUR_FIFTHS = np.float32(0.8)


@njit(nogil=True, fastmath=FAST, error_model="numpy", inline="always")
def raised(t):
    """t^1.2 for t >= 0 to 1e-4: the bits of a float are about its logarithm, and two steps of Newton for the root."""
    y = as_float(np.int32(np.float32(as_int(t)) * FIFTH) + ROOT_OF_ONE)
    square = y * y
    y = FOUR_FIFTHS * y + FIFTH * t / (square * square)
    square = y * y
    return t * (FOUR_FIFTHS * y + FIFTH * t / (square * square))
