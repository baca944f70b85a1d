"""MX formats and NVFP4 against the golden blocks of their cards."""

from __future__ import annotations

import math

import pytest
import torch

from workbench.grid import Blocks, CompressedWeight, Fit, Scheme
from workbench.grid.formats import MX
from workbench.grid.mx import E4M3, ELEMENTS, FixedPoint, PowerOfTwo, mx_rule, nvfp4_rule

W = torch.tensor([[0.10, -0.25, 0.60, 1.30, -2.20, 3.90, 0.05, -7.50]])
SECOND = torch.tensor([[0.02, 0.01, -0.03, 0.015, 0.04, -0.05, 0.06, 0.011]])


def laid(rule, w, size):
    blocks = Blocks((w.shape[0], w.shape[1]), 1, size)
    return Fit(rule.grid, blocks, rule.keep.pack(rule.plain(w, blocks)[0])).encode(w)


# log2 of the scale, values and mean squared error of the block of 8; ties half to even.
@pytest.mark.parametrize(
    ("name", "how", "exponent", "values", "mse"),
    [
        ("mxfp4", "floor", 0, [0, 0, 0.5, 1.5, -2, 4, 0, -6], 0.303125),
        ("mxfp4", "rceil", 1, [0, 0, 1, 1, -2, 4, 0, -8], 0.078125),
        ("mxfp4", "even", 1, [0, 0, 1, 1, -2, 4, 0, -8], 0.078125),
        ("mxfp6", "floor", 0, [0.125, -0.25, 0.625, 1.25, -2.25, 4, 0, -7.5], 0.00234375),
        ("mxfp6_e3m2", "floor", -2, [0.09375, -0.25, 0.625, 1.25, -2, 4, 0.046875, -7], 0.0378967),
        ("mxfp8", "floor", -6, [0.1015625, -0.25, 0.625, 1.25, -2.25, 4, 0.05078125, -7], 0.0332035),
        ("mxfp8_e5m2", "floor", -13, [0.09375, -0.25, 0.625, 1.25, -2, 4, 0.046875, -7], 0.0378967),
        ("mxint8", "floor", 2, [0.125, -0.25, 0.625, 1.3125, -2.1875, 3.875, 0.0625, -7.5], 0.000292969),
    ],
)
def test_golden_block(name, how, exponent, values, mse):
    made = laid(mx_rule(ELEMENTS[name], how), W, 8)
    assert made.scale.dtype == torch.float8_e8m0fnu
    assert made.scale.float().item() == 2.0**exponent
    assert made.dequantize().tolist()[0] == pytest.approx(values, abs=1e-9)
    assert (made.dequantize() - W).square().mean().item() == pytest.approx(mse, abs=1e-6)


@pytest.mark.parametrize(
    ("largest", "floor", "rceil", "ceil", "even"),
    # E2M1: emax 2, largest value 6. Powers of two are where a logarithm in float32 goes wrong.
    [
        (4.0, 0, 0, 0, 0),
        (6.0, 0, 0, 1, 0),
        (6.5, 0, 1, 1, 0),
        (7.0, 0, 1, 1, 1),
        (8.0, 1, 1, 1, 1),
        (2.0**-100, -102, -102, -102, -102),
        (2.0**-126, -127, -127, -127, -127),
    ],
)
def test_four_rules_for_the_shared_exponent(largest, floor, rceil, ceil, even):
    w = torch.tensor([[largest, -largest / 3]])
    for how, expected in (("floor", floor), ("rceil", rceil), ("ceil", ceil), ("even", even)):
        scale = mx_rule(ELEMENTS["mxfp4"], how).plain(w, Blocks((1, 2), 1, 2))[0]
        assert scale.item() == 2.0**expected, how


def test_floor_clips_and_rceil_and_ceil_do_not():
    w = torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
    for how, clips in (("floor", True), ("rceil", False), ("ceil", False)):
        blocks = Blocks((200, 32), 1, 32)
        scale = mx_rule(ELEMENTS["mxfp4"], how).plain(w, blocks)[0]
        assert bool(((w / blocks.expand(scale)).abs() > 6).any()) == clips


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({"format": "mxfp4"}, 4.25),
        ({"format": "mxfp6"}, 6.25),
        ({"format": "mxfp6_e3m2"}, 6.25),
        ({"format": "mxfp8"}, 8.25),
        ({"format": "mxfp8_e5m2"}, 8.25),
        ({"format": "mxint8"}, 8.25),
        ({"format": "nvfp4"}, 4.5 + 32 / (16 * 128)),
        ({"format": "e2m1", "group_size": 32, "scale_rounding": "po2"}, 4.25),
    ],
)
def test_bits_per_weight(options, bits):
    w = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    assert Scheme(**options).quantize(w).bits_per_weight == bits


# Gaussian, N(0, 1), blocks of 32.
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"format": "mxfp4"}, 18.77),
        ({"format": "mxfp4", "scale_rule": "rceil"}, 18.74),
        ({"format": "mxfp4", "scale_rule": "even"}, 19.01),
        ({"format": "mxfp6"}, 30.91),
        ({"format": "mxfp6_e3m2"}, 25.30),
        ({"format": "mxfp8"}, 30.62),
        ({"format": "mxfp8_e5m2"}, 25.30),
        ({"format": "mxint8"}, 41.63),
        ({"symmetric": True, "group_size": 32, "scale_dtype": "float32"}, 20.25),
        ({"format": "nvfp4"}, 20.41),
        ({"symmetric": True, "group_size": 16, "scale_dtype": "float32"}, 21.37),
    ],
)
def test_sqnr_of_normal_weights(options, expected):
    w = torch.randn(2048, 64, generator=torch.Generator().manual_seed(1))
    error = Scheme(**options).quantize(w).dequantize() - w
    assert 10 * math.log10(w.square().sum() / error.square().sum()) == pytest.approx(expected, abs=0.1)


def test_golden_blocks_of_nvfp4():
    w = torch.cat([W, SECOND], 1)
    made = laid(nvfp4_rule(w), w, 8)
    assert isinstance(made.scale, CompressedWeight)
    assert made.scale.scale.item() == pytest.approx(0.0027901786, abs=1e-9)
    assert E4M3.decode(made.scale.codes).tolist() == [[448, 3.5]]
    values = [0, 0, 0.625, 1.25, -2.5, 3.75, 0, -7.5]
    values += [0.019531, 0.009766, -0.029297, 0.014648, 0.039062, -0.058594, 0.058594, 0.009766]
    assert made.dequantize().tolist()[0] == pytest.approx(values, abs=1e-6)


def test_a_block_far_below_the_largest_weight_is_not_divided_by_zero():
    w = torch.zeros(1, 48)
    w[0, 0], w[0, 20] = 1.0, 1e-7  # E4M3 rounds the second scale to 0: 1 takes its place
    made = Scheme(format="nvfp4").quantize(w)
    assert E4M3.decode(made.scale.codes).tolist() == [[448, 1, 1]]
    assert made.dequantize()[0, 0] == 1
    assert made.dequantize()[0, 1:].count_nonzero() == 0


@pytest.mark.parametrize("name", [*MX, "nvfp4"])
def test_blocks_of_zeros_ragged_rows_and_subnormals(name):
    w = torch.randn(5, 70, generator=torch.Generator().manual_seed(2))
    w[2] = 0
    w[:, 64:] *= 1e-3
    made = Scheme(format=name).quantize(w)
    assert made.dequantize()[2].count_nonzero() == 0
    assert ((made.dequantize() - w).norm(dim=1) <= 0.2 * w.norm(dim=1)).all()
    tiny = Scheme(format=name).quantize(w * 2.0**-140)  # subnormal in float32
    assert torch.isfinite(tiny.dequantize()).all()
    assert Scheme(format=name).quantize(w * 0).dequantize().count_nonzero() == 0


def test_the_granularity_is_that_of_the_format():
    w = torch.randn(4, 64, generator=torch.Generator().manual_seed(3))
    made = Scheme(format="mxfp6", granularity="tensor", group_size=128).quantize(w)
    assert made.scale.shape == (4, 2)
    assert Scheme(format="nvfp4").quantize(w).scale.shape == (4, 4)


def test_powers_of_two_are_kept_as_one_byte_and_rounded_up():
    scale = torch.tensor([[0.3, 0.5, 0.51, 1.0, 2.0**-127, 2.0**127]])
    kept = PowerOfTwo().rounded(scale)
    assert kept.tolist() == [[0.5, 0.5, 1.0, 1.0, 2.0**-127, 2.0**127]]
    assert PowerOfTwo().pack(kept).float().tolist() == kept.tolist()
    assert PowerOfTwo().pack(kept).dtype.itemsize == 1


def test_mxint8_is_sixty_fourths_without_the_lowest_code():
    grid = FixedPoint()
    assert (grid.largest, grid.values[0].item(), len(grid.values)) == (127 / 64, -127 / 64, 255)
    x = torch.tensor([-2.0, 1 / 128, 3 / 128, 5.0])
    assert grid.decode(grid.encode(x)).tolist() == [-127 / 64, 0, 2 / 64, 127 / 64]
