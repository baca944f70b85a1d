"""Candidates for the timer: a function of fp32 operands, or a packed weight and its kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..time import Candidate
from .operands import Operands, fp32_tolerance
from .product import Packed, Product

if TYPE_CHECKING:
    import numpy as np


def fp32_candidate(
    name: str, sets: Operands, product: Callable[[np.ndarray, np.ndarray, np.ndarray], None]
) -> Candidate:
    """`product(a, b, c)` on every copy of the operands in turn."""
    import numpy as np

    pairs = sets.pairs
    c = np.empty((sets.a.shape[0], sets.b.shape[1]), dtype=np.float32)
    return Candidate(
        name=name,
        run=lambda i: product(*pairs[i % len(pairs)], c),
        poison=lambda: c.fill(np.nan),
        output=lambda: c,
        tolerance=fp32_tolerance(sets),
        nbytes=sets.b.nbytes,
        footprint=len(pairs) * (sets.a.nbytes + sets.b.nbytes),
    )


def product_candidate(
    name: str, tolerance: float, product: Product, packed: list[Packed], x: np.ndarray, **more: Any
) -> Candidate:
    """A packed product as a candidate that rotates through the copies of its weight."""
    import numpy as np

    y = np.empty((x.shape[0], packed[0].weight.shape[0]), np.float32)
    return Candidate(
        name=name,
        run=lambda i: product(x, y, packed[i % len(packed)]),
        poison=lambda: y.fill(np.nan),
        output=lambda: y,
        tolerance=tolerance,
        nbytes=packed[0].nbytes,
        footprint=len(packed) * packed[0].nbytes,
        **more,
    )
