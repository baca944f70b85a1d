"""What of a spectrum is correlation, and what single large weights: the same weights in random order.

Shuffling the entries of a matrix destroys every correlation and keeps their distribution. An eigenvalue of the shuffled
matrix beyond its own bulk (a "correlation trap") is made by single weights that are far too large. Martin & Mahoney
2021, JMLR 22(165), section 5; WeightWatcher's `randomize=True`.
"""

from __future__ import annotations

import numpy as np
from scipy.special import rel_entr

from workbench.spectra.esd import esd
from workbench.spectra.matrices import Matrices

FEW = 100  # eigenvalues under which five shuffles are pooled, as in WeightWatcher
REPLICAS = 5


def shuffled(read: Matrices, seed: int = 0) -> Matrices:
    """The same matrices, the entries of each in random order."""
    random = np.random.default_rng(seed)
    return Matrices(tuple(random.permutation(part.ravel()).reshape(part.shape) for part in read.parts))


def randomized_eigenvalues(read: Matrices, seed: int = 0) -> np.ndarray:
    """Eigenvalues [replicas * n], ascending, of shuffled matrices; several shuffles where the eigenvalues are few."""
    return np.sort(np.concatenate(randomized(read, seed)))


def randomized(read: Matrices, seed: int = 0) -> list[np.ndarray]:
    """Eigenvalues [n], ascending, of each shuffle that `randomized_eigenvalues` pools."""
    replicas = REPLICAS if read.M * len(read.parts) < FEW else 1
    return [esd(shuffled(read, seed + place)).eigenvalues for place in range(replicas)]


def jensen_shannon_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Square root of the Jensen-Shannon divergence, nats, of two spectra [n] of the same length, each ascending and
    divided by its sum: WeightWatcher's `rand_distance`."""
    p, q = a / a.sum(), b / b.sum()
    # WeightWatcher means before it divides by the sums, so that the middle is weighted by them.
    m = (a + b) / (a.sum() + b.sum())
    return float(np.sqrt(max(0.0, (rel_entr(p, m).sum() + rel_entr(q, m).sum()) / 2)))
