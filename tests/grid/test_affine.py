"""Integer grids against the golden numbers of the literature, and what must hold of every scale and code."""

from __future__ import annotations

import math
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.grid import Blocks, CompressedWeight, encode, fit, fused, int_grid, quantize

CONVENTIONS = ("narrow", "half_step", "signed")
GRIDS = [(False, "narrow"), *((True, convention) for convention in CONVENTIONS)]
QUICK = settings(max_examples=40)


def rtn(w, bits, symmetric, convention="narrow", granularity="group", group_size=-1, dtype=torch.float32):
    """Fit and encode in one go."""
    blocks = Blocks.of((w.shape[0], w.shape[1]), granularity, group_size)
    scale, zero = fit(w, blocks, bits, symmetric=symmetric, convention=convention, scale_dtype=dtype)
    grid = int_grid(bits, symmetric, convention)
    return CompressedWeight(grid, encode(w, grid, blocks, scale, zero), blocks, scale, zero)


# Golden numbers: GPTQ's quantizer (zero included) and the narrow symmetric grid on one group of four weights.
@pytest.mark.parametrize(
    ("bits", "symmetric", "scale", "zero", "codes", "values", "mse"),
    [
        (3, True, 0.3666667, 0, [2, -1, 1, -3], [0.733333, -0.366667, 0.366667, -1.1], 0.010625),
        (3, False, 0.2857143, 4, [7, 3, 5, 0], [0.857143, -0.285714, 0.285714, -1.142857], 0.00450255),
        (4, True, 0.1571429, 0, [6, -3, 2, -7], [0.942857, -0.471429, 0.314286, -1.1], 0.00276786),
        (4, False, 0.1333333, 8, [15, 5, 10, 0], [0.933333, -0.4, 0.266667, -1.066667], 0.000625),
    ],
)
def test_golden_numbers_of_one_group(bits, symmetric, scale, zero, codes, values, mse):
    w = torch.tensor([[0.9, -0.4, 0.25, -1.1]])
    made = rtn(w, bits, symmetric)
    assert made.scale.item() == pytest.approx(scale, abs=1e-6)
    assert (0 if made.zero is None else made.zero.item()) == zero
    assert made.codes.tolist() == [codes]
    assert made.dequantize().tolist()[0] == pytest.approx(values, abs=1e-6)
    assert (made.dequantize() - w).square().mean().item() == pytest.approx(mse, abs=1e-6)


def test_a_group_of_positive_weights_keeps_its_values_because_zero_is_in_the_range():
    made = rtn(torch.tensor([[1.0, 1.1, 1.2, 1.3]]), 3, False)
    assert made.zero.item() == 0
    assert made.dequantize().tolist()[0] == pytest.approx([0.928571, 1.114286, 1.114286, 1.3], abs=1e-6)


def test_rounding_is_half_to_even():
    # absmax 7 makes the scale of the narrow 4-bit grid exactly 1.
    made = rtn(torch.tensor([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5]]), 4, True)
    assert made.codes.tolist() == [[7, 0, 2, 2, 0, -2]]


def test_half_step_uses_every_code_and_clips_a_positive_extreme_by_half_a_step():
    w = torch.tensor([[1.5, -0.4, 0.25, -0.65]])
    made = rtn(w, 4, True, "half_step")
    assert made.scale.item() == pytest.approx(2 * 1.5 / (2**4 - 1), abs=1e-7)
    assert made.codes.tolist() == [[7, -2, 1, -3]]
    assert w[0, 0].item() - made.dequantize()[0, 0].item() == pytest.approx(made.scale.item() / 2, abs=1e-6)
    # A negative extreme lies on the border of the lowest code, which the other conventions do not reach.
    assert rtn(torch.tensor([[-1.5001, 0.2]]), 4, True, "half_step").codes[0, 0].item() in (-8, -7)
    assert int_grid(4, True, "half_step").lowest == -8


@pytest.mark.parametrize("sign", [1, -1])
def test_the_signed_scale_hits_the_extreme_exactly(sign):
    w = sign * torch.tensor([[0.9, -0.4, 0.25, -1.1]])
    made = rtn(w, 4, True, "signed")
    assert made.scale.item() == pytest.approx(sign * 1.1 / 8, abs=1e-7)
    assert made.codes.tolist() == [[7, -3, 2, -8]]
    assert made.dequantize()[0, 3].item() == w[0, 3].item()


def test_the_signed_scale_gives_the_values_of_q4_0():
    # ggml, quantize_row_q4_0_ref: d = max / -8 with max the value of largest magnitude, code = floor(x / d + 8.5).
    blocks = np.random.default_rng(0).standard_normal((50, 32)).astype(np.float32)
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(1, keepdims=True), 1)
    d = extreme / -8
    expected = (np.clip(np.floor(blocks / d + 8.5), 0, 15) - 8) * d
    made = rtn(torch.from_numpy(blocks), 4, True, "signed", group_size=32)
    np.testing.assert_allclose(made.dequantize().numpy(), expected, rtol=0, atol=1e-7)
    assert (made.scale < 0).any()
    assert (made.scale > 0).any()


def test_narrow_leaves_the_lowest_code_out():
    w = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    assert rtn(w, 2, True, "narrow").codes.unique().tolist() == [-1, 0, 1]
    assert rtn(-w.abs(), 2, True, "signed").codes.min().item() == -2


def test_a_block_of_zeros_has_scale_1_and_decodes_to_zeros():
    w = torch.zeros(2, 8)
    w[0, :4] = torch.tensor([1.0, -1.0, 0.5, 0.25])
    for symmetric, convention in GRIDS:
        made = rtn(w, 4, symmetric, convention, group_size=4)
        assert made.scale[1].tolist() == [1.0, 1.0]
        assert made.dequantize()[1].tolist() == [0.0] * 8


def test_scales_are_stored_as_they_are_used_unless_half_precision_would_lose_them():
    w = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    assert rtn(w, 4, False, dtype=torch.float16).scale.dtype == torch.float16
    tiny, huge = rtn(w * 1e-6, 4, False, dtype=torch.float16), rtn(w * 1e6, 4, False, dtype=torch.float16)
    assert tiny.scale.dtype == huge.scale.dtype == torch.float32
    assert torch.equal(tiny.codes, rtn(w, 4, False).codes)


@pytest.mark.parametrize(
    ("granularity", "counts"), [("tensor", (1, 1)), ("channel", (6, 1)), ("group", (6, 3))]
)
def test_the_granularity_says_who_shares_a_scale(granularity, counts):
    w = torch.randn(6, 10, generator=torch.Generator().manual_seed(1))
    made = rtn(w, 3, False, granularity=granularity, group_size=4)
    assert made.scale.shape == counts
    # The last group is ragged: columns 8 and 9. Each scale is the range of its own weights, by hand.
    for i in range(counts[0]):
        for j, (start, stop) in enumerate([(0, 4), (4, 8), (8, 10)][: counts[1]]):
            part = w if granularity == "tensor" else w[i : i + 1]
            part = part[:, start:stop] if granularity == "group" else part
            expected = (max(part.max().item(), 0) - min(part.min().item(), 0)) / 7
            assert made.scale[i, j].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("group_size", [-1, 10, 99])
def test_a_group_beyond_the_row_is_the_row(group_size):
    w = torch.randn(3, 10, generator=torch.Generator().manual_seed(2))
    channel = rtn(w, 4, False, granularity="channel")
    group = rtn(w, 4, False, group_size=group_size)
    assert torch.equal(group.codes, channel.codes)
    assert torch.equal(group.scale, channel.scale)


@st.composite
def matrices(draw, least=1):
    """float32 [out, in] of at least `least` weights: Gaussian, or on a lattice so that ties and zeros happen."""
    out = draw(st.integers(1, 40))
    inputs = draw(st.integers(2, 90)) + -(-least // out)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    w = torch.randn(out, inputs, generator=generator)
    if draw(st.booleans()):
        w = (w * 4).round() / 8
    if draw(st.booleans()):
        w[:, : inputs // 2] = 0
    # One-sided groups: zero is in the range all the same.
    w = draw(st.sampled_from([w, w, w.abs(), -w.abs(), w + 3]))
    return w * 10.0 ** draw(st.integers(-3, 3))


grids = st.sampled_from(GRIDS)
granularities = st.sampled_from(["tensor", "channel", "group"])
sizes = st.sampled_from([2, 3, 7, 16, 32, 64, 100, 128, 1000, -1])


@QUICK
@given(matrices(), st.integers(2, 8), grids, granularities, sizes)
def test_encode_after_decode_gives_the_codes_back(w, bits, grid, granularity, size):
    made = rtn(w, bits, *grid, granularity, size)
    again = encode(made.dequantize(), made.grid, made.blocks, made.scale, made.zero)
    assert torch.equal(again, made.codes)


@QUICK
@given(matrices(), st.integers(2, 8), grids, granularities, sizes)
def test_what_is_not_clipped_is_within_half_a_step(w, bits, grid, granularity, size):
    made = rtn(w, bits, *grid, granularity, size)
    scale = made.blocks.expand(made.scale).double()
    zero = 0 if made.zero is None else made.blocks.expand(made.zero).double()
    wanted = (w.double() / scale).round() + zero
    inside = (wanted >= made.grid.lowest) & (wanted <= made.grid.highest)
    error = (made.dequantize().double() - w.double()).abs()
    # w / scale and code * scale are rounded to float32: a weight in the middle of two codes may fall either way.
    slack = w.double().abs() * 2.0**-22
    assert (error <= scale.abs() / 2 + slack)[inside].all()
    # Clipped ones are at most half a step (and the rounding of the zero point, another half) further out.
    assert (error <= scale.abs() + slack).all()


@pytest.mark.parametrize(("symmetric", "convention"), GRIDS)
@pytest.mark.parametrize(
    ("granularity", "size"), [("tensor", -1), ("channel", -1), ("group", 32), ("group", 50)]
)
def test_the_error_never_grows_with_bits(symmetric, convention, granularity, size):
    w = torch.randn(48, 160, generator=torch.Generator().manual_seed(3))
    made = [rtn(w, bits, symmetric, convention, granularity, size) for bits in range(2, 9)]
    errors = [(m.dequantize() - w).norm().item() for m in made]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 20


@pytest.mark.parametrize("symmetric", [False, True])
def test_codes_do_not_change_when_a_row_is_rescaled(symmetric):
    w = torch.randn(5, 64, generator=torch.Generator().manual_seed(4))
    factors = torch.tensor([[0.5], [1.0], [2.0], [4.0], [1024.0]])  # powers of two: exact
    assert torch.equal(rtn(w, 4, symmetric).codes, rtn(w * factors, 4, symmetric).codes)


# The compiled path. 4,096 weights are its threshold, so every example takes it.


@QUICK
@given(
    matrices(least=4096),
    st.integers(2, 8),
    grids,
    granularities,
    sizes,
    st.sampled_from(["float16", "bfloat16", "float32"]),
)
def test_the_compiled_path_gives_the_torch_path_bit_for_bit(w, bits, grid, granularity, size, dtype):
    dtype = getattr(torch, dtype)
    assert fused.fits(w, Blocks.of((w.shape[0], w.shape[1]), granularity, size))
    two_steps = rtn(w, bits, *grid, granularity, size, dtype)
    one_pass = quantize(w, two_steps.blocks, bits, symmetric=grid[0], convention=grid[1], scale_dtype=dtype)
    with patch.object(fused, "fits", return_value=False):
        plain = rtn(w, bits, *grid, granularity, size, dtype)
    for compiled in (two_steps, one_pass):
        assert_same(compiled, plain)


def assert_same(compiled, plain):
    assert compiled.grid == plain.grid
    assert compiled.scale.dtype == plain.scale.dtype
    assert torch.equal(compiled.scale, plain.scale)
    assert compiled.codes.dtype == plain.codes.dtype
    assert torch.equal(compiled.codes, plain.codes)
    assert (compiled.zero is None) == (plain.zero is None)
    if compiled.zero is not None:
        assert torch.equal(compiled.zero, plain.zero)


def test_one_scale_that_half_precision_would_lose_makes_all_of_them_wider():
    w = torch.randn(300, 64, generator=torch.Generator().manual_seed(8))
    w[299, :32] *= 1e-7  # the last group but one: the chunks before it were rounded already
    blocks = Blocks.of((300, 64), "group", 32)
    made = quantize(w, blocks, 4)
    assert made.scale.dtype == torch.float32
    with patch.object(fused, "fits", return_value=False):
        assert_same(made, quantize(w, blocks, 4))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_scales_half_way_between_two_short_floats_go_to_the_even_one(name):
    # At two bits the narrow scale is the greatest weight of the group: 1 + an odd number of half steps.
    dtype = getattr(torch, name)
    half = torch.finfo(dtype).eps / 2
    w = torch.zeros(8, 1024)
    w[:, ::32] = 1 + half * torch.arange(1, 257).reshape(8, 32)
    w[4:] *= -1
    made = quantize(w, Blocks.of((8, 1024), "group", 32), 2, symmetric=True, scale_dtype=dtype)
    assert torch.equal(made.scale, w[:, ::32].abs().to(dtype))


def test_a_zero_point_that_a_coarse_scale_pushes_out_is_the_last_code():
    w = -torch.rand(64, 128, generator=torch.Generator().manual_seed(9))
    blocks = Blocks.of((64, 128), "group", 32)
    made = quantize(w, blocks, 8, scale_dtype=torch.bfloat16)
    low = blocks.reduce(w, "amin")
    assert (-(low / made.scale.float()).round()).max() > 255  # bf16 rounds some scales down that far
    assert made.zero.min() >= 254
    with patch.object(fused, "fits", return_value=False):
        assert_same(made, quantize(w, blocks, 8, scale_dtype=torch.bfloat16))


@pytest.mark.parametrize("out", [1, 7, 8, 9, 255, 257, 515])
def test_the_compiled_path_covers_every_row_and_chunk(out):
    # Chunks of rows are multiples of 8; the last is not. The row's number is its extreme.
    w = torch.zeros(out, 4096) + torch.linspace(0, 1, 4096)
    w[:, 100] = torch.arange(2.0, out + 2)
    made = quantize(w, Blocks.of((out, 4096), "channel"), 8, scale_dtype=torch.float32)
    torch.testing.assert_close(made.scale[:, 0], torch.arange(2.0, out + 2) / 255)
    assert made.codes[:, 100].tolist() == [255] * out


def test_weights_that_the_compiled_path_does_not_take_are_encoded_all_the_same():
    w = torch.randn(64, 128, generator=torch.Generator().manual_seed(5))
    blocks = Blocks.of((64, 128), "group", 32)
    expected = rtn(w, 4, False, group_size=32)
    for other in (w.T.contiguous().T, w.double()):
        assert not fused.fits(other, blocks)
        assert torch.equal(rtn(other, 4, False, group_size=32).codes, expected.codes)


def test_groups_along_the_output_and_tiles_have_a_scale_each():
    w = torch.randn(12, 10, generator=torch.Generator().manual_seed(6))
    for rows, columns in ((4, 1), (5, 3), (12, 4)):
        blocks = Blocks((12, 10), rows, columns)
        scale, zero = fit(w, blocks, 4, scale_dtype=torch.float32)
        assert scale.shape == (math.ceil(12 / rows), math.ceil(10 / columns))
        codes = encode(w, int_grid(4, False), blocks, scale, zero)
        made = CompressedWeight(int_grid(4, False), codes, blocks, scale, zero)
        assert ((made.dequantize() - w).abs() <= blocks.expand(scale) * 1.00001).all()


def test_the_memory_of_codes_is_used_again_only_when_nobody_refers_to_them():
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(32, 256, generator=generator) for _ in range(6)]
    blocks = Blocks.of((32, 256), "group", 32)
    made = [quantize(w, blocks, 4) for w in weights]
    views = [m.codes[3:5].numpy() if i % 2 else m.codes.T for i, m in enumerate(made)]
    kept = [torch.as_tensor(view).clone() for view in views]
    del made
    for w in weights:  # with the views alive their memory is not free
        quantize(w, blocks, 8, symmetric=True)
    assert all(torch.equal(torch.as_tensor(view), copy) for view, copy in zip(views, kept, strict=True))
    del views
    again = {quantize(w, blocks, 3).codes.data_ptr() for w in weights}
    assert len(again) == 1
