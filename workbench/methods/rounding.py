"""Rounding: what all methods share that put weights on a grid. `class GPTQ(Rounding)` has the fields of a Scheme
(format, bits, granularity, group size, scale search ...), its judgement of shapes, and round-to-nearest to beat.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..grid import Fit, Scheme
from .base import METHODS, Method, Statistics, Verdict


class Rounding(Scheme, Method):
    """Base of the quantizers: a Scheme says which grid, `compress` which point of it each weight takes."""

    kind = "quantize"

    @property
    def needed(self) -> frozenset[str]:
        return self.needs | (frozenset({"mean_square"}) if self.searches_inputs else frozenset())

    def fitted(self, w: Tensor, statistics: Statistics | None) -> Fit:
        """The grid laid over w [out, in], its scales searched as the scheme says."""
        return self.fit(
            w, statistics.mean_square if statistics is not None and self.searches_inputs else None
        )

    def judge(self, shape: tuple[int, int]) -> Verdict:
        return Verdict(*self.judge_shape(shape))

    @property
    def scheme(self) -> dict[str, Any]:
        """The fields that say which grid, without those of the method itself."""
        return {name: getattr(self, name) for name in Scheme.model_fields}

    @property
    def baseline(self) -> Method | None:
        """Round-to-nearest on the same grid, with nothing searched."""
        plain = METHODS["rtn"](**self.scheme | {"scale_search": "none"})
        return None if plain == self else plain

    @property
    def label(self) -> str:
        return f"{self.name} {self.scheme_label}"
