"""Bias correction: rounding shifts the mean of an output; the shift is known from the mean input and is taken back.

shift = E[x] w^T - E[q(x)] w'^T, with q the quantizer of the input where there is one. The mean squared error of an
output falls by exactly the square of what is corrected. It goes last, and gains nothing where the output enters a norm
that takes the mean away. Nagel et al. 2019, section 4.2; brevitas measures it batch by batch, here it is exact.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ...grid import CompressedWeight, Report
from ..base import Finish, Statistics


class BiasCorrection(Finish):
    """Take back the mean error of every output."""

    name = "bias-correction"
    kind = "correct"
    summary = "Bias correction: the mean error of each output is added to its bias"
    source = "Nagel et al. 2019 (DFQ), section 4.2; brevitas, _BiasCorrection"
    needs = frozenset({"mean", "sample"})

    def finish(self, w: Tensor, made: CompressedWeight, statistics: Statistics) -> CompressedWeight:
        """`made` of w [out, in] with shift [out] = E[x] (w - w')^T + E[x - q(x)] w'^T.

        The first term is exact over all calibration inputs; the second, where inputs are quantized, is that of the
        sample.
        """
        known = self.given(statistics)
        assert known.mean is not None
        assert known.sample is not None
        running = made.running()
        shift = (w - running.matrix) @ known.mean
        if running.inputs is not None:
            shift = shift + running.matrix @ (known.sample - running.inputs(known.sample)).mean(0)
        return replace(made, shift=shift).with_report(
            Report(facts={"largest shift": float(shift.abs().max())})
        )
