"""SparseGPT: column by column, what is removed is answered by the weights that are still to come.

Frantar and Alistarh 2023, algorithm 1. The mask of a block of columns is chosen when the sweep reaches it, from the
weights as they are compensated by then: the least w^2 / U_ii^2 of the whole block (all rows together), or of each run
of M inputs. Of n weights floor(share * n) go, where the authors' code removes one more. With `bits` the kept weights
are rounded in the same pass. Weights change, so the weight error is larger than that of other pruners, and the output
error smaller.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ...grid import CompressedWeight, Fit, Report, Scheme, uncompressed
from ..base import METHODS, Method, Statistics, Verdict
from ..columns import Sweep, factorise
from .magnitude import parse_n_m
from .masks import keep_layer


class SparseGPT(Method):
    """Remove weights column by column, the others making up for it."""

    name = "sparsegpt"
    kind = "prune"
    summary = "SparseGPT: prune column by column, the weights still to come make up for it"
    source = "Frantar and Alistarh 2023, algorithm 1"
    needs = frozenset({"hessian"})
    updates = True

    sparsity: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of the weights removed",
        json_schema_extra={"where": {"n_m": [None]}},
    )
    n_m: tuple[int, int] | None = Field(
        None,
        description="keep N of every M inputs instead of a share",
        json_schema_extra={"choices": [None, [2, 4], [4, 8], [1, 4]]},
    )
    bits: int | None = Field(
        None,
        ge=2,
        le=8,
        description="round what is kept to this many bits in the same pass",
        json_schema_extra={"choices": [None, 3, 4, 8]},
    )
    group_size: int = Field(
        64,
        ge=-1,
        le=65536,
        description="inputs that share a scale; -1: the whole row",
        json_schema_extra={"stops": [16, 32, 64, 128, 256, -1], "where": {"bits": [3, 4, 8]}},
    )
    damp: float = Field(
        0.01, ge=0, le=1, description="damping, as a share of the Hessian's mean diagonal",
        json_schema_extra={"stops": [1e-4, 1e-3, 0.01, 0.03, 0.1], "more": True},
    )  # fmt: skip
    block_size: int = Field(
        128, ge=1, le=65536, description="columns whose mask is chosen together",
        json_schema_extra={"stops": [16, 32, 64, 128, 256], "more": True},
    )  # fmt: skip

    _n_m = field_validator("n_m", mode="before")(parse_n_m)

    @field_validator("bits", mode="before")
    @classmethod
    def _no_bits(cls, value: Any) -> Any:
        return None if value in ("", "none", "None") else value

    @field_validator("group_size")
    @classmethod
    def _no_group_of_one(cls, value: int) -> int:
        if value in (0, 1):
            raise ValueError("take -1 (the whole row) or at least 2")
        return value

    @property
    def rounds(self) -> bool:
        return self.bits is not None

    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        """w [out, in] float32 to a mask and weights that make up for what it removes."""
        known = self.given(statistics)
        assert known.hessian is not None
        factor = factorise(known.hessian, self.damp)
        sweep = Sweep(w, factor, known.mask)
        fit = None if self.bits is None else Scheme(bits=self.bits, group_size=self.group_size).fit(w)
        self._run(sweep, fit)
        made = uncompressed(_stored(sweep.rounded)) if fit is None else fit.encode(sweep.rounded)
        report = Report({"output error^2": sweep.cost}, factor.facts, factor.warnings)
        return made.with_mask(sweep.kept, self.n_m).with_report(report)

    def _run(self, sweep: Sweep, fit: Fit | None) -> None:
        columns = sweep.w.shape[1]
        step = self.block_size if self.n_m is None else max(1, self.block_size // self.n_m[1]) * self.n_m[1]
        diagonal = sweep.factor.upper.diagonal()
        for start in range(0, columns, step):
            stop = min(start + step, columns)
            if self.n_m is None:
                cost = (sweep.w[:, start:stop] / diagonal[start:stop]) ** 2
                cost[~sweep.keep[:, start:stop]] = -1  # what is gone already goes first
                sweep.keep[:, start:stop] &= keep_layer(cost, self.sparsity)
            sweep.block(start, stop, fit, self.n_m or (0, 0))

    @property
    def baseline(self) -> Method | None:
        return None if self.rounds else METHODS["magnitude"](sparsity=self.sparsity, n_m=self.n_m)

    def judge(self, shape: tuple[int, int]) -> Verdict:
        notes = [METHODS["magnitude"](n_m=self.n_m).judge(shape).note]
        if self.bits is not None:
            notes.append(Scheme(bits=self.bits, group_size=self.group_size).judge_shape(shape)[1])
        return Verdict(note="; ".join(filter(None, notes)))

    @property
    def label(self) -> str:
        share = f"{self.n_m[0]}:{self.n_m[1]}" if self.n_m else f"{100 * self.sparsity:.0f} %"
        rounding = "" if self.bits is None else f" {self.bits} g{self.group_size}"
        return f"sparsegpt {share}{rounding}"


def _stored(w: Tensor) -> Tensor:
    """Compensated weights at the precision in which checkpoints keep weights: half, where that loses a thousandth at
    most."""
    half = w.half().float()
    return half if torch.linalg.vector_norm(half - w) <= 1e-3 * torch.linalg.vector_norm(w) else w
