"""HQQ: integers under a zero point that is a fraction, moved until the residual is sparse. No data is needed.

Badri & Shaji 2023 (half-quadratic quantization); `quantize.py` and the legacy solver of `optimize.py`, its default:

    scale = (max w - min w) / (2^b - 1),  zero = -min w / scale           for each group, the zero not rounded
    repeat   q = clamp(round(w / scale + zero));  w^ = (q - zero) scale
             e = sign(w - w^) max(0, |w - w^| - |w - w^|^(p-1) / beta)     few large errors, the others 0
             zero = mean over the group of q - (w - e) / scale
    until mean |w - w^| of the matrix falls no further

The reference hands back the zero points of after the step that made it worse; `keep_best: false` does the same. Ours
keeps each group's best. Zeros are stored as the scales are, and rounded so before they are used. The reference's guards
for half precision (a range below 1e-4 becomes one value) are not needed: such scales are stored wider.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from pydantic import Field, field_validator
from torch import Tensor

from ...grid import CompressedWeight, Fit, IntGrid, Report
from ...grid.affine import block_range
from ...grid.formats import rule_of
from ...grid.grids import FLOATS
from ...jobs import beat
from ..base import Statistics
from ..rounding import Rounding


class HQQ(Rounding):
    """Fit a fractional zero point to each group, so that few weights have a large error."""

    name = "hqq"
    summary = "HQQ: fractional zero points, fitted to the weights alone"
    source = "Badri & Shaji 2023; legacy solver of mobiusml/hqq"

    format: str = Field(
        "int", description="number format", json_schema_extra={"choices": ["int"], "more": True}
    )
    bits: int = Field(4, ge=2, le=8, description="bits of a code")  # the ends of a range alone are no grid
    symmetric: bool = Field(
        False, description="never: the zero point is what is fitted",
        json_schema_extra={"choices": [False], "more": True},
    )  # fmt: skip
    p: float = Field(
        0.7, ge=0.1, le=1, description="exponent of the error's norm: the smaller, the sparser",
        json_schema_extra={"stops": [0.1, 0.3, 0.5, 0.7, 0.9, 1.0]},
    )  # fmt: skip
    beta: float = Field(
        10.0, ge=0.1, le=10000, description="how closely the solver follows the residual",
        json_schema_extra={"stops": [1.0, 3.0, 10.0, 30.0, 100.0], "more": True},
    )  # fmt: skip
    steps: int = Field(
        20, ge=1, le=1000, description="iterations of the solver at most",
        json_schema_extra={"stops": [1, 5, 10, 20, 50]},
    )  # fmt: skip
    keep_best: bool = Field(
        True, description="keep each group's best zero point; off: the last one, as in the reference"
    )

    @field_validator("format")
    @classmethod
    def _integers_only(cls, value: str) -> str:
        if value != "int":
            raise ValueError(
                f"a zero point needs integers: take format: int, or RTN, AdaRound or GPTQ for {value}"
            )
        return value

    @field_validator("symmetric")
    @classmethod
    def _with_a_zero(cls, value: bool) -> bool:
        if value:
            raise ValueError("the zero point is what hqq fits: take symmetric: false, or RTN without one")
        return value

    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        """w [out, in] float32 to codes, scales and fractional zeros."""
        mask = None if statistics is None else statistics.mask
        start = self._start(w, statistics)
        solved = solve(w, start, self.p, self.beta, self.steps, mask)
        fit = replace(start, zero=solved.best if self.keep_best else solved.last)
        made = fit.compressed(codes_of(w, fit)).with_mask(mask)
        return made.with_report(self._report(w, made, solved))

    def _start(self, w: Tensor, statistics: Statistics | None) -> Fit:
        """Scales from the range of each group (0 need not be in it), or from the search; zeros not rounded."""
        if self.scale_search != "none":
            fit = self.fitted(w, statistics)
            assert fit.zero is not None
            return replace(fit, zero=stored(fit.zero.float(), fit))
        blocks, grid = self.blocks((w.shape[0], w.shape[1])), IntGrid(bits=self.bits)
        low, high = block_range(w, blocks)
        span = (high - low) / grid.highest
        span, keep = torch.where(span == 0, 1.0, span), rule_of(self, w, blocks, None).keep
        keep = keep if keep.holds(keep.rounded(span)) else keep.wider()
        fit = Fit(grid, blocks, keep.pack(keep.rounded(span)))
        return replace(fit, zero=stored(-low / fit.scales, fit))

    def _report(self, w: Tensor, made: CompressedWeight, solved: Solved) -> Report:
        assert self.baseline is not None
        plain = self.baseline.compress(w).with_mask(made.mask)
        error, theirs = (float((each.dequantize() - w).abs().mean()) for each in (made, plain))
        facts: dict[str, float | str] = {"mean |w' - w|": error, "mean |w' - w| of rtn": theirs}
        report = Report(
            {"mean |w' - w|": solved.errors}, facts | {"shrunk residuals, %": 100 * solved.shrunk}
        )
        if error > theirs:
            return report.warn(
                f"further from the weights than rtn: mean |w' - w| {error:.3g} against {theirs:.3g}"
            )
        return report


@dataclass(frozen=True)
class Solved:
    """Zeros [counts] as stored: after the last step, and each group's best. `errors`: mean |w - w^| before every step
    and after the last; `shrunk`: share of the residuals that were left over in the last step."""

    last: Tensor
    best: Tensor
    errors: list[float]
    shrunk: float


def solve(w: Tensor, start: Fit, p: float, beta: float, steps: int, mask: Tensor | None = None) -> Solved:
    """The half-quadratic solver for w [out, in]; weights that a mask removes count nowhere."""
    blocks, scale = start.blocks, start.blocks.expand(start.scales)
    kept = torch.ones_like(w) if mask is None else mask.float()
    count, total = blocks.reduce(kept, "sum").clamp(min=1), kept.sum().clamp(min=1)
    assert start.zero is not None
    zero, best, least, shrunk = start.zero, start.zero, None, 0.0
    errors: list[float] = []
    for step in range(steps + 1):
        q = codes_of(w, replace(start, zero=zero)).float()
        residual = w - (q - blocks.expand(zero.float())) * scale
        size = residual.abs() * kept
        errors.append(float(size.sum() / total))
        loss = blocks.reduce(size, "sum")
        better = torch.ones_like(loss, dtype=torch.bool) if least is None else loss < least
        best = torch.where(better, zero.float(), best.float())
        least = loss if least is None else torch.minimum(loss, least)
        if step == steps or (step > 1 and errors[-2] >= min(errors[:-2])):
            break
        # |r|^(p-1) is infinite at 0, and the maximum 0: as a difference it does no harm.
        sparse = residual.sign() * (size - size.pow(p - 1) / beta).clamp(min=0)
        shrunk = float((sparse != 0).float().mean())
        zero = stored(blocks.reduce((q - (w - sparse) / scale) * kept, "sum") / count, start)
        beat(step + 1, steps, loss=errors[-1])
    return Solved(zero, stored(best, start), errors, shrunk)


def codes_of(w: Tensor, fit: Fit) -> Tensor:
    """clamp(round(w / scale + zero)): with a fraction in the zero point the rounding comes after the sum."""
    assert fit.zero is not None
    steps = w / fit.blocks.expand(fit.scales) + fit.blocks.expand(fit.zero.float())
    return steps.round_().clamp_(0, fit.grid.largest).to(torch.uint8)


def stored(zero: Tensor, fit: Fit) -> Tensor:
    """Zeros [counts] in the dtype of the scales, in half precision where those are no floats; wider if they need it."""
    dtype = (
        fit.scale.dtype
        if isinstance(fit.scale, Tensor) and fit.scale.dtype in FLOATS.values()
        else torch.float16
    )
    return zero.to(dtype) if zero.abs().max() <= torch.finfo(dtype).max else zero
