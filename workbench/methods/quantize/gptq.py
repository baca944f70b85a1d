"""GPTQ: column by column, the error of each rounding is moved onto the columns that are not yet rounded.

Frantar et al. 2023, algorithm 1. Defaults are better than the reference's: the scales are searched under the weights'
own input energies first and stay fixed (static groups), and columns go by falling activation. `scale_search: none`,
`static_groups: false`, `order: natural` are the reference. Cost: one Cholesky of [in, in], and out * in^2 / 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ...errors import Refused
from ...grid import Blocks, CompressedWeight, Fit, Report
from ..base import Statistics
from ..columns import Factor, Sweep, factorise
from ..rounding import Rounding

LEARNED = ("kmeans", "power")  # formats whose grid depends on the weights


class GPTQ(Rounding):
    """Round column by column, each error compensated by the columns to come."""

    name = "gptq"
    summary = "GPTQ: columns in turn, each error moved onto the columns still to come"
    source = "Frantar et al. 2023, algorithm 1; the targets of `match` as in GPTAQ (Li et al. 2025)"
    needs = frozenset({"hessian"})

    scale_search: Literal["none", "activation", "mse", "percentile"] = Field(
        "activation", description="how the range of a block is chosen"
    )
    damp: float = Field(
        0.01, ge=0, le=1, description="damping, as a share of the Hessian's mean diagonal",
        json_schema_extra={"stops": [1e-4, 1e-3, 0.01, 0.03, 0.1], "more": True},
    )  # fmt: skip
    order: Literal["activation", "natural"] = Field(
        "activation",
        description="which columns go first: those of the most active inputs, or as they come",
        json_schema_extra={"more": True},
    )
    static_groups: bool = Field(
        True,
        description="scales of all groups from the original weights; off: from the compensated ones",
        json_schema_extra={"more": True},
    )
    block_size: int = Field(
        128, ge=1, le=65536, description="columns between two updates of the rest; changes speed alone",
        json_schema_extra={"stops": [16, 32, 64, 128, 256], "more": True},
    )  # fmt: skip
    match: Literal["layer", "original"] = Field(
        "layer",
        description="what to reproduce: the weight on the inputs it gets, or the original network's output",
        json_schema_extra={"more": True},
    )

    @property
    def needed(self) -> frozenset[str]:
        return super().needed | (frozenset({"cross"}) if self.match == "original" else frozenset())

    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        """w [out, in] float32 to codes that minimise the layer's output error, column by column."""
        known = self.given(statistics)
        assert known.hessian is not None
        factor = factorise(known.hessian, self.damp, self.order == "activation")
        if self.match == "original":
            w = self._target(w, known, factor)
        sweep = Sweep(w, factor, known.mask)
        fit = self._static(sweep, w, known) if self.static_groups else self._moving(sweep, known)
        report = Report({"output error^2": sweep.cost}, factor.facts, factor.warnings)
        if self.static_groups or self.order == "natural":
            made = fit.encode(sweep.rounded)
        else:  # groups of inputs that were neighbours in the order: it has to be stored
            made = replace(fit.encode(sweep.q), order=factor.order)
        return made.with_mask(known.mask).with_report(report)

    def _static(self, sweep: Sweep, w: Tensor, known: Statistics) -> Fit:
        """Every scale from the original weights, then all columns."""
        fit = self.fitted(w, known)
        columns = w.shape[1]
        for start in range(0, columns, self.block_size):
            sweep.block(start, min(start + self.block_size, columns), fit)
        return fit

    def _moving(self, sweep: Sweep, known: Statistics) -> Fit:
        """Scales of a group from its weights when the sweep reaches it, compensated by then (algorithm 1)."""
        if self.format in LEARNED:
            raise Refused(
                f"{self.label}: a grid that is learned from the weights is one for all groups: take static_groups: true"
            )
        out, columns = sweep.w.shape
        blocks = self.blocks((out, columns))
        if blocks.rows not in (1, out) and blocks.columns > 1:
            raise Refused(f"{self.label}: tiles have to be static: take static_groups: true")
        h = None if known.mean_square is None else known.mean_square[sweep.factor.order]
        fits: list[Fit] = []
        for first in range(0, columns, blocks.columns):
            last = min(first + blocks.columns, columns)
            part = self.fit(sweep.w[:, first:last].contiguous(), None if h is None else h[first:last])
            if not isinstance(part.scale, Tensor):
                raise Refused(f"{self.label}: two-level scales have to be static: take static_groups: true")
            fits.append(part)
            for start in range(first, last, self.block_size):
                sweep.block(
                    start, min(start + self.block_size, last), _shifted(part, blocks, sweep.factor, first)
                )
        scale = torch.cat([fit.scale for fit in fits if isinstance(fit.scale, Tensor)], 1)
        zeros = [fit.zero for fit in fits if fit.zero is not None]
        return Fit(fits[0].grid, blocks, scale, torch.cat(zeros, 1) if zeros else None)

    def _target(self, w: Tensor, known: Statistics, factor: Factor) -> Tensor:
        """The weight that on the inputs x of the compressed network comes closest to w on the original inputs x~:
        w E[x~ x^T] H^-1, so that errors of the layers before are answered too."""
        assert known.cross is not None
        assert known.hessian is not None
        moved = known.cross - known.hessian  # E[(x~ - x) x^T]
        upper = factor.upper.double()
        inverse = (upper.T @ upper)[factor.inverse][:, factor.inverse]
        return (w.double() + w.double() @ moved.double() @ inverse).float()


def _shifted(part: Fit, blocks: Blocks, factor: Factor, first: int) -> Fit:
    """The fit of one group of the sweep, so that the place of any of its columns finds its scale."""
    width = len(factor.order)
    whole = Blocks((part.blocks.shape[0], width), part.blocks.rows, width)
    return replace(part, blocks=whole)
