"""Compare: the integer network beside its simulation in float64, bit by bit, and beside fake quantization.

The first must not differ anywhere. The second is the float32 network whose tensors are rounded to the same grids; it
norms, adds and takes exponentials in float between them. There codes may differ: each network runs on its own stream,
so a difference is handed on, and what is said of a point includes all before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...jobs import beat
from ...methods.quantize.mobilequant import MobileQuant
from .build import codes_of
from .learn import Setting
from .llama import Llama
from .network import IntegerNetwork
from .simulation import simulated

if TYPE_CHECKING:
    import pandas as pd

COMPARED_COLUMNS = {
    "point": "where in the network; logits last",
    "bits": "of a code; of the logits' int32",
    "codes": "how many were compared",
    "differ": "how many differ",
    "share": "of those compared, how many differ",
    "off_by_one": "how many differ by exactly 1",
    "largest": "the greatest difference, in codes; of logits in their common unit",
}


@dataclass(frozen=True)
class Comparison:
    """`simulation` and `fake`: a row for each point, columns as in COMPARED_COLUMNS. `kl`: mean KL divergence from fake
    quantization's predictions to the integers', nats a token."""

    simulation: pd.DataFrame
    fake: pd.DataFrame
    kl: float

    @property
    def exact(self) -> bool:
        """Whether every code and every logit is that of the simulation."""
        return not self.simulation["differ"].any()

    def __str__(self) -> str:
        bad = self.simulation[self.simulation["differ"] > 0]
        total = int(self.simulation["codes"].sum())
        said = f"all {total:,} codes and logits are those of the simulation in float64"
        if len(bad):
            said = f"{int(bad['differ'].sum()):,} of {total:,} codes differ from the simulation, first at {bad['point'].iloc[0]}"
        codes = self.fake[self.fake["point"] != "logits"]
        differ = int(codes["differ"].sum())
        near = codes["off_by_one"].sum() / max(differ, 1)
        share = differ / max(int(codes["codes"].sum()), 1)
        return f"{said}; from fake quantization {share:.1%} differ ({near:.0%} of them by one), KL {self.kl:.2g} nats"


@torch.no_grad()
def compare(network: IntegerNetwork, net: Llama, setting: Setting, method: MobileQuant, tokens: Tensor) -> Comparison:
    """Three runs on token ids [windows, n], window by window."""
    tensors = setting.quantized(net, method)
    exact, usual, kl = _Counts(), _Counts(), []
    seen = torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
    for done, window in enumerate(tokens.split(1), 1):
        integers: dict[str, np.ndarray] = {}
        logits = network(window, lambda p, codes, kept=integers: kept.__setitem__(p, codes.numpy()))
        again: dict[str, np.ndarray] = {}
        logits_again = simulated(network, window, again.__setitem__)
        exact.add({**integers, "logits": logits.numpy()}, {**again, "logits": logits_again})
        floats = _Fake(network, setting)
        fake = net.logits(tensors, net.hidden(tensors, window, floats), floats)
        usual.add(
            _past({**integers, "logits": logits.numpy()}, seen.numpy()),
            _past({**floats.codes, "logits": (fake / network.unit).round().numpy()}, seen.numpy()),
        )
        kl.append(_kl(fake, logits * network.unit))
        beat(done, len(tokens))
    return Comparison(exact.table(network), usual.table(network), float(torch.stack(kl).mean()))


@dataclass
class _Fake:
    """Quantizes every point of the float pass and keeps the codes."""

    network: IntegerNetwork
    setting: Setting
    codes: dict[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, point: str, x: Tensor) -> Tensor:
        self.codes[point] = codes_of(x, self.network.points[point]).numpy()
        return self.setting.ranges[point](x)


def _past(codes: Mapping[str, np.ndarray], seen: np.ndarray) -> dict[str, np.ndarray]:
    """Scores and probabilities of the future left out: fake quantization has no codes for them."""
    return {p: c[..., seen] if p.endswith(("scores", "probs")) else c for p, c in codes.items()}


class _Counts:
    """Differences by point, added up over windows: codes, differ, off by one, largest."""

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}

    def add(self, a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> None:
        for point, codes in a.items():
            gap = np.abs(codes.astype(np.float64) - b[point])
            row = self.rows.setdefault(point, [0, 0, 0, 0])
            row[0] += gap.size
            row[1] += int((gap != 0).sum())
            row[2] += int((gap == 1).sum())
            row[3] = max(row[3], int(gap.max()))

    def table(self, network: IntegerNetwork) -> pd.DataFrame:
        import pandas as pd

        bits = {**{name: point.bits for name, point in network.points.items()}, "logits": 32}
        rows = [
            {"point": p, "bits": bits[p], "codes": n, "differ": d, "share": d / n, "off_by_one": one, "largest": most}
            for p, (n, d, one, most) in self.rows.items()
        ]
        frame = pd.DataFrame(rows, columns=list(COMPARED_COLUMNS))
        frame.attrs["columns"] = COMPARED_COLUMNS
        return frame


def _kl(reference: Tensor, logits: Tensor) -> Tensor:
    """Mean over all places, nats."""
    p, q = (torch.log_softmax(each.double(), -1) for each in (reference, logits))
    return (p.exp() * (p - q)).sum(-1).mean()
