"""Each operation of the integer network against Python's numbers, and the constants that are made of floats."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.engine.integer.build import codes_of, point_of, reach
from workbench.engine.integer.ops import (
    Dyadic,
    Linear,
    Norm,
    Point,
    Product,
    Rotary,
    Softmax,
    Sum,
    Table,
    isqrt,
)
from workbench.errors import Refused
from workbench.methods.ranges import Range

QUICK = settings(max_examples=60, deadline=None)

POINTS = st.builds(
    lambda scale, zero, bits: Point(scale, zero % 2**bits - 2 ** (bits - 1), bits),
    st.floats(1e-4, 10), st.integers(0, 2**16), st.sampled_from([8, 16]),
)  # fmt: skip
NARROW = POINTS.map(lambda point: replace(point, bits=8, zero=point.zero % 256 - 128))


def codes_in(point: Point, *shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(point.low, point.high + 1, shape, generator=generator).to(point.dtype)


def requantized(acc: int, dyadic: Dyadic, outputs: Point, channel: int = 0) -> int:
    """The code of an accumulator, in fractions."""
    m, n = int(dyadic.multiplier[channel]), int(dyadic.shift[channel])
    steps = math.floor(Fraction(acc * m, 2**n) + Fraction(1, 2))
    return min(max(steps + outputs.zero, outputs.low), outputs.high)


@QUICK
@given(st.floats(1e-9, 1e4), st.integers(-(2**26), 2**26), st.floats(1, 2**36))
def test_a_dyadic_number_is_near_its_ratio_and_rounds_half_up(ratio, acc, widest):
    widest = max(widest, abs(acc), 1)
    made = Dyadic.of(torch.tensor([ratio], dtype=torch.float64), widest, "here")
    m, n = int(made.multiplier), int(made.shift)
    assert abs(Fraction(m, 2**n) - Fraction(ratio)) <= Fraction(1, 2 ** (n + 1))
    assert m < 2**20 + 1
    assert abs(acc) * m < 2**52
    assert int(made(torch.tensor([acc]))) == math.floor(Fraction(acc * m, 2**n) + Fraction(1, 2))
    if n < 62 and widest < 2**31:
        assert m >= 2**18  # no bit is given away
    with pytest.raises(Refused, match="here: its scale is 1e"):
        Dyadic.of(torch.tensor([1e7], dtype=torch.float64), widest, "here")


@QUICK
@given(st.integers(0, 2**52 - 1))
def test_the_integer_root_is_the_floor(v):
    assert int(isqrt(torch.tensor([v]))) == math.isqrt(v)


@pytest.mark.parametrize("k", [1, 2**13, 2**26 - 1])
def test_the_integer_root_next_to_squares(k):
    assert isqrt(torch.tensor([k * k - 1, k * k, k * k + 1])).tolist() == [k - 1, k, k if k > 1 else 1]


@QUICK
@given(NARROW, NARROW, st.integers(0, 10**6))
def test_a_linear_is_the_sum_of_products(x, y, seed):
    codes = torch.randint(-128, 128, (3, 5), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    zero = torch.tensor([-128, 7, 127], dtype=torch.int32)
    constant = 5 * x.zero * zero - x.zero * codes.int().sum(1)
    ratios = torch.tensor([0.01, 0.3, 1.7], dtype=torch.float64)
    op = Linear(codes, zero, constant.int(), x, y, Dyadic.of(ratios, 5 * 255 * 255, "w"), torch.int32)
    inputs = codes_in(x, 2, 5, seed=seed)
    for row, made in zip(inputs.tolist(), op(inputs).tolist(), strict=True):
        for o in range(3):
            pairs = zip(row, codes[o].tolist(), strict=True)
            acc = sum((a - x.zero) * (w - int(zero[o])) for a, w in pairs)
            assert made[o] == requantized(acc, op.dyadic, y, o)


@QUICK
@given(POINTS, POINTS, POINTS, st.floats(1e-6, 1e-2), st.integers(0, 10**6))
def test_products_of_matrices_and_of_places(a, b, y, ratio, seed):
    widest = 4 * reach(a) * reach(b)
    op = Product(a, b, y, Dyadic.of(torch.tensor([ratio], dtype=torch.float64), widest, "p"), torch.int64)
    left, right = codes_in(a, 2, 4, seed=seed), codes_in(b, 4, 2, seed=seed + 1)
    d, e = (left.long() - a.zero).tolist(), (right.long() - b.zero).tolist()
    made = op.matrix(left, right).tolist()
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        assert made[i][j] == requantized(sum(d[i][k] * e[k][j] for k in range(4)), op.dyadic, y)
    places = op.places(left, right.T).tolist()
    assert places == [[requantized(d[i][k] * e[k][i], op.dyadic, y) for k in range(4)] for i in range(2)]


@QUICK
@given(POINTS, st.integers(0, 10**6), st.floats(0.5, 2))
def test_a_norm_is_an_rms_norm(x, seed, gain):
    n, eps = 16, 1e-6
    y = Point(6 / 65535 * gain, 0, 16)
    gains = [3, -7, 11, 2**14] * 4
    s_gain = gain / 2**14
    epsilon = round(n * eps / x.scale**2)
    room = 52 - (n * reach(x) ** 2 + epsilon).bit_length()
    ratio = torch.tensor([math.sqrt(n) * s_gain / (y.scale * 2**18)], dtype=torch.float64)
    op = Norm(
        torch.tensor(gains, dtype=torch.int32),
        epsilon,
        min(room // 2, 27),
        x,
        y,
        Dyadic.of(ratio, 2.0**33, "n"),
    )
    codes = codes_in(x, 3, n, seed=seed)
    codes[2] = x.zero  # all zero
    for row, made in zip(codes.tolist(), op(codes).tolist(), strict=True):
        d = [(code - x.zero) * x.scale for code in row]
        rms = math.sqrt(sum(v * v for v in d) / n + eps)
        for v, g, code in zip(d, gains, made, strict=True):
            assert (code - y.zero) * y.scale == pytest.approx(
                min(max(v / rms * g * s_gain, y.low * y.scale), y.high * y.scale), abs=2 * y.scale
            )


def test_a_softmax_is_one_and_leaves_the_future_out():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-3000, 3000, (2, 9, 9), generator=generator).to(torch.int16)
    scores[0, 4, 8] = 32767  # unseen, and must not count
    scale = 0.004
    places = torch.arange(4096, dtype=torch.float64)
    table = (torch.exp(-places / 256) * 2**15).round().int()
    ratio = torch.tensor([scale * 256], dtype=torch.float64)
    outputs = Point(1 / 65535, -32768, 16)
    seen = torch.ones(9, 9, dtype=torch.bool).tril()
    made = Softmax(table, outputs, Dyadic.of(ratio, 65535, "s"))(scores, seen)
    found = (made.double() + 32768) / 65535
    expected = (scores.double() * scale).masked_fill(~seen, -math.inf).softmax(-1)
    assert (made[:, ~seen] == -32768).all()
    assert (found.sum(-1) - 1).abs().max() < 9 / 65535
    assert (found - expected).abs().max() < 2 / 256  # half a place of the table, above and below


@QUICK
@given(NARROW, st.integers(0, 10**6))
def test_a_rotary_turns_pairs(x, seed):
    angles = torch.linspace(0, 3, 5, dtype=torch.float64)[:, None].repeat(1, 2)
    cos, sin = (torch.cat([t, t], 1) for t in (angles.cos(), angles.sin()))
    tables = [(t * 2**14).round().to(torch.int16) for t in (cos, sin)]
    y = Point(x.scale, 0, 16)
    ratio = torch.tensor([2.0**-14], dtype=torch.float64)
    op = Rotary(*tables, x, y, Dyadic.of(ratio, 2.0**16 * 255, "r"))
    codes = codes_in(x, 1, 1, 5, 4, seed=seed)
    d = codes.double() - x.zero
    first, second = d.chunk(2, -1)
    expected = torch.cat(
        [first * cos[:, :2] - second * sin[:, :2], second * cos[:, :2] + first * sin[:, :2]], -1
    )
    assert (op(codes).double() - expected).abs().max() < 0.5 + 2 * 255 * 2**-15 + 1e-3


@QUICK
@given(POINTS, POINTS, st.floats(0.01, 2), st.floats(0.01, 2), st.integers(0, 10**6))
def test_a_sum_brings_both_to_one_scale(a, b, first, second, seed):
    y = Point(1.0, 5, 16)
    shift = 19
    factors = round(first * 2**shift), round(second * 2**shift)
    left, right = codes_in(a, 6, seed=seed), codes_in(b, 6, seed=seed + 1)
    made = Sum(a, b, y, factors, shift)(left, right).tolist()
    for p, q, code in zip(left.tolist(), right.tolist(), made, strict=True):
        acc = Fraction((p - a.zero) * factors[0] + (q - b.zero) * factors[1], 2**shift)
        assert code == min(max(math.floor(acc + Fraction(1, 2)) + 5, y.low), y.high)


def test_a_table_has_the_code_of_every_value():
    x, y = Point(0.01, 100, 12), Point(0.05, -128, 8)
    steps = torch.arange(x.low, x.high + 1, dtype=torch.float64)
    values = torch.nn.functional.silu((steps - x.zero) * x.scale)
    made = Table(codes_of(values, y).to(torch.int8), x, y)(steps.to(torch.int16)).tolist()
    for step, code in zip(steps.tolist(), made, strict=True):
        value = (step - 100) * 0.01
        nearest = round(value / (1 + math.exp(-value)) / 0.05) - 128
        assert code == min(max(nearest, -128), 127)


def test_points_are_ranges_in_twos_complement():
    point = point_of(Range.of(-1.0, 3.0, 8), "here")
    assert (point.scale, point.zero, point.bits) == (pytest.approx(4 / 255), 64 - 128, 8)
    x = torch.tensor([-1.0, 0.0, 3.0, 9.0, -9.0])
    codes = codes_of(x, point)
    assert codes.tolist() == [-128, -64, 127, 127, -128]
    torch.testing.assert_close(point.steps(codes) * point.scale, Range.of(-1.0, 3.0, 8)(x).detach())
