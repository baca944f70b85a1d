"""AdaDim: groups along the inputs of one output, or along the outputs of one input, whichever hurts the layer less.

A group on an output row mixes many inputs, so one sensitive input stretches the step of all; a group inside one input
channel (per-IC) keeps the harm to itself. Which axis wins depends on weights and activations together, so both are
tried. Heo et al. 2024. The reference compares the outputs of whole modules for q, k, v, gate and up; here each layer's
own output decides, exactly, from the Hessian.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from ...grid import CompressedWeight, Report
from ..base import METHODS, Statistics, Verdict
from ..rounding import Rounding

AXES = {"outputs": "group", "inputs": "input"}  # axis -> granularity of a scheme


class AdaDim(Rounding):
    """Choose for each layer between groups per output channel and per input channel."""

    name = "adadim"
    summary = "AdaDim: groups along inputs or along outputs, whichever hurts the layer's output less"
    source = "Heo et al. 2024 (ICLR), RTN-ada and GPTQ-ada"
    needs = frozenset({"hessian"})

    granularity: Literal["group"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "group", description="which weights share a scale"
    )
    base: Literal["rtn", "gptq"] = Field("rtn", description="what rounds once the axis is chosen")
    axis: Literal["auto", "outputs", "inputs"] = Field(
        "auto",
        description="groups within an output channel, within an input channel, or the better of the two",
    )

    def compress(self, w: Tensor, statistics: Statistics | None = None) -> CompressedWeight:
        """w [out, in] float32 to codes, groups of `group_size` along the axis with the smaller output error."""
        known = self.given(statistics)
        tried = {axis: self._method("rtn", axis).compress(w, known) for axis in self._axes}
        errors = {axis: known.output_error(w, made.dequantize() - w) or 0.0 for axis, made in tried.items()}
        best = min(errors, key=lambda axis: errors[axis])
        made = tried[best] if self.base == "rtn" else self._method("gptq", best).compress(w, known)
        facts: dict[str, float | str] = {
            f"output error, groups within {axis}": e for axis, e in errors.items()
        }
        return made.with_report(Report(facts={**facts, "axis": f"within {best}"}))

    @property
    def _axes(self) -> tuple[str, ...]:
        return tuple(AXES) if self.axis == "auto" else (self.axis,)

    def _method(self, base: str, axis: str) -> Rounding:
        return METHODS[base](**self.scheme | {"granularity": AXES[axis]})

    def judge(self, shape: tuple[int, int]) -> Verdict:
        verdicts = [self._method("rtn", axis).judge(shape) for axis in self._axes]
        skips = [verdict.skip for verdict in verdicts if verdict.skip]
        if skips:
            return Verdict(skip=skips[0])
        return Verdict(note="; ".join(dict.fromkeys(v.note for v in verdicts if v.note)))

    @property
    def label(self) -> str:
        return f"adadim {self.scheme_label}{' gptq' if self.base == 'gptq' else ''}"
