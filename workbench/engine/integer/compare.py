"""Compare: the integer network beside its simulation in float64, bit by bit, and beside fake quantization.

The first must not differ anywhere. The second is the float32 network whose tensors are rounded to the same grids; it
norms, adds and takes exponentials in float between them. So its codes differ, and are compared twice: step by step,
where every operation is given the integers' codes, and freely, where what differs is handed on through the network.
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

NARROW = 8  # bits: the unit of a wider code is finer than what differs between two ways to compute it

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
    """Codes of the integer network that are not those of its simulation, of fake quantization step by step (`step`),
    and of fake quantization on its own (`fake`): a row for each point, columns as in COMPARED_COLUMNS. `kl`: mean KL
    divergence from the predictions of fake quantization to the integers', nats a token."""

    simulation: pd.DataFrame
    step: pd.DataFrame
    fake: pd.DataFrame
    kl: float

    @property
    def exact(self) -> bool:
        """Whether every code and every logit is that of the simulation."""
        return not _sum(self.simulation, "differ")

    def __str__(self) -> str:
        total, bad = _sum(self.simulation, "codes"), self.simulation["differ"].to_numpy()
        said = f"all {total:,} codes and logits are those of the simulation in float64"
        if bad.any():
            first = self.simulation["point"].to_list()[int((bad > 0).argmax())]
            said = f"{bad.sum():,} of {total:,} codes differ from the simulation, first at {first}"
        step, fake = (table.loc[table["bits"] <= NARROW] for table in (self.step, self.fake))
        shares = [f"{_sum(table, 'differ') / _sum(table, 'codes'):.2%}" for table in (step, fake)]
        return (
            f"{said}; of the codes up to {NARROW} bits {shares[0]} differ from fake quantization step by step, by "
            f"{step['largest'].max()} at most, {shares[1]} on its own; KL {self.kl:.2g} nats"
        )


def _sum(table: pd.DataFrame, column: str) -> int:
    return int(table[column].to_numpy().sum())


@torch.no_grad()
def compare(
    network: IntegerNetwork, net: Llama, setting: Setting, method: MobileQuant, tokens: Tensor
) -> Comparison:
    """Four runs on token ids [windows, n], window by window."""
    tensors = setting.quantized(net, method)
    exact, step, usual = _Counts(), _Counts(), _Counts()
    kl = []
    for done, window in enumerate(tokens.split(1), 1):
        integers, again = {}, {}
        logits = network(window, lambda p, codes, kept=integers: kept.__setitem__(p, codes.numpy()))
        integers["logits"] = logits.numpy()
        again["logits"] = simulated(network, window, again.__setitem__)
        exact.add(integers, again)
        for counts, given in ((step, integers), (usual, None)):
            fake = _Fake(network, setting, given)
            floats = net.logits(tensors, net.hidden(tensors, window, fake), fake)
            fake.codes["logits"] = (floats / network.unit).round().numpy()
            counts.add(_past(integers), _past(fake.codes))
        kl.append(_kl(floats, logits * network.unit))
        beat(done, len(tokens))
    mean = float(torch.stack(kl).mean())
    return Comparison(exact.table(network), step.table(network), usual.table(network), mean)


@dataclass
class _Fake:
    """Quantizes every point of the float pass and keeps the codes; hands on their values, or those of `given` codes."""

    network: IntegerNetwork
    setting: Setting
    given: Mapping[str, np.ndarray] | None
    codes: dict[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, name: str, x: Tensor) -> Tensor:
        point = self.network.points[name]
        self.codes[name] = codes_of(x, point).numpy()
        if self.given is None:
            return self.setting.ranges[name](x)
        return point.steps(torch.from_numpy(self.given[name])) * point.scale


def _past(codes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scores and probabilities of the future left out: fake quantization has no codes for them."""
    seen = np.tril(np.ones((codes["embed"].shape[1],) * 2, dtype=bool))
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
            {
                "point": p,
                "bits": bits[p],
                "codes": n,
                "differ": d,
                "share": d / n,
                "off_by_one": one,
                "largest": most,
            }
            for p, (n, d, one, most) in self.rows.items()
        ]
        frame = pd.DataFrame(rows, columns=list(COMPARED_COLUMNS))
        frame.attrs["columns"] = COMPARED_COLUMNS
        return frame


def _kl(reference: Tensor, logits: Tensor) -> Tensor:
    """Mean over all places, nats."""
    p, q = (torch.log_softmax(each.double(), -1) for each in (reference, logits))
    return (p.exp() * (p - q)).sum(-1).mean()
