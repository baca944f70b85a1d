"""Wanda: weights that are small where little arrives go first; |w| times the norm of the input, within each output row.

Sun et al. 2024, equation 1. No weight is changed. Scaling all inputs alike changes nothing; where all inputs have one
norm it is magnitude pruning by rows.
"""

from __future__ import annotations

from pydantic import Field, field_validator
from torch import Tensor

from ...grid import CompressedWeight, uncompressed
from ..base import METHODS, Method, Statistics, Verdict
from .magnitude import parse_n_m
from .masks import keep_n_m, keep_rows


class Wanda(Method):
    """Remove the weights of least |w| times the norm of their input."""

    name = "wanda"
    kind = "prune"
    summary = "Wanda: the weights of least |w| · ‖x‖ in each row become zero"
    source = "Sun et al. 2024, equation 1"
    needs = frozenset({"mean_square"})

    sparsity: float = Field(
        0.5, ge=0, le=1, description="share of each row removed", json_schema_extra={"where": {"n_m": [None]}}
    )
    n_m: tuple[int, int] | None = Field(
        None,
        description="keep N of every M inputs instead of a share",
        json_schema_extra={"choices": [None, [2, 4], [4, 8], [1, 4]]},
    )

    _n_m = field_validator("n_m", mode="before")(parse_n_m)

    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        """w [out, in] float32 to the same weights with a mask; kept ones stay as they are."""
        energy = self.given(statistics).mean_square
        assert energy is not None
        saliency = w.abs() * energy.sqrt()
        mask = keep_rows(saliency, self.sparsity) if self.n_m is None else keep_n_m(saliency, *self.n_m)
        return uncompressed(w).with_mask(mask, self.n_m)

    @property
    def baseline(self) -> Method | None:
        return METHODS["magnitude"](sparsity=self.sparsity, scope="row", n_m=self.n_m)

    def judge(self, shape: tuple[int, int]) -> Verdict:
        return METHODS["magnitude"](n_m=self.n_m).judge(shape)

    @property
    def label(self) -> str:
        return f"wanda {self.n_m[0]}:{self.n_m[1]}" if self.n_m else f"wanda {100 * self.sparsity:.0f} %"
