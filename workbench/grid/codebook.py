"""Codebook: any list of values. NormalFloat (NF4, NF3), codebooks learned by k-means, and NF4's double quantization.

Sources: Dettmers et al. 2023 (QLoRA) and bitsandbytes `functional.py`: `create_normal_map`, `create_dynamic_map`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from .blocks import Blocks
from .compressed import CompressedWeight
from .fitted import Fit
from .grids import TableGrid
from .rules import Keep, Rule, absmax

BINS = 2**12  # of the histogram that a codebook is learned from: 16 for each of the points of 8 bits
SECOND = 256  # scales that share a scale


class Codebook(TableGrid):
    """The nearest of `points`, ascending; of two that are equally near the lower one, as in bitsandbytes.

    `learned` ones are different in every matrix and count 32 bits a point.
    """

    points: tuple[float, ...]
    name: str = ""
    learned: bool = False

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        ascending = all(a < b for a, b in zip(self.points, self.points[1:], strict=False))
        if not 2 <= len(self.points) <= 256 or not ascending:
            raise ValueError(
                f"a codebook has 2 to 256 points in ascending order, not {len(self.points)} as given"
            )
        return self

    @property
    def code_bits(self) -> int:
        return (len(self.points) - 1).bit_length()

    @property
    def shared_bits(self) -> int:
        return 32 * len(self.points) if self.learned else 0

    @cached_property
    def table(self) -> Tensor:
        return torch.tensor(self.points)


@lru_cache
def normal_float(bits: int) -> Codebook:
    """NF4 and its like: quantiles of the normal distribution, 2^(b-1) above 0 and one less below, over the largest."""
    # Between the outermost quantiles of 2^b - 1 and of 2^b values; bitsandbytes writes it with seven digits.
    offset = round(1 - (1 / (2**bits - 1) + 1 / 2**bits) / 4, 7)
    half = 2 ** (bits - 1)
    above = torch.special.ndtri(torch.linspace(offset, 0.5, half + 1, dtype=torch.float64)[:-1])
    below = -torch.special.ndtri(torch.linspace(offset, 0.5, half, dtype=torch.float64)[:-1])
    points = torch.cat([below, torch.zeros(1), above]).sort().values
    return Codebook(points=tuple((points / points.max()).tolist()), name=f"nf{bits}")


@lru_cache
def dynamic() -> Codebook:
    """The 8-bit codebook of scales: 2^(i+1) values in the i-th of 7 decades. bitsandbytes has 0 too; here a scale is
    never 0, because weights are divided by it."""
    points = [1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2 ** (decade + 1) + 1, dtype=torch.float64)
        points += (10.0 ** (decade - 6) * (edges[1:] + edges[:-1]) / 2).tolist()
    return Codebook(points=tuple(sorted(points)), name="dynamic")


def learned(w: Tensor, blocks: Blocks, scale: Tensor, bits: int, h: Tensor | None = None) -> Codebook:
    """2^bits points for w [out, in] in units of the scales [counts] by k-means on a histogram of 2^12 bins; squared
    errors of the weights count, times h [in] where it is given."""
    from .kmeans import k_means  # numba: half a second that who only lists layers need not wait

    wide = blocks.expand(scale)
    x = (w / wide).clamp(-1, 1).flatten()
    weight = (wide.square() if h is None else wide.square() * h).expand(w.shape).flatten().double()
    bins = ((x + 1) * (BINS / 2)).int().clamp_(max=BINS - 1)
    mass, moment = (torch.bincount(bins, each, BINS) for each in (weight, weight * x))
    held = mass > 0
    points = k_means(mass[held].numpy(), moment[held].numpy(), 2**bits) if held.any() else np.zeros(1)
    distinct = np.unique(points.astype(np.float32))
    # A matrix of one value has one point, which is no code yet.
    distinct = distinct if len(distinct) > 1 else np.append(distinct, distinct + 1)
    return Codebook(points=tuple(distinct.tolist()), name="kmeans", learned=True)


@dataclass(frozen=True)
class DoubleQuant(Keep):
    """Scales as 8-bit codes, 256 of them with a float32 scale of their own."""

    dtype: torch.dtype = torch.float32

    @property
    def nothing(self) -> float:
        return 0.0  # a block of zeros must not stretch the range of its neighbours' scales

    def holds(self, scale: Tensor) -> bool:
        return True

    def pack(self, scale: Tensor) -> CompressedWeight:
        down, across = scale.shape
        blocks = Blocks((down, across), min(down, max(1, SECOND // across)), min(across, SECOND))
        scales = Rule(dynamic(), Keep(torch.float32), absmax(1)).plain(scale, blocks)[0]
        return Fit(dynamic(), blocks, scales).encode(scale)
