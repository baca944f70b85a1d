"""The integer network: equal to its simulation in every bit, without a float, each operation against plain numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import workbench as wb
from workbench.engine.integer import COMPARED_COLUMNS, QUALITY_COLUMNS, RANGE_COLUMNS, compare, simulated
from workbench.engine.integer.build import built, codes_of, point_of, reach
from workbench.engine.integer.learn import baked, calibrated, learned, smooth_scales
from workbench.engine.integer.llama import Llama
from workbench.engine.integer.ops import Dyadic, Linear, Norm, Point, Product, Rotary, Softmax, Sum, Table, isqrt
from workbench.engine.integer.variant import mobilequant
from workbench.errors import Refused
from workbench.jobs import Cancelled, Job
from workbench.measure import Evaluation, evaluation
from workbench.methods.quantize.mobilequant import MobileQuant
from workbench.methods.ranges import Range

QUICK = settings(max_examples=60, deadline=None)


class NoFloats(TorchDispatchMode):
    """Fails on the first operation that reads or makes a floating tensor."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves([args, kwargs, made]):
            if isinstance(each, torch.Tensor):
                assert not each.is_floating_point(), f"{func} has a tensor of {each.dtype}"
            assert not isinstance(each, float), f"{func} has the number {each}"
        self.calls += 1
        return made


def ids(count: int, seed: int = 0, length: int = 24) -> torch.Tensor:
    return torch.randint(0, 257, (count, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def tiny():
    """(network, calibration windows, held-out windows) of tiny-llama."""
    model = wb.load("tiny-llama")
    windows = list(evaluation(model, tokens=1024, part="calibration").inputs.split(1))
    return Llama.read(model), windows, evaluation(model, tokens=512).inputs


@pytest.fixture(scope="module", params=[4, 2, 1], ids=["heads 4:4", "heads 4:2", "heads 4:1"])
def small(request, make_llama, tmp_path_factory):
    """A random Llama with and without grouped queries."""
    folder = make_llama(tmp_path_factory.mktemp("llama"), seed=3, num_key_value_heads=request.param)
    return Llama.read(wb.load(folder))


@pytest.fixture
def model(llama_folder):
    return wb.load(llama_folder)


def start_of(net: Llama, windows, method: MobileQuant):
    return calibrated(net, windows, method, smooth_scales(net, windows, method), "smoothquant")


# The network as a whole


@pytest.mark.parametrize("bits", [8, 4])
def test_tiny_llama_is_bit_exact_and_near_fake_quantization(tiny, bits):
    net, windows, held_out = tiny
    method = MobileQuant(bits=bits)
    start = start_of(net, windows, method)
    found = compare(built(net, start, method), net, start, method, held_out[:1])
    assert found.exact
    assert found.simulation["codes"].sum() > 10**7
    assert list(found.simulation) == list(COMPARED_COLUMNS)
    assert found.simulation["point"].to_list() == [*net.points, "logits"]
    # Given the same codes, an operation in float makes the same code of 8 bits but at ties, and never misses by two.
    narrow = found.step[found.step["bits"] == 8]
    assert narrow["differ"].sum() / narrow["codes"].sum() < 1e-3
    assert narrow["largest"].max() == 1
    assert found.fake["share"].max() > found.step["share"].max()  # what differs is handed on
    assert found.kl < 0.02
    assert "all 1" in str(found)


@pytest.mark.parametrize(
    ("bits", "act_bits", "granularity"), [(8, 8, "channel"), (4, 8, "tensor"), (4, 16, "channel")]
)
def test_random_llamas_are_bit_exact_after_learning(small, bits, act_bits, granularity):
    # Large steps: learned ranges clip, and are nothing like those of the calibration.
    method = MobileQuant(
        bits=bits, act_bits=act_bits, granularity=granularity, steps=6, lr_range=0.05, lr_clip=0.1, lr_scale=0.05
    )
    windows = list(ids(3).split(1))
    made = learned(small, windows, method, start_of(small, windows, method))
    network = built(small, made, method)
    found = compare(network, small, made, method, ids(2, seed=1, length=64))
    assert found.exact
    assert len(network.blocks) == 2


def test_a_wrong_constant_is_found_where_it_is(small):
    method = MobileQuant()
    windows = list(ids(2).split(1))
    start = start_of(small, windows, method)
    network = built(small, start, method)
    up = network.blocks[1].up
    shifted = replace(up, constant=up.constant + 2**9)
    wrong = replace(network, blocks=(network.blocks[0], replace(network.blocks[1], up=shifted)))
    again: dict[str, np.ndarray] = {}
    simulated(network, windows[0], again.__setitem__)
    differ = []
    wrong(windows[0], lambda p, codes: differ.append(p) if (codes.numpy() != again[p]).any() else None)
    assert differ[0] == "1.up"
    assert set(differ) <= {"1.up", "1.hidden", "1.down", "1.out", "norm"}
    # The simulation takes zero points off first and needs no such constant.
    found = compare(wrong, small, start, method, windows[0])
    assert not found.exact
    assert "differ from the simulation, first at 1.up" in str(found)


def test_there_is_no_float_between_tokens_and_logits(small):
    network = built(small, start_of(small, [ids(1)], MobileQuant()), MobileQuant())
    tokens = ids(2, seed=5)
    dtypes = {}
    with NoFloats() as watched:
        logits = network(tokens, lambda point, codes: dtypes.setdefault(point, codes.dtype))
    assert watched.calls > 100
    assert logits.dtype == torch.int32
    for point, dtype in dtypes.items():
        assert dtype == (torch.int8 if network.points[point].bits == 8 else torch.int16), point
    with pytest.raises(AssertionError, match="float"), NoFloats():
        logits * network.unit


def test_the_transforms_leave_the_float_function_as_it_is(small):
    generator = torch.Generator().manual_seed(0)
    scales = smooth_scales(small, [ids(1)], MobileQuant())
    assert any(p.endswith("rot") for p in scales) == any(p.endswith("attn") for p in scales) == small.multi_head
    scales = {p: torch.rand(s.shape, generator=generator) * 3 + 0.2 for p, s in scales.items()}
    double = replace(small, tensors={n: t.double() for n, t in small.tensors.items()})

    def logits(tensors):
        return double.logits(tensors, double.hidden(tensors, ids(2), lambda _, x: x), lambda _, x: x)

    before, after = logits(double.tensors), logits(baked(double, scales))
    assert (after - before).abs().max() < 1e-6 * before.abs().max()  # scales are float32


def test_the_float_pass_is_that_of_the_model(model):
    net = Llama.read(model)
    made = net.logits(net.tensors, net.hidden(net.tensors, ids(2), lambda _, x: x), lambda _, x: x)
    torch.testing.assert_close(made, model.runner.logits(ids(2)), rtol=1e-4, atol=1e-4)


# Learning, and what comes back


def test_learning_gains_and_its_start_stays(small):
    method = MobileQuant(bits=4, steps=40, lr_scale=1e-2, lr_clip=3e-2)
    windows = list(ids(2).split(1))
    start = start_of(small, windows, method)
    before = {p: r.ends for p, r in start.ranges.items()}
    made = learned(small, windows, method, start)
    assert {p: r.ends for p, r in start.ranges.items()} == before
    assert made.report.facts["loss after"] < 0.9 * made.report.facts["loss before"]
    moved = {p for p, r in made.ranges.items() if r.ends != before[p]}
    assert moved >= {"0.norm1", "1.q", "1.hidden", "1.act"}
    # 16 bits and the codes of the embedding are left as they were measured.
    assert not any(p.endswith(("mid", "out", "down", "scores", "probs", "embed")) for p in moved)


def test_the_variant_has_its_tables(model):
    data = Evaluation(ids(4, seed=9), None, "random tokens", 2)
    made = wb.mobilequant(model, [ids(2), ids(1, seed=2)], MobileQuant(bits=4, steps=5))
    assert len(made.losses) == 5
    assert set(made.facts) == {"loss before", "loss after"}
    quality = made.quality(data)
    assert list(quality) == list(QUALITY_COLUMNS)
    rows = quality.set_index("network")
    assert list(rows.index) == ["float", "minmax", "smoothquant", "learned", "integer"]
    assert rows.at["float", "kl"] == 0
    assert rows.at["learned", "kl"] > 0
    # The integers are what was learned and no other network.
    assert rows.at["integer", "kl"] == pytest.approx(rows.at["learned", "kl"], rel=0.3)
    ranges = made.ranges()
    assert list(ranges) == list(RANGE_COLUMNS)
    assert (ranges["low"] <= 0).all()
    assert (ranges["high"] > 0).all()
    assert made.compare(data.inputs).exact
    again = wb.mobilequant(model, [ids(2), ids(1, seed=2)], MobileQuant(bits=4, steps=5))
    assert torch.equal(made.network(data.inputs), again.network(data.inputs))


def test_a_job_hears_of_every_step_and_cancels_between_two(model):
    def work(job: Job):
        return mobilequant(model, ids(2), MobileQuant(steps=20), job=job)

    heard: list[tuple[int, int]] = []
    job = Job(work)
    job.beat, beat = lambda text, values: heard.append((job.done, text)) or beat(text, values), job.beat
    made = job.run()
    assert [n for n, text in heard if text.startswith("learning")] == list(range(1, 21))
    assert job.curves["loss"] == list(made.losses)
    stopped = Job(work)
    stopped.beat = lambda text, values: stopped.cancel() if text.startswith("learning: 3 ") else Job.beat(stopped, text, values)
    with pytest.raises(Cancelled):
        stopped.run()
    assert stopped.done == 4


# What is refused


def test_what_is_no_llama_is_refused(model, make_llama, tmp_path):
    with pytest.raises(Refused, match="tiny-vit is no language model"):
        mobilequant(wb.load("tiny-vit"))
    with pytest.raises(Refused, match=r"biases \(model.layers.0.self_attn.q_proj.bias\)"):
        mobilequant(wb.load(make_llama(tmp_path, attention_bias=True)), ids(1))
    variant = wb.apply(model, wb.Recipe([wb.RTN(bits=4, group_size=16)]))
    with pytest.raises(Refused, match="has changed weights: .* take model.base"):
        mobilequant(variant.model, ids(1))
    with pytest.raises(Refused, match="is not learned end to end"):
        mobilequant(model, ids(1), wb.RTN(bits=4))


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (ids(1, length=65), "65 tokens are more than the context of 64"),
        (ids(1) + 1000, "token ids go from 0 to 256"),
        (ids(1) - 300, "token ids go from 0 to 256"),
        (ids(1).float(), r"integers \[windows, tokens\], not torch.float32"),
        (ids(1)[0], r"not torch.int64 of \[24\]"),
        ([], "the calibration data is empty"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(model, tokens, reason):
    with pytest.raises(Refused, match=reason):
        mobilequant(model, tokens, MobileQuant(steps=0))
    if len(tokens):
        made = mobilequant(model, ids(1), MobileQuant(steps=0))
        with pytest.raises(Refused, match=reason):
            made.network(tokens)


def test_scales_that_no_multiplier_holds_are_refused(small):
    start = start_of(small, [ids(1)], MobileQuant())
    fine = {**start.ranges, "0.q": Range(1e-12, 128.0, 8)}
    with pytest.raises(Refused, match=r"0.q: its scale is .* times finer than what it is made from"):
        built(small, replace(start, ranges=fine), MobileQuant())
    negative = {**start.ranges, "0.q": Range(-1.0, 128.0, 8)}
    with pytest.raises(Refused, match="0.q: its range has the scale -1"):
        built(small, replace(start, ranges=negative), MobileQuant())
    narrow = {**start.ranges, "0.mid": Range(1e-12, 2.0**15, 16)}
    with pytest.raises(Refused, match="0.norm2: the range of 0.mid is too narrow|0.mid: its scale"):
        built(small, replace(start, ranges=narrow), MobileQuant())


# Each operation against Python's numbers

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
        torch.tensor(gains, dtype=torch.int32), epsilon, min(room // 2, 27), x, y, Dyadic.of(ratio, 2.0**33, "n")
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
    expected = torch.cat([first * cos[:, :2] - second * sin[:, :2], second * cos[:, :2] + first * sin[:, :2]], -1)
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
