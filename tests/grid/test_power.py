"""Power grids: PowerQuant's levels and exponent, as far as they are known."""

from __future__ import annotations

import pytest
import torch

from workbench.grid import Blocks, Scheme
from workbench.grid.power import PowerGrid, best_exponent, golden_section

W = torch.tensor([[1, -0.5, 0.25, 0.1, -0.04, 0.01]])


@pytest.mark.parametrize(
    ("bits", "exponent", "codes", "values", "mse"),
    [
        (4, 1.0, [7, -4, 2, 1, 0, 0], [1, -0.571429, 0.285714, 0.142857, 0, 0], 0.00165238),
        (4, 0.5, [7, -5, 4, 2, -1, 1], [1, -0.510204, 0.326531, 0.081633, -0.020408, 0.020408], 0.00113176),
        (3, 0.5, [3, -2, 2, 1, -1, 0], [1, -0.444444, 0.444444, 0.111111, -0.111111, 0], None),
    ],
)
def test_golden_numbers(bits, exponent, codes, values, mse):
    made = Scheme(format="power", bits=bits, exponent=exponent, scale_dtype="float32").quantize(W)
    assert (made.codes.int() - made.grid.steps).tolist() == [codes]
    assert made.dequantize().tolist()[0] == pytest.approx(values, abs=1e-6)
    if mse:
        assert (made.dequantize() - W).square().mean().item() == pytest.approx(mse, abs=1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_exponent_1_is_the_narrow_integer(bits):
    w = torch.randn(30, 200, generator=torch.Generator().manual_seed(0))
    options = {"bits": bits, "granularity": "channel", "scale_dtype": "float32"}
    power = Scheme(format="power", exponent=1, **options).quantize(w)
    integer = Scheme(symmetric=True, **options).quantize(w)
    assert torch.equal(power.codes.int() - power.grid.steps, integer.codes.int())
    torch.testing.assert_close(power.dequantize(), integer.dequantize(), rtol=1e-6, atol=1e-9)


def test_levels_are_odd_and_at_two_bits_only_the_threshold_moves():
    for exponent in (0.3, 0.5, 0.7, 1.2):
        values = PowerGrid(bits=5, exponent=exponent).values
        assert torch.equal(values, -values.flip(0))
        two = PowerGrid(bits=2, exponent=exponent)
        assert two.values.tolist() == [-1, 0, 1]
        threshold = 0.5 ** (1 / exponent)
        assert two.encode(torch.tensor([threshold * 0.999, threshold * 1.001])).tolist() == [1, 2]


def gaussian(n):
    return torch.randn(n, generator=torch.Generator().manual_seed(0))


def laplace(n):
    u = torch.rand(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    return (-u.sign() * torch.log1p(-2 * u.abs())).float()


def uniform(n):
    return torch.rand(n, generator=torch.Generator().manual_seed(0)) * 2 - 1


# Best exponent, and how many times less the squared error is than at exponent 1; 20,000 samples.
@pytest.mark.parametrize(
    ("sample", "bits", "exponent", "gain"),
    [
        (gaussian, 3, 0.65, 1.48),
        (gaussian, 4, 0.70, 1.45),
        (gaussian, 8, 0.65, 1.47),
        (laplace, 4, 0.55, 2.34),
        (laplace, 8, 0.55, 2.49),
        (uniform, 4, 1.0, 1.0),
        (uniform, 8, 1.0, 1.0),
    ],
)
def test_the_exponent_that_is_found_and_what_it_gains(sample, bits, exponent, gain):
    w = sample(20_000).reshape(100, 200)
    blocks = Blocks.of((100, 200), "tensor")
    found = best_exponent(w, blocks, w.abs().max().reshape(1, 1), bits)
    assert found == pytest.approx(exponent, abs=0.08)
    errors = [
        (Scheme(format="power", bits=bits, exponent=a, granularity="tensor").quantize(w).dequantize() - w)
        .square()
        .sum()
        .item()
        for a in (1.0, found)
    ]
    # The largest of the samples decides how much an even grid wastes: a wide margin.
    assert errors[0] / errors[1] == pytest.approx(gain, rel=0.25 if gain > 1 else 0.02)


def test_the_scheme_searches_where_no_exponent_is_given():
    w = gaussian(5000).reshape(50, 100)
    made = Scheme(format="power", granularity="channel").quantize(w)
    assert 0.5 < made.grid.exponent < 1
    assert made.storage_bits()["scales"] == 50 * 16 + 32  # the exponent is stored too


def test_golden_section_finds_a_minimum():
    assert golden_section(lambda x: (x - 0.7) ** 2, 0.2, 1.2, 1e-2) == pytest.approx(0.7, abs=1e-2)
    assert golden_section(lambda x: x, 0.2, 1.2, 1e-2) == pytest.approx(0.2, abs=1e-2)
