"""Activations: what enters a layer is quantized too (W8A8, W4A8). Fake quantization on the grids of the weights.

Per token: each row of x has its own range, found when it arrives. Per tensor: one range from calibration, the least
and largest value seen or a percentile. The percentile is that of 256 inputs spread over the data: a value that is
rarer than one in all of theirs is not in it. The input that is quantized is the divided one, x / s, where a transform
such as SmoothQuant came before. Brevitas' defaults are per tensor, symmetric, percentile 99.999; SmoothQuant's per
token.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field, field_validator
from torch import Tensor

from ...grid import CompressedWeight, Grid, InputQuantizer, IntGrid, Report, Scheme
from ...grid.formats import FIXED_BLOCKS
from ...grid.minifloat import minifloat
from ..base import Finish, Statistics


class Activations(Finish):
    """Quantize what enters the layer."""

    name = "activations"
    kind = "activation"
    summary = "Activation quantization: the layer's input on a grid, per token or per tensor"
    source = (
        "per token: Xiao et al. 2023, fake_quant.py; per tensor: Nagel et al. 2021, section 3.1, and brevitas"
    )

    format: str = Field(
        "int",
        description="number format; any e{E}m{M} of 3 to 8 bits is one; MX and NVFP4 have scales in blocks",
        json_schema_extra={
            "choices": ["int", "e4m3", "e5m2", "e3m4", "e2m1", "nf4", *FIXED_BLOCKS],
        },
    )
    bits: int = Field(
        8, ge=2, le=8, description="bits of a code", json_schema_extra={"where": {"format": ["int"]}}
    )
    granularity: Literal["token", "tensor"] = Field(
        "token",
        description="what shares a scale: each token, found when it arrives, or all, from calibration",
        json_schema_extra={"where": {"format": ["int", "e4m3", "e5m2", "e3m4", "e2m1", "nf4"]}},
    )
    symmetric: bool = Field(
        True,
        description="no zero point: the grid is centred on 0",
        json_schema_extra={"where": {"format": ["int"]}},
    )
    range: Literal["minmax", "percentile"] = Field(
        "minmax", description="of calibration: the extremes, or all but a few of a sample",
        json_schema_extra={"where": {"granularity": ["tensor"]}},
    )  # fmt: skip
    percentile: float = Field(
        99.999, ge=90, le=100, description="percent of the values inside the range, of 256 calibration inputs",
        json_schema_extra={
            "stops": [99.0, 99.9, 99.99, 99.999, 100.0], "where": {"range": ["percentile"], "granularity": ["tensor"]},
        },
    )  # fmt: skip

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        if value not in ("int", "nf4", "nf3", *FIXED_BLOCKS) and minifloat(value) is None:
            raise ValueError(
                f"take int, nf4, any e{{E}}m{{M}} of 3 to 8 bits such as e2m1, or {', '.join(FIXED_BLOCKS)}"
            )
        return value

    @property
    def needed(self) -> frozenset[str]:
        if self.granularity == "token" or self.format in FIXED_BLOCKS:
            return frozenset()
        return frozenset({"low", "high"} if self.range == "minmax" else {"sample"})

    def finish(self, w: Tensor, made: CompressedWeight, statistics: Statistics) -> CompressedWeight:
        """`made` with a quantizer of its input; a static one has the range of statistics of the divided input."""
        if self.format in FIXED_BLOCKS:
            return replace(made, inputs=InputQuantizer(self.grid, "block", format=self.format))
        if self.granularity == "token":
            return replace(made, inputs=InputQuantizer(self.grid, "token"))
        low, high = self._range(self.given(statistics))
        quantizer = InputQuantizer.fit(self.grid, low, high)
        report = Report(facts={"input range": f"{low:.3g} to {high:.3g}"})
        return replace(made, inputs=quantizer).with_report(report)

    def _range(self, known: Statistics) -> tuple[float, float]:
        """(lowest, highest) value that the grid has to hold."""
        if self.range == "minmax":
            assert known.low is not None
            assert known.high is not None
            return float(known.low.min()), float(known.high.max())
        assert known.sample is not None
        values = known.sample.flatten().numpy()
        if self.symmetric or self.format != "int":
            most = float(np.percentile(np.abs(values), self.percentile))
            return -most, most
        return float(np.percentile(values, 100 - self.percentile)), float(
            np.percentile(values, self.percentile)
        )

    @property
    def grid(self) -> Grid:
        """The grid of the input: integers without the lowest code, or 0 to 2^bits - 1 with a zero point; or floats."""
        if self.format != "int":
            return Scheme(format=self.format).grid
        if self.symmetric:
            return IntGrid(bits=self.bits, signed=True, narrow=True)
        return IntGrid(bits=self.bits)

    @property
    def label(self) -> str:
        if self.format in FIXED_BLOCKS:
            return f"a {self.format}"
        width = f"a{self.bits} " if self.format == "int" else f"a {self.format} "
        clipped = (
            f" p{self.percentile:g}" if (self.range, self.granularity) == ("percentile", "tensor") else ""
        )
        return (
            f"{width}{self.granularity}{'' if self.symmetric or self.format != 'int' else ' asym'}{clipped}"
        )
