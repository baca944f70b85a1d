"""IntegerVariant: what MobileQuant makes of a Llama as a whole, and `mobilequant`, which makes it.

The starts that it is to be compared with are kept: min-max (ranges of the calibration text, no transform) and
SmoothQuant (its scales, ranges measured anew), from which the learning begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...errors import Refused
from ...jobs import Job, heard, in_cell
from ...measure import Evaluation, Quality, evaluation
from ...methods import METHODS
from ...methods.quantize.mobilequant import MobileQuant
from ...model import Model
from .build import built
from .compare import Comparison, compare
from .learn import Setting, calibrated, learned, smooth_scales
from .llama import Llama
from .network import IntegerNetwork

if TYPE_CHECKING:
    import pandas as pd

BATCH = 1  # windows a step, as in the reference
COMPARED = 2  # windows that codes are compared on unless said otherwise
STARTS = ("minmax", "smoothquant")

QUALITY_COLUMNS = {
    "network": "float: unchanged; minmax, smoothquant, learned: fake quantization in float32; integer: the learned one "
    "in integers",
    "perplexity": "exp of the mean negative log likelihood of the next token",
    "kl": "mean KL divergence from the unchanged model's prediction to this one's, nats a token",
    "top1_agreement": "share of places where the most likely token is the unchanged model's",
}
RANGE_COLUMNS = {
    "point": "where in the network",
    "block": "index of its block, from 0; empty outside blocks",
    "kind": "what the point is in its block",
    "bits": "of a code",
    "minmax_low": "lowest value of the range on the calibration text, no transform",
    "minmax_high": "highest value of it",
    "start_low": "the same with SmoothQuant's scales: where learning begins",
    "start_high": "the same with SmoothQuant's scales: where learning begins",
    "low": "lowest value of the learned range",
    "high": "highest value of it",
}


@dataclass(frozen=True)
class IntegerVariant:
    """`network` is `settings["learned"]` in integers; `seconds` is what the learning took."""

    base: Model
    method: MobileQuant
    net: Llama
    settings: Mapping[str, Setting]
    network: IntegerNetwork
    seconds: float

    @property
    def losses(self) -> tuple[float, ...]:
        """||h' - h||^2 a value of the last hidden state, step by step, each of one batch."""
        return tuple(self.settings["learned"].report.curves.get("loss", ()))

    @property
    def facts(self) -> dict[str, float]:
        """loss before, loss after: over all batches."""
        return {k: float(v) for k, v in self.settings["learned"].report.facts.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self.settings["learned"].report.warnings)

    @property
    def label(self) -> str:
        return f"{self.method.label}, end to end"

    def ranges(self) -> pd.DataFrame:
        """A row for each point, columns as in RANGE_COLUMNS; values in units of the point."""
        import pandas as pd

        rows = []
        for point in self.net.points:
            block, _, kind = point.rpartition(".")
            ends = [self.settings[name].ranges[point].ends for name in (*STARTS, "learned")]
            bits = self.network.points[point].bits
            flat = [end + 0.0 for pair in ends for end in pair]  # -0.0 is 0.0 to a reader
            row = [point, int(block) if block else None, kind, bits, *flat]
            rows.append(dict(zip(RANGE_COLUMNS, row, strict=True)))
        frame = pd.DataFrame(rows, columns=list(RANGE_COLUMNS)).astype({"block": "Int64"})
        frame.attrs["columns"] = RANGE_COLUMNS
        return frame

    def quality(self, data: Evaluation | Quality | None = None, *, job: Job | None = None) -> pd.DataFrame:
        """A row for each network, columns as in QUALITY_COLUMNS, on the model's held-out text unless said otherwise."""
        import pandas as pd

        quality = data if isinstance(data, Quality) else Quality(self.base, data or evaluation(self.base))
        if quality.model.source is not self.base.source:
            raise Refused(
                f"these predictions are of {quality.model.name}, not of {self.base.name}: make a Quality of it"
            )
        rows = []
        for name, run in self._runs().items():

            def step(done: int, total: int, name: str = name) -> None:
                if job is not None:
                    job.step(done, total, f"measuring {name}")

            rows.append({"network": name, **quality.judge(run, step)})
        frame = pd.DataFrame(rows, columns=list(QUALITY_COLUMNS))
        frame.attrs["columns"], frame.attrs["data"] = QUALITY_COLUMNS, quality.data.what
        return frame

    def _runs(self) -> dict[str, Callable[[int, Tensor], Tensor] | None]:
        def fake(setting: Setting) -> Callable[[int, Tensor], Tensor]:
            with torch.no_grad():
                tensors = setting.quantized(self.net, self.method)
            return lambda _, tokens: setting.logits(self.net, self.method, tokens, tensors)

        runs = {name: fake(setting) for name, setting in self.settings.items()}
        return {"float": None, **runs, "integer": lambda _, tokens: self.network(tokens) * self.network.unit}

    def compare(self, tokens: Tensor | None = None, *, job: Job | None = None) -> Comparison:
        """The integers beside their simulation and beside fake quantization, on token ids [windows, n]; by default the
        first two windows of the held-out text."""
        if tokens is None:
            tokens = evaluation(self.base).inputs[:COMPARED]
        with heard(_listener(job, "comparing")):
            return compare(
                self.network, self.net, self.settings["learned"], self.method, self.net.check(tokens)
            )


@in_cell("mobilequant")
def mobilequant(
    model: Model,
    calibration: Tensor | Iterable[Tensor] | None = None,
    method: MobileQuant | None = None,
    *,
    job: Job | None = None,
) -> IntegerVariant:
    """Learn input scales, weight clips and activation ranges of a whole Llama at once, and build it in integers.

    `calibration` is token ids [windows, n], or batches of them; the embedded calibration text by default. Each step
    takes one window. `job` hears of every step with its loss, and cancels between two: then nothing is returned.
    Deterministic. Raises Refused before the work where the model is no Llama, is changed, or the tokens do not fit.
    Tan et al. 2024, "MobileQuant", section 3.
    """
    method = METHODS["mobilequant"]() if method is None else method
    if not isinstance(method, MobileQuant):
        raise Refused(
            f"{method!r} is not learned end to end: give MobileQuant(bits=4), or apply it with a Recipe"
        )
    net = Llama.read(model)
    windows = _windows(model, net, calibration)
    if job is not None:
        job.step(0, method.steps, "calibrating")
    settings = {"minmax": calibrated(net, windows, method, {}, "minmax")}
    scales = smooth_scales(net, windows, method)
    settings["smoothquant"] = calibrated(net, windows, method, scales, "smoothquant")
    start = time.perf_counter()
    with heard(_listener(job, "learning")):
        settings["learned"] = learned(net, windows, method, settings["smoothquant"])
    seconds = time.perf_counter() - start
    return IntegerVariant(model, method, net, settings, built(net, settings["learned"], method), seconds)


def _windows(model: Model, net: Llama, calibration: Tensor | Iterable[Tensor] | None) -> list[Tensor]:
    """Batches [BATCH, n] of token ids. Refused where there are none or they do not fit."""
    if calibration is None:
        calibration = evaluation(model, part="calibration").inputs
    batches = [calibration] if isinstance(calibration, Tensor) else list(calibration)
    windows = [part for batch in batches for part in net.check(batch).split(BATCH)]
    if not windows:
        raise Refused("the calibration data is empty: give at least one window of token ids")
    return windows


def _listener(job: Job | None, what: str) -> Callable[[int, int, Mapping[str, float]], None]:
    def listen(done: int, total: int, values: Mapping[str, float]) -> None:
        if job is not None:
            job.done, job.total = done, total
            # Runs without a loss are those of the float network, whose outputs are learned.
            part = what if values or what != "learning" else "targets"
            job.beat(f"{part}: {done} of {total}", values)

    return listen
