"""k-means in one dimension, exactly: the best partition of a histogram into k runs, by dynamic programming.

With the layers of the program solved by divide and conquer (the best cut never moves left) this takes k n log n
steps. No start has to be guessed and no chance is involved (Grønlund et al. 2017, Fast Exact k-Means in 1D).
"""

from __future__ import annotations

import numpy as np
from numba import njit


def k_means(mass: np.ndarray, moment: np.ndarray, k: int) -> np.ndarray:
    """Means of at most k runs of bins, float64, ascending. mass and moment [bins]: weights, and weights times values,
    of bins in the order of their values; all weights above 0."""
    if len(mass) <= k:
        return moment / mass
    ends = _best_ends(np.append(0, mass.cumsum()), np.append(0, moment.cumsum()), k)
    return np.add.reduceat(moment, ends) / np.add.reduceat(mass, ends)


@njit(nogil=True, cache=True)
def _best_ends(masses, moments, k):
    """Where each of k runs begins. The squared distance to the means is least where the sum of moment^2 / mass over the
    runs is largest."""
    n = len(masses) - 1
    gain, best = np.empty(n + 1), np.empty(n + 1)
    cuts = np.zeros((k, n + 1), np.int32)
    for j in range(1, n + 1):
        gain[j] = moments[j] ** 2 / masses[j]
    stack = np.empty((64, 4), np.int64)
    for layer in range(1, k):
        # Ends [low, high] whose last run begins in [first, last].
        stack[0] = (layer + 1, n, layer, n - 1)
        size = 1
        while size:
            size -= 1
            low, high, first, last = stack[size]
            middle = (low + high) // 2
            most, at = -np.inf, first
            for i in range(first, min(last, middle - 1) + 1):
                value = gain[i] + (moments[middle] - moments[i]) ** 2 / (masses[middle] - masses[i])
                if value > most:
                    most, at = value, i
            best[middle], cuts[layer, middle] = most, at
            if low < middle:
                stack[size] = (low, middle - 1, first, at)
                size += 1
            if middle < high:
                stack[size] = (middle + 1, high, at, last)
                size += 1
        gain[:] = best
    begins = np.zeros(k, np.int64)
    end = n
    for layer in range(k - 1, 0, -1):
        end = cuts[layer, end]
        begins[layer] = end
    return begins
