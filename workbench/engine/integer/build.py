"""Build: from a setting to the integer network. The last place where scales are floats.

Each operation gets the codes of its constants and the dyadic number nearest to the ratio of its units, after the
greatest accumulator that can occur has been bounded: what would not fit is refused here and not found out later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ...errors import Refused
from ...methods.quantize.mobilequant import MobileQuant
from ...methods.ranges import Range
from .learn import Setting, gain_range, weight_bits
from .llama import INSIDE, Llama
from .network import Block, IntegerNetwork
from .ops import (
    EXACT,
    EXP_BITS,
    EXP_SIZE,
    EXP_STEP,
    RECIPROCAL,
    UNIT,
    Dyadic,
    Linear,
    Norm,
    Point,
    Product,
    Rotary,
    Softmax,
    Sum,
    Table,
)

INT32 = 31  # bits of what int32 holds beside the sign


def built(net: Llama, setting: Setting, method: MobileQuant) -> IntegerNetwork:
    """The network of `net` in integers. Refused where a scale does not fit."""
    return _Builder(net, setting, method).network()


@dataclass(frozen=True)
class _Builder:
    net: Llama
    setting: Setting
    method: MobileQuant

    @cached_property
    def points(self) -> dict[str, Point]:
        return {name: point_of(self.setting.ranges[name], name) for name in self.net.points}

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.setting.baked(self.net)

    @torch.no_grad()
    def network(self) -> IntegerNetwork:
        net, points = self.net, self.points
        last = f"{net.blocks - 1}.out" if net.blocks else "embed"
        head, unit = self.head()
        return IntegerNetwork(
            codes_of(self.tensors["embed"], points["embed"]).to(torch.int16),
            tuple(self.block(i) for i in range(net.blocks)),
            self.norm("norm", last), head, net.heads, net.kv_heads, net.head_dim, net.context, points, unit,
        )  # fmt: skip

    def block(self, i: int) -> Block:
        inside = {name: f"{i}.{name}" for name in INSIDE}
        before = f"{i - 1}.out" if i else "embed"
        size = self.net.head_dim

        def linear(name: str, reads: str) -> Linear:
            return self.linear(inside[name], inside[reads], inside[name])

        return Block(
            self.norm(inside["norm1"], before),
            linear("q", "norm1"), linear("k", "norm1"), linear("v", "norm1"),
            self.rotary(inside["q"], inside["q_rot"]), self.rotary(inside["k"], inside["k_rot"]),
            self.product(inside["q_rot"], inside["k_rot"], inside["scores"], size, size**-0.5),
            self.softmax(inside["scores"], inside["probs"]),
            self.mixture(inside["probs"], inside["v"], inside["attn"]),
            linear("o", "attn"), self.sum(before, inside["o"], inside["mid"]),
            self.norm(inside["norm2"], inside["mid"]),
            linear("gate", "norm2"), self.silu(inside["gate"], inside["act"]), linear("up", "norm2"),
            self.product(inside["act"], inside["up"], inside["hidden"], 1),
            linear("down", "hidden"), self.sum(inside["mid"], inside["down"], inside["out"]),
        )  # fmt: skip

    def weight(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """codes int8 [out, in], zero int64 [out], scale float64 [out] of a weight."""
        w, clip, bits = self.tensors[name], self.setting.clips[name], weight_bits(name, self.method)
        scale, zero = (clip.blocks.expand(each) for each in clip.grid(w, bits))
        half = 2 ** (bits - 1)
        codes = ((w / scale).round() + zero).clamp(0, 2**bits - 1) - half
        return codes.to(torch.int8), zero[:, 0].long() - half, scale[:, 0].double()

    def linear(self, name: str, reads: str, makes: str) -> Linear:
        outputs, x = self.points[makes], self.points[reads]
        codes, zero, scale = self.weight(name)
        dyadic = Dyadic.of(x.scale * scale / outputs.scale, _widest(codes, zero, x), name)
        return _linear(codes, zero, x, outputs, dyadic, weight_bits(name, self.method))

    def head(self) -> tuple[Linear, float]:
        """The logits' matrix: every row is brought to the unit of the coarsest one, which is halved until all fit."""
        x = self.points["norm"]
        codes, zero, scale = self.weight("head")
        widest = _widest(codes, zero, x)
        drop = max(0, math.ceil(math.log2(max(widest, 1))) + 1 - INT32)
        coarsest = scale.max()
        dyadic = Dyadic.of(scale / coarsest / 2**drop, widest, "head")
        made = _linear(codes, zero, x, None, dyadic, weight_bits("head", self.method))
        return made, x.scale * float(coarsest) * 2**drop

    def norm(self, name: str, reads: str) -> Norm:
        gain, x, outputs = self.tensors[name], self.points[reads], self.points[name]
        found = point_of(gain_range(gain), f"the gains of {name}")
        steps = codes_of(gain, found) - found.zero
        n = len(gain)
        epsilon = round(n * self.net.eps / x.scale**2)
        # t is for the greatest sum of squares there can be; it is capped where the reciprocal's bits run out.
        room = EXACT - (n * reach(x) ** 2 + epsilon).bit_length()
        if room < 0:
            raise Refused(
                f"{name}: the range of {reads} is too narrow for an integer norm: calibrate on more text"
            )
        t = min(room // 2, RECIPROCAL - UNIT - 1)
        ratio = math.sqrt(n) * found.scale / (outputs.scale * 2**UNIT)
        dyadic = Dyadic.of(_one(ratio), (2**UNIT + 2) * int(steps.abs().max()), name)
        return Norm(steps.int(), epsilon, t, x, outputs, dyadic)

    def rotary(self, reads: str, makes: str) -> Rotary:
        x, outputs = self.points[reads], self.points[makes]
        largest = float(torch.maximum(self.net.cos.abs().max(), self.net.sin.abs().max()))
        bits = 15 - math.frexp(largest)[1]
        cos, sin = (
            torch.ldexp(table, torch.tensor(bits)).round().clamp(-(2**15), 2**15 - 1).to(torch.int16)
            for table in (self.net.cos, self.net.sin)
        )
        ratio = x.scale / (outputs.scale * 2.0**bits)
        return Rotary(cos, sin, x, outputs, Dyadic.of(_one(ratio), 2.0**16 * reach(x), makes))

    def product(self, left: str, right: str, makes: str, terms: int, factor: float = 1.0) -> Product:
        """Sums of `terms` products, times `factor`."""
        a, b, outputs = self.points[left], self.points[right], self.points[makes]
        widest = terms * reach(a) * reach(b)
        dyadic = Dyadic.of(_one(a.scale * b.scale * factor / outputs.scale), widest, makes)
        return Product(a, b, outputs, dyadic, _wide(widest))

    def mixture(self, probs: str, v: str, makes: str) -> Product:
        """Probabilities times values. A row of probabilities sums to 1, give or take half a code for each place."""
        p, values, outputs = self.points[probs], self.points[v], self.points[makes]
        widest = (p.high - p.low + self.net.context) * reach(values)
        dyadic = Dyadic.of(_one(p.scale * values.scale / outputs.scale), widest, makes)
        return Product(p, values, outputs, dyadic, _wide(widest))

    def softmax(self, scores: str, probs: str) -> Softmax:
        x = self.points[scores]
        places = torch.arange(EXP_SIZE << EXP_STEP, dtype=torch.float64)
        table = torch.ldexp(torch.exp(-places / 2**EXP_STEP), torch.tensor(EXP_BITS)).round().int()
        dyadic = Dyadic.of(_one(x.scale * 2**EXP_STEP), x.high - x.low, scores)
        return Softmax(table, self.points[probs], dyadic)

    def silu(self, reads: str, makes: str) -> Table:
        x, outputs = self.points[reads], self.points[makes]
        codes = torch.arange(x.low, x.high + 1, dtype=torch.float64)
        made = nn.functional.silu((codes - x.zero) * x.scale)
        return Table(codes_of(made, outputs).to(outputs.dtype), x, outputs)

    def sum(self, left: str, right: str, makes: str) -> Sum:
        a, b, outputs = self.points[left], self.points[right], self.points[makes]
        ratios = torch.tensor([a.scale, b.scale], dtype=torch.float64) / outputs.scale
        # One shift for both, that of the larger ratio: the smaller is as exact in units of the result.
        shift = int(Dyadic.of(ratios.max()[None], reach(a) + reach(b), makes).shift)
        first, second = (int(m) for m in torch.ldexp(ratios, torch.tensor(shift)).round().long())
        return Sum(a, b, outputs, (first, second), shift)


def point_of(found: Range, name: str) -> Point:
    """A range as a point: its codes moved by 2^(b-1), to two's complement."""
    scale = found.scale.item()
    if not (math.isfinite(scale) and scale > 0):
        raise Refused(
            f"{name}: its range has the scale {scale:.3g}, which is none: lower lr_range or lr_scale"
        )
    return Point(scale, int(found.zero.item()) - 2 ** (found.bits - 1), found.bits)


def codes_of(x: Tensor, point: Point) -> Tensor:
    """The codes of float values, int64: rounded half to even, as in fake quantization."""
    return ((x / point.scale).round().long() + point.zero).clamp(point.low, point.high)


def reach(point: Point) -> int:
    """The greatest |q - zero|."""
    return max(point.high - point.zero, point.zero - point.low)


def _widest(codes: Tensor, zero: Tensor, x: Point) -> int:
    """The greatest |accumulator| of any row for any input."""
    return int((codes.long() - zero[:, None]).abs().sum(1).max()) * reach(x)


def _linear(
    codes: Tensor, zero: Tensor, x: Point, outputs: Point | None, dyadic: Dyadic, bits: int
) -> Linear:
    # Every partial sum of the kernel, with the zero points still in it, is below this.
    inside = codes.shape[1] << (bits + x.bits)
    wide = _wide(inside)
    constant = codes.shape[1] * x.zero * zero - x.zero * codes.long().sum(1)
    return Linear(codes, zero.to(wide), constant.to(wide), x, outputs, dyadic, wide)


def _wide(widest: int) -> torch.dtype:
    return torch.int32 if widest < 2**INT32 else torch.int64


def _one(ratio: float) -> Tensor:
    return torch.tensor([ratio], dtype=torch.float64)
