"""Setting: scales, clips and ranges for a whole Llama, from calibration and by gradient through the whole stack.

Transforms that leave the float function as it is (baked into the weights; MobileQuant, section 3): norm -> q, k, v and
norm -> gate, up; up -> down; and only where q, k and v have equal shapes, v -> o and q <-> k. The last has one factor
for both elements of a rotary pair: the reference's free vector does not commute with the rotation. No shift.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...grid import Blocks, Report
from ...jobs import beat
from ...methods import Statistics
from ...methods.quantize.mobilequant import MobileQuant
from ...methods.ranges import Clip, Range
from .llama import LINEAR, STREAM, Llama

WIDE = 16  # bits of the residual stream, of what is added to it, of norm inputs and gains, of scores and probabilities
TABLE = 12  # bits of a SiLU's input: the paper leaves it unquantized, here it is the index of a table
HEAD = 8  # bits of the head's weights: the paper's loss ends before it
NO_CLIP = 16.0  # sigmoid(16) = 1 - 1e-7


def bits_of(point: str, act_bits: int) -> int:
    """The bit-width map of the reference (update_quant_cfg), the stream wide and the rest `act_bits`."""
    name = point.rpartition(".")[2]
    if name in (*STREAM, "o", "down", "scores", "probs"):
        return WIDE
    return max(TABLE, act_bits) if name == "gate" else act_bits


@dataclass(frozen=True)
class Setting:
    """What turns the float network into a quantized one. `scales` s by the point that is divided by them (rot: the
    q/k pairs); `clips` by weight; `ranges` by point. `report`: the losses of the learning, before and after."""

    name: str
    scales: Mapping[str, Tensor]
    clips: Mapping[str, Clip]
    ranges: Mapping[str, Range]
    report: Report = field(default_factory=Report)

    def baked(self, net: Llama) -> dict[str, Tensor]:
        """The float tensors with s taken in; the same function."""
        return baked(net, self.scales)

    def quantized(self, net: Llama, method: MobileQuant) -> dict[str, Tensor]:
        """The baked tensors on their grids, as floats; differentiable."""
        made = self.baked(net)
        for name, clip in self.clips.items():
            made[name] = clip.quantized(made[name], weight_bits(name, method))
        for name in made:
            if "norm" in name:
                made[name] = gain_range(made[name])(made[name])
        return made

    @torch.no_grad()
    def logits(
        self, net: Llama, method: MobileQuant, tokens: Tensor, tensors: Mapping[str, Tensor]
    ) -> Tensor:
        """Fake quantization, float32: logits [windows, n, vocabulary]; `tensors` are `quantized(...)`."""
        at = self.at(net.points)
        return net.logits(tensors, net.hidden(tensors, tokens, at), at)

    def at(self, points: Sequence[str]) -> Callable[[str, Tensor], Tensor]:
        """Quantize these points, and hand the others on."""
        chosen = set(points)
        return lambda point, x: self.ranges[point](x) if point in chosen else x


def weight_bits(name: str, method: MobileQuant) -> int:
    return HEAD if name == "head" else method.bits


def gain_range(gain: Tensor) -> Range:
    """16 bits for a norm's gains, per tensor."""
    return Range.of(float(gain.detach().min()), float(gain.detach().max()), WIDE)


def baked(net: Llama, scales: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """w * s for what reads a point, and 1 / s for what makes it."""
    made = dict(net.tensors)

    def multiply(name: str, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
        made[name] = made[name] * (1 if rows is None else rows[:, None]) * (1 if columns is None else columns)

    for point, s in scales.items():
        i, _, name = point.rpartition(".")
        if name in ("norm1", "norm2"):
            made[point] = made[point] / s
            for reader in ("q", "k", "v") if name == "norm1" else ("gate", "up"):
                multiply(f"{i}.{reader}", columns=s)
        elif name == "rot":
            pair = torch.cat([s, s], -1).flatten()  # [heads, head_dim / 2] to the rows of q and k
            multiply(f"{i}.q", rows=1 / pair)
            multiply(f"{i}.k", rows=pair)
        else:
            maker, reader = ("up", "down") if name == "hidden" else ("v", "o")
            multiply(f"{i}.{maker}", rows=1 / s)
            multiply(f"{i}.{reader}", columns=s)
    return made


@torch.no_grad()
def calibrated(
    net: Llama, windows: Sequence[Tensor], method: MobileQuant, scales: Mapping[str, Tensor], name: str
) -> Setting:
    """Clips at their start, and the ranges that the float network needs on `windows` under these scales."""
    tensors = baked(net, scales)
    lows, highs = _extremes(net, tensors, windows)
    ranges = {
        p: Range.of(lows[p].min().item(), highs[p].max().item(), bits_of(p, method.act_bits)) for p in lows
    }
    # Any token may come, not only those of the calibration text; and a probability is at most 1.
    ranges["embed"] = gain_range(tensors["embed"])
    ranges |= {p: Range.of(0.0, 1.0, WIDE) for p in ranges if p.endswith("probs")}
    return Setting(name, dict(scales), start_clips(net, method), ranges)


def start_clips(net: Llama, method: MobileQuant) -> dict[str, Clip]:
    """The clips of every weight where learning begins."""
    found = {}
    for name, w in net.tensors.items():
        kind = name.rpartition(".")[2]
        if kind in LINEAR or kind == "head":
            shared = "channel" if kind in ("down", "head") else method.granularity
            found[name] = Clip(
                NO_CLIP if kind == "head" else method.clip, Blocks.of((w.shape[0], w.shape[1]), shared)
            )
    return found


@torch.no_grad()
def smooth_scales(net: Llama, windows: Sequence[Tensor], method: MobileQuant) -> dict[str, Tensor]:
    """SmoothQuant's s for every transform that applies."""
    lows, highs = _extremes(net, net.tensors, windows)
    scales: dict[str, Tensor] = {}
    readers = {"norm1": ("q", "k", "v"), "norm2": ("gate", "up"), "hidden": ("down",)}
    for i in range(net.blocks):
        for name, read in (readers | ({"attn": ("o",)} if net.multi_head else {})).items():
            known = Statistics(low=lows[f"{i}.{name}"], high=highs[f"{i}.{name}"])
            scales[f"{i}.{name}"] = method.smooth([net.tensors[f"{i}.{r}"] for r in read], known)
        if net.multi_head:
            scales[f"{i}.rot"] = torch.ones(net.heads, net.head_dim // 2)
    return scales


def _extremes(
    net: Llama, tensors: Mapping[str, Tensor], windows: Sequence[Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(least, greatest) value of every point over the windows, by its last axis (channels, mostly); of scores and
    probabilities in all."""
    lows: dict[str, Tensor] = {}
    highs: dict[str, Tensor] = {}

    def at(point: str, x: Tensor) -> Tensor:
        flat = x.flatten() if point.endswith(("scores", "probs")) else x.reshape(-1, x.shape[-1])
        low, high = flat.amin(0), flat.amax(0)
        lows[point] = torch.minimum(lows.get(point, low), low)
        highs[point] = torch.maximum(highs.get(point, high), high)
        return x

    for window in windows:
        net.logits(tensors, net.hidden(tensors, window, at), at)
    return lows, highs


def learned(net: Llama, windows: Sequence[Tensor], method: MobileQuant, start: Setting) -> Setting:
    """`start`, which stays as it is, after the descent on ||h' - h||^2 of the last hidden state before the final norm,
    all blocks at once; `windows` are batches of token ids, one a step."""
    with torch.no_grad():
        targets = []
        for done, window in enumerate(windows, 1):
            targets.append(net.hidden(net.tensors, window, lambda _, x: x))
            beat(done, len(windows))
    clips, ranges = deepcopy(start.clips), deepcopy(start.ranges)
    # At 16 bits nothing is lost worth a gradient, unless everything has 16.
    narrow = [
        p for p in net.points if bits_of(p, method.act_bits) <= max(TABLE, method.act_bits) and p != "norm"
    ]
    factors = {point: torch.ones_like(s, requires_grad=True) for point, s in start.scales.items()}

    def now() -> Setting:
        return Setting(
            "learned", {point: s * factors[point] for point, s in start.scales.items()}, clips, ranges
        )

    def error(batch: int) -> Tensor:
        setting = now()
        tensors = setting.quantized(net, method)
        return (net.hidden(tensors, windows[batch], setting.at(narrow)) - targets[batch]).square().mean()

    with torch.enable_grad():
        found = method.descended(
            list(factors.values()),
            [clip for name, clip in clips.items() if name != "head"],
            [ranges[p] for p in narrow if not p.endswith("probs") and p != "embed"],
            error, len(windows),
        )  # fmt: skip
    scales = {point: s.detach() for point, s in now().scales.items()}
    return Setting("learned", scales, clips, ranges, found.report)
