"""The cost model: widths are exact (by enumeration), prices are what they say, nothing costs less than its parts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import workbench as wb
from workbench.errors import Refused
from workbench.grid.minifloat import minifloat
from workbench.measure.hardware import (
    COST_COLUMNS,
    CostModel,
    LutPrices,
    Number,
    accumulator_bits,
    product_bits,
    work_of,
)

FLOATS = [f"e{e}m{b - 1 - e}" for b in range(3, 9) for e in range(1, b)]


# Card P5 of the minifloat paper, "Cost model": widths by enumeration.
@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("e2m1", 9),
        ("e2m2", 11),
        ("e2m3", 13),
        ("e3m2", 19),
        ("e3m4", 23),
        ("e4m3", 37),
        ("e5m2", 67),
        ("e1m2", 7),
    ],
)
def test_the_widths_of_exact_products_are_those_of_the_card(name, bits):
    number = Number.of(name)
    assert product_bits(number, number) == bits
    e, m = number.exponent_bits, number.significand - 1
    assert bits == 2 * (m + 1) + 2 * (2**e - 2) + 1


@pytest.mark.parametrize("bits", range(2, 9))
def test_an_integer_product_has_the_bits_of_both(bits):
    assert product_bits(Number.of(f"int{bits}"), Number.of("int8")) == bits + 8


@pytest.mark.parametrize(
    "name", [n for n in FLOATS if Number.of(n).exponent_bits <= 4 and n not in ("e4m3",)]
)
def test_the_widths_are_those_of_the_values_themselves(name):
    """In units of the least positive value every value is whole; the product of the two largest needs so many bits."""
    values = minifloat(name).values.double()
    unit = values[values > 0].min()
    whole = values / unit
    assert torch.equal(whole, whole.round())
    most = int(whole.max())
    assert most == Number.of(name).largest
    assert product_bits(Number.of(name), Number.of(name)) == (most * most).bit_length() + 1


@given(
    a=st.sampled_from([*FLOATS, "int3", "int8"]), b=st.sampled_from([*FLOATS, "int4"]), k=st.integers(1, 5000)
)
def test_k_of_the_largest_products_fit_the_accumulator(a, b, k):
    a, b = Number.of(a), Number.of(b)
    width = accumulator_bits(a, b, k)
    assert a.largest * b.largest * k <= 2 ** (width - 1)
    assert width == product_bits(a, b) + math.ceil(math.log2(k))
    assert CostModel().mac(a, b, k)["luts"] == CostModel().mac(b, a, k)["luts"]


def test_the_parts_of_a_price():
    """E2M1 x E2M1, K = 64, by hand: 2 x 2 partial products; 3 bits of exponents; 9 bits x ceil(log2 5) = 3 stages at
    half a LUT; 9 + 6 bits of accumulator."""
    found = CostModel().mac(Number.of("e2m1"), Number.of("e2m1"), 64)
    assert list(found) == list(COST_COLUMNS)
    assert found == {
        "product_bits": 9, "accumulator_bits": 15, "multiplier": 4, "exponent_adder": 3, "shifter": 13.5,
        "accumulator": 15, "luts": 35.5,
    }  # fmt: skip
    # INT4 x INT4: 16 partial products, 8 + 6 bits of accumulator, nothing else
    assert CostModel().mac(Number.of("int4"), Number.of("int4"), 64)["luts"] == 16 + 14
    # a float and an integer: no exponents to add, but a product to shift by 0 to 2
    mixed = CostModel().mac(Number.of("e2m1"), Number.of("int4"), 64)
    assert (mixed["multiplier"], mixed["exponent_adder"], mixed["shifter"]) == (8, 0, 0.5 * 8 * 2)


def test_e1_is_an_integer_in_disguise():
    cost = CostModel().mac(Number.of("e1m2"), Number.of("e1m2"), 64)
    assert (cost["shifter"], cost["exponent_adder"]) == (0, 0)
    assert Number.of("e1m2").largest == 7, "the narrow INT4"


def test_prices_can_be_changed():
    free = CostModel(prices=LutPrices(shifter=0, exponent_adder=0))
    pair = Number.of("e3m2"), Number.of("e3m2")
    before, after = CostModel().mac(*pair, 100), free.mac(*pair, 100)
    assert after["luts"] == before["luts"] - before["shifter"] - before["exponent_adder"]
    assert "indicative" in COST_COLUMNS["luts"]


@pytest.mark.parametrize("name", ["nf4", "mxfp4", "int0", "int17", "e0m3", "e2"])
def test_formats_without_a_known_hardware_are_refused(name):
    with pytest.raises(Refused, match="the cost model knows no format"):
        Number.of(name)


def test_the_work_of_a_convolution_counts_its_places():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 10)
    )
    model = wb.load(net, name="small", task="classification")
    work = work_of(model, list(model.layers), torch.zeros(3, 1, 6, 6))
    assert [(w.macs, w.k) for w in work.values()] == [(36 * 4 * 9, 9), (10 * 144, 144)]
    pair = Number.of("int4"), Number.of("int4")
    found = CostModel().model(dict.fromkeys(work, pair), work)
    assert found["macs"] == 36 * 36 + 1440
    luts = [CostModel().mac(*pair, k)["luts"] for k in (9, 144)]
    assert found["lut_macs"] == luts[0] * 1296 + luts[1] * 1440
    assert found["luts_per_mac"] == found["lut_macs"] / found["macs"]
