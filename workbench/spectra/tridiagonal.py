"""All eigenvalues of a symmetric tridiagonal matrix T, many at a time: Sturm counts, then interpolation.

With p_0 = 1, p_1 = d_1 - x and p_k = (d_k - x) p_{k-1} - e_{k-1}^2 p_{k-2}, the number of changes of sign in
p_0 ... p_n is the number of eigenvalues of T below x, and p_n(x) = det(T - x I) (Givens 1954; Golub & Van Loan, Matrix
Computations, 4th ed., section 8.4). The QR iteration that LAPACK takes (dsterf) is one long chain of divisions and
roots, each waiting for the last; a count is a chain of its own for every x, without either, and so as many run side by
side as the processor has lanes. An interval that holds several eigenvalues is cut into one part more than those; one
that holds a single eigenvalue is narrowed by inverse quadratic interpolation of p_n, as Brent does, and halved where
that is slow.

An eigenvalue is off by a few eps * ||T|| at most (Wilkinson, The Algebraic Eigenvalue Problem, 1965, section 5.33).
"""

from __future__ import annotations

import numpy as np
from numba import njit

EPS = float(np.finfo(np.float64).eps)
LANES = (
    32  # points that are worked on together: four vectors of eight, so that none waits for its own last step
)
# Where ||T|| is 1, p grows by less than 2^8 in four steps, and shrinks by less than 2^-400.
LARGE, SMALL = 2.0**300, 2.0**-300
LEAST = (
    2.0**-132
)  # of e^2 where ||T|| is 1: p never stays at zero where T falls apart, and no eigenvalue moves
FLOOR = 1e-3  # of ||T||: a smaller eigenvalue is looked for to EPS times this; the matrix knows it no better
PATIENCE = 3  # points in a row that may fail to halve an interval
LOW, HIGH, OLD = 0, 1, 2  # ends of an interval, and the end that was given up last

# As in NumPy nothing is raised where a divisor is 0: looking for one would keep loops from being vectorised.
compiled = njit(nogil=True, cache=True, error_model="numpy")


def tridiagonal_eigenvalues(diagonal: np.ndarray, beside: np.ndarray) -> np.ndarray:
    """Eigenvalues [n], ascending, float64, of the symmetric T with `diagonal` [n] and `beside` [n - 1] next to it."""
    return _all(np.ascontiguousarray(diagonal, np.float64), np.ascontiguousarray(beside, np.float64))


@compiled
def _all(diagonal, beside):
    n, unit = len(diagonal), _unit(diagonal, beside)
    if unit == 0:
        return np.zeros(n)
    d, squares = diagonal / unit, np.square(beside / unit)
    for k in range(n - 1):
        squares[k] = max(squares[k], LEAST)
    low, high = _gershgorin(d, squares)
    # Of each eigenvalue the interval that it lies in, and log2 |p_n| there, NaN where it is not known.
    x, size = np.empty((3, n)), np.full((3, n), np.nan)
    x[LOW], x[HIGH], x[OLD] = low, high, np.nan
    slow = np.zeros(n, np.int64)
    points, below, sizes = np.empty(n + LANES), np.empty(n + LANES), np.empty(n + LANES)
    wanted, count = np.arange(n), n
    while count:
        _choose(x, size, slow, wanted[:count], points)
        for first in range(0, count, LANES):
            last = first + LANES
            _sturm(d, squares, points[first:last], below[first:last], sizes[first:last])
        _narrow(x, size, slow, wanted[:count], points, below, sizes)
        found = 0
        for i in range(count):
            k = wanted[i]
            if x[HIGH, k] - x[LOW, k] > 2 * _tolerance(x[LOW, k], x[HIGH, k]):
                wanted[i - found] = k
            else:
                found += 1
        count -= found
    return unit * 0.5 * (x[LOW] + x[HIGH])


@compiled
def _unit(diagonal, beside):
    """The power of two at the largest element of T or just above; 0 where all are 0 or there is none."""
    norm = 0.0
    for each in diagonal:
        norm = max(norm, abs(each))
    for each in beside:
        norm = max(norm, abs(each))
    return 2.0 ** min(np.ceil(np.log2(norm)), 1023) if norm > 0 else 0.0


@compiled
def _gershgorin(d, squares):
    """Two numbers that all eigenvalues lie between."""
    low, high, before = d[0], d[0], 0.0
    for k in range(len(d)):
        after = np.sqrt(squares[k]) if k < len(squares) else 0.0
        low, high = min(low, d[k] - before - after), max(high, d[k] + before + after)
        before = after
    return low - EPS, high + EPS


@compiled
def _choose(x, size, slow, wanted, points):
    """One point for each wanted eigenvalue, ascending: equally spaced where several share an interval."""
    begin = 0
    while begin < len(wanted):
        k, end = wanted[begin], _together(x, wanted, begin)
        low, high = x[LOW, k], x[HIGH, k]
        if end - begin == 1 and slow[k] < PATIENCE:
            points[begin] = _interpolated(x[:, k], size[:, k])
        else:
            for i in range(begin, end):
                points[i] = low + (high - low) * ((i - begin + 1) / (end - begin + 1))
        begin = end
    for i in range(begin, begin + LANES):
        points[i] = points[begin - 1]  # lanes that are left over


@compiled
def _narrow(x, size, slow, wanted, points, below, sizes):
    """Move the ends of each interval to the points next to its eigenvalue."""
    begin = 0
    while begin < len(wanted):
        end = _together(x, wanted, begin)
        for k in wanted[begin:end]:
            width = x[HIGH, k] - x[LOW, k]
            above = begin + np.searchsorted(
                below[begin:end], k, side="right"
            )  # the first point above eigenvalue k
            for side, point, there in ((LOW, above - 1, above > begin), (HIGH, above, above < end)):
                if there:
                    x[OLD, k], size[OLD, k] = x[side, k], size[side, k]
                    x[side, k], size[side, k] = points[point], sizes[point]
            if end - begin > 1:
                size[OLD, k] = np.nan  # other eigenvalues may lie between: the sign is not known
            slow[k] = slow[k] + 1 if x[HIGH, k] - x[LOW, k] > 0.5 * width else 0
        begin = end


@compiled
def _together(x, wanted, begin):
    """One past the last of the wanted eigenvalues that share the interval of the one at `begin`."""
    end, first = begin + 1, wanted[begin]
    while (
        end < len(wanted) and x[LOW, wanted[end]] == x[LOW, first] and x[HIGH, wanted[end]] == x[HIGH, first]
    ):
        end += 1
    return end


@compiled
def _interpolated(x, size):
    """Where p_n is zero between the ends of an interval, whose signs differ: by the inverse of the quadratic through
    both and the old end, else by the straight line, else the middle. Never nearer to an end than the tolerance, so
    that the other end follows."""
    low, high, old = x
    # p_n in units of its value at the upper end
    at_low, at_old = -np.exp2(size[LOW] - size[HIGH]), np.exp2(size[OLD] - size[HIGH])
    if old < low:
        at_old = -at_old
    point = low + (high - low) * (at_low / (at_low - 1))
    curved = (
        low * at_old / ((at_low - 1) * (at_low - at_old))
        + high * at_low * at_old / ((1 - at_low) * (1 - at_old))
        + old * at_low / ((at_old - at_low) * (at_old - 1))
    )
    if low < curved < high:
        point = curved
    if not low < point < high:
        return 0.5 * (low + high)
    away = _tolerance(low, high)
    return min(max(point, low + away), high - away)


@compiled
def _tolerance(low, high):
    return EPS * (max(abs(low), abs(high)) + FLOOR)


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
def _sturm(d, squares, points, below, sizes):
    """Of LANES points: how many eigenvalues lie below, and log2 |p_n|. The loops over the lanes become vectors; four
    steps are taken between two looks at the size of p."""
    n = len(d)
    before, p, signs, scale = np.ones(LANES), d[0] - points, np.empty(LANES), np.zeros(LANES)
    for i in range(LANES):
        signs[i] = 1.0 if p[i] < 0 else 0.0
    k = 1
    while k + 4 <= n:
        d0, d1, d2, d3 = d[k], d[k + 1], d[k + 2], d[k + 3]
        s0, s1, s2, s3 = squares[k - 1], squares[k], squares[k + 1], squares[k + 2]
        for i in range(LANES):
            x, p0 = points[i], p[i]
            p1 = (d0 - x) * p0 - s0 * before[i]
            p2 = (d1 - x) * p1 - s1 * p0
            p3 = (d2 - x) * p2 - s2 * p1
            p4 = (d3 - x) * p3 - s3 * p2
            changes = 1.0 if (p1 < 0) != (p0 < 0) else 0.0
            changes += 1.0 if (p2 < 0) != (p1 < 0) else 0.0
            changes += 1.0 if (p3 < 0) != (p2 < 0) else 0.0
            changes += 1.0 if (p4 < 0) != (p3 < 0) else 0.0
            signs[i] += changes
            largest = max(abs(p3), abs(p4))
            factor = SMALL if largest > LARGE else (LARGE if largest < SMALL else 1.0)
            scale[i] += 300.0 if largest > LARGE else (-300.0 if largest < SMALL else 0.0)
            before[i], p[i] = p3 * factor, p4 * factor
        k += 4
    while k < n:
        for i in range(LANES):
            after = (d[k] - points[i]) * p[i] - squares[k - 1] * before[i]
            signs[i] += 1.0 if (after < 0) != (p[i] < 0) else 0.0
            before[i], p[i] = p[i], after
        k += 1
    for i in range(LANES):
        below[i], sizes[i] = signs[i], scale[i] + np.log2(abs(p[i]))
