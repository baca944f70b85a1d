"""CompressedWeight: true bits, windows, masks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.grid import Blocks, CompressedWeight, FloatGrid, IntGrid, encode, fit, int_grid, uncompressed


def made(w, bits=4, group_size=128, symmetric=False, dtype=torch.float16, granularity="group"):
    blocks = Blocks.of((w.shape[0], w.shape[1]), granularity, group_size)
    scale, zero = fit(w, blocks, bits, symmetric=symmetric, scale_dtype=dtype)
    grid = int_grid(bits, symmetric)
    return CompressedWeight(grid, encode(w, grid, blocks, scale, zero), blocks, scale, zero)


def noise(out, inputs, seed=0):
    return torch.randn(out, inputs, generator=torch.Generator().manual_seed(seed))


# Golden numbers: INT4 g128 with an fp16 scale and a 4-bit zero, INT3 the same; the others by hand.
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"bits": 4}, 4.15625),
        ({"bits": 3}, 3.1484375),
        ({"bits": 4, "symmetric": True}, 4.125),
        ({"bits": 4, "dtype": torch.float32}, 4 + 36 / 128),
        ({"bits": 8, "granularity": "channel"}, 8 + 24 / 256),
        ({"bits": 4, "granularity": "tensor"}, 4 + 20 / 1024),
        ({"bits": 4, "group_size": 100}, 4 + 3 * 20 / 256),  # 256 inputs: two whole groups and a ragged one
    ],
)
def test_bits_per_weight_count_scales_and_zeros(options, expected):
    assert made(noise(4, 256), **options).bits_per_weight == pytest.approx(expected, abs=1e-12)


def test_storage_names_what_the_bits_are_for():
    w = made(noise(4, 256))
    assert w.storage_bits() == {
        "codes": 4096.0,
        "scales": 128.0,
        "zeros": 32.0,
        "mask": 0.0,
        "shift": 0.0,
        "inputs": 0.0,
    }
    assert w.nbytes == (4096 + 128 + 32) / 8


def test_a_mask_costs_a_bit_a_weight_and_saves_the_codes_of_what_is_gone():
    mask = torch.ones(4, 256, dtype=torch.bool)
    mask[:, :192] = False
    w = made(noise(4, 256))
    masked = w.with_mask(mask)
    assert masked.storage_bits() == w.storage_bits() | {"codes": 4 * 256, "mask": 1024.0}
    assert masked.sparsity == 0.75
    assert masked.dequantize()[:, :192].count_nonzero() == 0


def test_an_n_m_mask_costs_the_positions_of_what_is_kept():
    mask = torch.tensor([True, False, True, False]).repeat(4, 64)
    half = uncompressed(noise(4, 256).half().float())
    # 2:4 in fp16: two values and two 2-bit positions for four weights, 36 bits of 64.
    assert half.with_mask(mask, (2, 4)).bits_per_weight == 36 / 4
    assert half.with_mask(mask).bits_per_weight == 8 + 1
    # 1:2 costs one bit for each kept weight; 4:8 three bits each, and a plain mask is cheaper than that.
    assert half.with_mask(mask, (1, 2)).storage_bits()["mask"] == 512
    assert half.with_mask(mask, (4, 8)).storage_bits()["mask"] == 1024


def test_masks_compose_and_an_n_m_pattern_does_not_survive_another_mask():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(8, 16, generator=generator) > 0.5 for _ in range(2))
    w = made(noise(8, 16), group_size=8)
    both = w.with_mask(first, (2, 4)).with_mask(second, (2, 4))
    assert torch.equal(both.mask, first & second)
    assert both.n_m is None
    assert w.with_mask(first, (2, 4)).n_m == (2, 4)
    assert torch.equal(both.dequantize(), w.dequantize() * (first & second))
    assert w.mask is None
    assert w.with_mask(None) is w


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_a_window_is_the_slice_of_the_whole(data):
    out, inputs = data.draw(st.integers(1, 30)), data.draw(st.integers(2, 70))
    rows, columns = data.draw(st.integers(1, out)), data.draw(st.integers(1, inputs))
    blocks = Blocks((out, inputs), rows, columns)
    w = noise(out, inputs, data.draw(st.integers(0, 99)))
    scale, zero = fit(w, blocks, 4)
    grid = int_grid(4, False)
    compressed = CompressedWeight(grid, encode(w, grid, blocks, scale, zero), blocks, scale, zero)
    if data.draw(st.booleans()):
        compressed = compressed.with_mask(w > 0)
    a, b = sorted(data.draw(st.tuples(st.integers(0, out), st.integers(0, out))))
    c, d = sorted(data.draw(st.tuples(st.integers(0, inputs), st.integers(0, inputs))))
    whole = compressed.dequantize()
    expected = (compressed.codes.float() - blocks.expand(zero.float())) * blocks.expand(scale.float())
    assert torch.equal(whole, expected if compressed.mask is None else expected * compressed.mask)
    assert torch.equal(compressed.dequantize(slice(a, b), slice(c, d)), whole[a:b, c:d])
    assert torch.equal(compressed.dequantize(rows=slice(a, b)), whole[a:b])


def test_the_hover_line_gives_the_scale_and_zero_of_one_weight():
    w = made(noise(6, 10), group_size=4, dtype=torch.float32)
    for row, column in ((0, 0), (5, 9), (3, 7)):
        found = w.at(row, column)
        assert found["scale"] == w.scale[row, column // 4].item()
        assert (found["code"] - found["zero"]) * found["scale"] == pytest.approx(
            w.dequantize()[row, column].item()
        )
    assert uncompressed(noise(2, 2)).at(0, 0) == {"code": None, "scale": None, "zero": None}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_an_untouched_weight_is_kept_exactly_in_the_narrowest_format(dtype):
    # Weights of 1e-6 are beyond fp16's exponents, so bf16 is the only short format for its values.
    w = (noise(4, 64) * (1 if dtype == torch.float16 else 1e-6)).to(dtype).float()
    kept = uncompressed(w)
    assert torch.equal(kept.dequantize(), w)
    assert kept.codes.dtype == dtype
    assert kept.bits_per_weight == dtype.itemsize * 8


def test_int_grids_know_their_ends():
    assert (int_grid(4, False).lowest, int_grid(4, False).highest) == (0, 15)
    assert (int_grid(4, True, "narrow").lowest, int_grid(4, True, "narrow").highest) == (-7, 7)
    assert (int_grid(4, True, "signed").lowest, int_grid(4, True, "signed").highest) == (-8, 7)
    assert IntGrid(bits=8).dtype == torch.uint8
    assert IntGrid(bits=8, signed=True).dtype == torch.int8


def test_a_float_format_that_torch_cannot_compute_in_is_widened():
    assert FloatGrid.of(torch.float8_e4m3fn).dtype_name == "float32"
    assert FloatGrid.of(torch.bfloat16).code_bits == 16
