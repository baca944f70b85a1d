"""Operations on codes: integers in, integers out. No function here that runs between tokens and logits sees a float.

A code q at a point stands for the value (q - zero) * scale. What an operation adds up lies in int32 (int64 where 16-bit
inputs meet); the ratio of its unit to the next point's scale is a dyadic number M / 2^n, and

    q' = clamp(floor(acc * M / 2^n + 1/2) + zero').

M has as many bits as leave |acc * M| < 2^52. Then the same product is exact in float64, so is the half added to it
(where n > 53 the sum stays within (1/4, 3/4), whose floor is 0 either way), and a simulation can agree bit by bit.
Jacob et al. 2018, section 2.2, whose multiplier has 31 bits; I-BERT (Kim et al. 2021) for the integer square root.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...errors import Refused

EXACT = 52  # bits of a product that float64 holds with a half added to it
FINEST = 20  # bits of a multiplier: 1e-6 of a scale, finer than any code
SHIFT = 62  # the most that int64 is shifted by
UNIT = 18  # fractional bits of x / ||x|| in a norm
EXP_STEP, EXP_SIZE, EXP_BITS = 8, 16, 15  # exp(-i / 2^8) for arguments down to -16, in units of 2^-15


@dataclass(frozen=True)
class Point:
    """Where a tensor of codes is named: value = (q - zero) * scale, q in two's complement of `bits`."""

    scale: float
    zero: int
    bits: int

    @property
    def low(self) -> int:
        return -(2 ** (self.bits - 1))

    @property
    def high(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def dtype(self) -> torch.dtype:
        return torch.int8 if self.bits <= 8 else torch.int16

    def clamped(self, steps: Tensor) -> Tensor:
        """Codes of integers in units of the scale."""
        return (steps + self.zero).clamp(self.low, self.high).to(self.dtype)

    def steps(self, codes: Tensor, dtype: torch.dtype = torch.int32) -> Tensor:
        """q - zero."""
        return codes.to(dtype) - self.zero


@dataclass(frozen=True)
class Dyadic:
    """M / 2^n, for each output channel or for all: int64 [channels] or [1]."""

    multiplier: Tensor
    shift: Tensor

    @classmethod
    def of(cls, ratios: Tensor, widest: float, where: str) -> Dyadic:
        """Nearest to `ratios` [channels] float64 >= 0, for accumulators up to `widest` in size."""
        bits = min(FINEST, EXACT - max(1, math.ceil(math.log2(max(widest, 1)))))
        largest = float(ratios.max())
        if not math.isfinite(largest) or largest >= 2 ** (bits - 1):
            raise Refused(
                f"{where}: its scale is {largest:.3g} times finer than what it is made from, too much for a multiplier "
                f"of {bits} bits: calibrate on more text, or lower the learning rates"
            )
        exponent = torch.frexp(ratios.clamp(min=2.0**-SHIFT))[1].long()  # ratio in [2^(e-1), 2^e)
        shift = (bits - 1 - exponent).clamp(1, SHIFT)
        return cls(torch.ldexp(ratios, shift).round().long(), shift)

    @cached_property
    def half(self) -> Tensor:
        return torch.ones_like(self.shift) << (self.shift - 1)

    def __call__(self, acc: Tensor) -> Tensor:
        """floor(acc * M / 2^n + 1/2), int64; acc [..., channels]."""
        return (acc.long() * self.multiplier + self.half) >> self.shift


@dataclass(frozen=True)
class Linear:
    """A matrix as codes, and how its accumulators become the codes of the next point.

    codes int8 [out, in] and zero [out] of the weight; with r = (rows of codes summed) the accumulator is

        sum_i (x_i - zx)(w_oi - zw_o) = sum_i x_i w_oi - zw_o sum_i x_i + (in zx zw_o - zx r_o).
    """

    codes: Tensor
    zero: Tensor
    constant: Tensor
    inputs: Point
    outputs: Point | None  # None: the accumulators in a common unit (logits)
    dyadic: Dyadic
    wide: torch.dtype

    def __call__(self, x: Tensor) -> Tensor:
        """Codes x [..., in] to codes [..., out]."""
        x = x.to(self.wide)
        acc = (
            x @ self.codes.to(self.wide).T
            - x.sum(-1, keepdim=True, dtype=self.wide) * self.zero
            + self.constant
        )
        made = self.dyadic(acc)
        return made.int() if self.outputs is None else self.outputs.clamped(made)


@dataclass(frozen=True)
class Norm:
    """RMS norm: d_i sqrt(n) / sqrt(sum d^2 + n eps / s^2) * gain_i, in integers.

    root = isqrt(V 4^t), the largest t that keeps V 4^t < 2^52; a reciprocal of it for each token; d_i / sqrt(V), which
    is at most 1, with 18 fractional bits; times the gain's code. One requantization at the end.
    """

    gain: Tensor  # int32 [n], codes - zero
    epsilon: int
    t: int
    inputs: Point
    outputs: Point
    dyadic: Dyadic

    def __call__(self, x: Tensor) -> Tensor:
        d = self.inputs.steps(x, torch.int64)
        root = isqrt(((d * d).sum(-1, keepdim=True) + self.epsilon) << (2 * self.t)).clamp(min=1)
        # |d| / sqrt(V) <= 1, so d * reciprocal stays below 2^(RECIPROCAL - t) + |d|.
        reciprocal = ((1 << RECIPROCAL) + (root >> 1)) // root
        drop = RECIPROCAL - self.t - UNIT
        unit = (d * reciprocal + (1 << (drop - 1))) >> drop
        return self.outputs.clamped(self.dyadic(unit * self.gain))


RECIPROCAL = 46  # fractional bits of 1 / root


@dataclass(frozen=True)
class Rotary:
    """x cos + rotated(x) sin, tables int16 [context, head_dim] in units of a power of two."""

    cos: Tensor
    sin: Tensor
    inputs: Point
    outputs: Point
    dyadic: Dyadic

    def __call__(self, x: Tensor) -> Tensor:
        """Codes [windows, heads, n, head_dim]."""
        d = self.inputs.steps(x, torch.int64)
        first, second = d.chunk(2, -1)
        n = x.shape[2]
        acc = d * self.cos[:n].long() + torch.cat([-second, first], -1) * self.sin[:n].long()
        return self.outputs.clamped(self.dyadic(acc))


@dataclass(frozen=True)
class Softmax:
    """exp by a table [4096] of the distance to the row's greatest score, then an integer division; 16 bits out."""

    table: Tensor  # int32
    outputs: Point
    dyadic: Dyadic  # scores to places in the table

    def __call__(self, scores: Tensor, seen: Tensor) -> Tensor:
        """Score codes [..., n, n] int16; only places that are `seen` [n, n] count, the others get probability 0."""
        scores = scores.int()
        greatest = torch.where(seen, scores, torch.iinfo(torch.int32).min).amax(-1, keepdim=True)
        place = self.dyadic(greatest - torch.where(seen, scores, greatest)).clamp(max=len(self.table) - 1)
        e = torch.where(seen, self.table[place], 0).long()
        total = e.sum(-1, keepdim=True)  # at least exp(0)
        levels = self.outputs.high - self.outputs.low
        return self.outputs.clamped((2 * e * levels + total) // (2 * total))


@dataclass(frozen=True)
class Product:
    """Two integers that are multiplied (matrices, or places), in units of the product of their scales."""

    left: Point
    right: Point
    outputs: Point
    dyadic: Dyadic
    wide: torch.dtype

    def matrix(self, a: Tensor, b: Tensor) -> Tensor:
        """[..., m, k] codes times [..., k, n] codes."""
        return self._out(self.left.steps(a, self.wide) @ self.right.steps(b, self.wide))

    def places(self, a: Tensor, b: Tensor) -> Tensor:
        """Element by element."""
        return self._out(self.left.steps(a, self.wide) * self.right.steps(b, self.wide))

    def _out(self, acc: Tensor) -> Tensor:
        return self.outputs.clamped(self.dyadic(acc))


@dataclass(frozen=True)
class Sum:
    """The residual stream and what is added to it, each brought to the new scale: (d1 M1 + d2 M2) / 2^n."""

    left: Point
    right: Point
    outputs: Point
    factors: tuple[int, int]
    shift: int

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        d1, d2 = self.left.steps(a, torch.int64), self.right.steps(b, torch.int64)
        acc = d1 * self.factors[0] + d2 * self.factors[1]
        return self.outputs.clamped((acc + (1 << (self.shift - 1))) >> self.shift)


@dataclass(frozen=True)
class Table:
    """One function of a code: the code of its value for every code that can come in."""

    codes: Tensor
    inputs: Point
    outputs: Point

    def __call__(self, x: Tensor) -> Tensor:
        return self.codes[x.long() - self.inputs.low]


def isqrt(v: Tensor) -> Tensor:
    """floor(sqrt(v)) of int64 v < 2^52, digit by digit in base 2."""
    root, rest = torch.zeros_like(v), v.clone()
    for place in range(EXACT - 2, -2, -2):
        bit = 1 << place
        fits = rest >= root + bit
        rest = torch.where(fits, rest - root - bit, rest)
        root = torch.where(fits, (root >> 1) + bit, root >> 1)
    return root
