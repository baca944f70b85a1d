"""NUPES: the power grid's golden numbers through the method, the gradient of the exponent, and what learning gains."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.errors import Refused
from workbench.methods.quantize.nupes import NUPES, PowerCodes, SoftCodes
from workbench.methods.quantize.rtn import RTN

from .test_learned import correlated

W = torch.tensor([[1.0, -0.5, 0.25, 0.1, -0.04, 0.01]])


def part(bits: int, exponent: float, kind: type[PowerCodes] = PowerCodes) -> PowerCodes:
    method = NUPES(bits=bits, exponent=exponent, group_size=-1, scale_search="none", scale_dtype="float32")
    return kind(W, method.fit(W))


@pytest.mark.parametrize(
    ("bits", "exponent", "codes", "values"),
    [
        (4, 1.0, [7, -4, 2, 1, 0, 0], [1, -0.571429, 0.285714, 0.142857, 0, 0]),
        (4, 0.5, [7, -5, 4, 2, -1, 1], [1, -0.510204, 0.326531, 0.081633, -0.020408, 0.020408]),
        (3, 0.5, [3, -2, 2, 1, -1, 0], [1, -0.444444, 0.444444, 0.111111, -0.111111, 0]),
    ],
)
def test_golden_numbers(bits, exponent, codes, values):
    made = part(bits, exponent)
    assert made.codes().tolist()[0] == codes
    assert made.values().tolist()[0] == pytest.approx(values, abs=1e-6)
    stored = made.compressed()
    assert (stored.codes.int() - made.top).tolist()[0] == codes
    assert stored.dequantize().tolist()[0] == pytest.approx(values, abs=1e-6)


def test_the_exponent_learns_through_the_dequantizer_alone():
    made = part(4, 0.5)
    values = made.values()
    for j, q in enumerate(made.codes()[0].tolist()):
        (slope,) = torch.autograd.grad(values[0, j], made.a, retain_graph=True)
        wanted = -values[0, j].item() * math.log(abs(q) / 7) / 0.5**2 if q else 0.0
        assert slope.item() == pytest.approx(wanted, abs=1e-5)


def test_every_code_can_move_zeros_too():
    made = part(3, 0.5)
    made.values().sum().backward()
    assert made.codes()[0, 5] == 0
    assert (made.v.grad > 0).all()


def test_soft_codes_begin_at_the_weights_nearly_and_end_whole():
    soft = part(4, 0.5, SoftCodes)
    assert (soft.values() - W).abs().max() < (part(4, 0.5).values() - W).abs().max()
    assert soft.penalty(0.1) is None
    assert soft.penalty(0.6).item() > 0
    with torch.no_grad():
        soft.v.copy_(soft.codes())
    assert soft.penalty(0.6).item() == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(soft.values(), soft.compressed().dequantize())


def test_at_two_bits_the_exponent_changes_no_level():
    levels = [NUPES(bits=2, exponent=a, scale_search="none").fit(W).grid.values.tolist() for a in (0.3, 1.0)]
    assert levels == [[-1, 0, 1]] * 2


@pytest.mark.parametrize("rounding", ["soft", "straight"])
@pytest.mark.parametrize(("bits", "gain"), [(3, 0.85), (4, 0.95)])
def test_learning_gains_over_the_searched_exponent_and_over_uniform_levels(rounding, bits, gain):
    # Squared output error; the card has .73 of the searched power grid at 3 bits and .58 at 4.
    for seed in (0, 1):
        w, known = correlated(seed)
        method = NUPES(bits=bits, granularity="channel", rounding=rounding, scale_search="none")
        made, searched = method.compress(w, known), method.quantize(w)
        uniform = method.baseline.compress(w)
        errors = [known.output_error(w, each.dequantize() - w) ** 2 for each in (made, searched, uniform)]
        assert errors[0] < gain * errors[1]
        assert errors[0] < gain * errors[2]


def test_soft_codes_learn_better_than_straight_ones():
    for seed in (0, 1):
        w, known = correlated(seed)
        errors = [
            known.output_error(w, NUPES(bits=3, rounding=r).compress(w, known).dequantize() - w)
            for r in ("soft", "straight")
        ]
        assert errors[0] < errors[1]


def test_what_is_not_learned_stays():
    w, known = correlated()
    plain = NUPES(bits=3, steps=60).quantize(w, known.mean_square)
    codes = NUPES(bits=3, steps=60, learn_exponent=False).compress(w, known)
    assert codes.grid == plain.grid
    assert not torch.equal(codes.codes, plain.codes)
    exponent = NUPES(bits=3, steps=60, rounding="straight", learn_codes=False).compress(w, known)
    assert torch.equal(exponent.codes, plain.codes)
    assert exponent.grid.exponent != plain.grid.exponent
    neither = NUPES(bits=3, learn_codes=False, learn_exponent=False).compress(w, known)
    assert torch.equal(neither.dequantize(), plain.dequantize())
    assert not neither.report.curves["loss"]
    assert not neither.report.warnings


def test_the_exponent_stays_within_its_bounds():
    w, known = correlated()
    for start in (0.2, 1.5):
        made = NUPES(bits=4, exponent=start, rate=1.0, rounding="straight", steps=40).compress(w, known)
        assert 0.2 <= made.grid.exponent <= 2


def test_it_is_compared_with_uniform_levels():
    baseline = NUPES(bits=3, group_size=32).baseline
    assert baseline == RTN(bits=3, group_size=32, symmetric=True)
    made = NUPES(bits=3, exponent=1.0, scale_search="none")
    assert torch.allclose(
        made.quantize(W).dequantize(), RTN(bits=3, symmetric=True).compress(W).dequantize(), atol=1e-3
    )


def test_other_formats_are_refused_with_the_way_out():
    with pytest.raises(Refused, match="take format: power"):
        NUPES(format="int")
