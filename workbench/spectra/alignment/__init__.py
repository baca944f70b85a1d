"""Two networks: permutations that bring one onto the other, the mean of several, and why it works."""

from workbench.spectra.alignment.matching import Matching, Merging, match, merge
from workbench.spectra.alignment.symmetry import Group, Symmetry, check, distance
from workbench.spectra.alignment.vectors import (
    Decomposition,
    VectorAlignment,
    alignment_score,
    scores,
    singular_alignment,
)

__all__ = [
    "Decomposition",
    "Group",
    "Matching",
    "Merging",
    "Symmetry",
    "VectorAlignment",
    "alignment_score",
    "check",
    "distance",
    "match",
    "merge",
    "scores",
    "singular_alignment",
]
