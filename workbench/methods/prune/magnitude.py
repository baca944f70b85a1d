"""Magnitude pruning: the weights of least |w| become zero. The baseline of every pruning paper.

Compared over the whole layer (Han et al. 2015), within each output row, or within each run of M inputs (N:M, of
which N are kept). Among all masks of the same count it has the least weight error.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator
from torch import Tensor

from ...grid import CompressedWeight, uncompressed
from ..base import Method, Statistics, Verdict
from .masks import keep_layer, keep_n_m, keep_rows


def parse_n_m(value: Any) -> Any:
    """(2, 4) from "2:4", [2, 4] or (2, 4); "" and "none" are None. For the fields of pruning methods."""
    if value in ("", "none", "None"):
        return None
    if isinstance(value, str) and re.fullmatch(r"\d{1,2}:\d{1,2}", value):
        value = [int(number) for number in value.split(":")]
    if value is None:
        return None
    if not isinstance(value, list | tuple) or [type(number) for number in value] != [int, int]:
        raise ValueError("take (2, 4) or '2:4', which keeps 2 of every 4")
    kept, of = value
    if not 1 <= kept <= of <= 64:
        raise ValueError("it keeps N of M, 1 <= N <= M <= 64")
    return kept, of


class Magnitude(Method):
    """Remove the weights of least magnitude."""

    name = "magnitude"
    kind = "prune"
    summary = "Magnitude pruning: the weights of least |w| become zero"
    source = "Han et al. 2015; layer scope as in the baselines of Wanda and SparseGPT"

    sparsity: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the weights removed",
        json_schema_extra={"where": {"n_m": [None]}},
    )
    scope: Literal["layer", "row"] = Field(
        "layer", description="what is compared with what", json_schema_extra={"where": {"n_m": [None]}}
    )
    n_m: tuple[int, int] | None = Field(
        None,
        description="keep N of every M inputs instead of a share",
        json_schema_extra={"choices": [None, [2, 4], [4, 8], [1, 4]]},
    )

    _n_m = field_validator("n_m", mode="before")(parse_n_m)

    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        """w [out, in] float32 to the same weights with a mask; kept ones stay as they are."""
        saliency = w.abs()
        if self.n_m is not None:
            mask = keep_n_m(saliency, *self.n_m)
        else:
            mask = (keep_layer if self.scope == "layer" else keep_rows)(saliency, self.sparsity)
        return uncompressed(w).with_mask(mask, self.n_m)

    def judge(self, shape: tuple[int, int]) -> Verdict:
        if self.n_m and shape[1] % self.n_m[1]:
            of = self.n_m[1]
            return Verdict(
                note=f"{of} does not divide in = {shape[1]}: the last run of a row has {shape[1] % of}"
            )
        return Verdict()

    @property
    def label(self) -> str:
        if self.n_m:
            return f"magnitude {self.n_m[0]}:{self.n_m[1]}"
        return f"magnitude {100 * self.sparsity:.0f} %{' rows' if self.scope == 'row' else ''}"
