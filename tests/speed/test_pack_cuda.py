"""Weights for the CUDA kernels: layouts that come back, layers from the bench, groups, 2:4; the rational gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import Refused
from workbench.grid import Scheme
from workbench.methods.prune.magnitude import Magnitude
from workbench.speed import Kernel, compile_kernel, emulator, kernels, ops
from workbench.speed.ops import OPS
from workbench.speed.pack import LowBit, low_bit
from workbench.speed.pack import cuda as gpu

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 600), st.integers(0, 99))


@pytest.mark.parametrize("name", list(gpu.LAYOUTS))
@settings(max_examples=12, deadline=None)
@given(SHAPES)
def test_codes_come_back(name, shape):
    N, K, seed = shape
    layout = gpu.LAYOUTS[name]
    codes = np.random.default_rng(seed).integers(0, 1 << layout.bits, (N, K), dtype=np.uint8)
    words = layout.pack(codes)
    assert words.dtype == np.uint32
    assert words.strides[0] % 16 == 0  # every row may be read in 16 bytes
    assert (layout.unpack(words, N, K) == codes).all()


@pytest.mark.parametrize(
    ("name", "columns"), [("w4", 32), ("w4-lanes", 256), ("w3-lanes", 256), ("w2-lanes", 256)]
)
def test_nothing_is_wasted_on_whole_blocks(name, columns):
    codes = np.ones((32, columns * 3), np.uint8)
    layout = gpu.LAYOUTS[name]
    assert layout.pack(codes).nbytes * 8 == codes.size * layout.bits


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_every_bit_of_a_chunk_has_a_place_and_pairs_are_16_apart(bits):
    places = gpu.places(bits)
    assert sorted(places.ravel()) == list(range(32 * bits))
    assert (places[1::2] - places[::2] == 16).all()


def test_the_words_of_a_lane_by_hand():
    """Code 9 of lane 3 in the second block: octet 0, column 256 + 24 + 1; its bit 0 is bit 16 of the first word."""
    codes = np.zeros((1, 512), np.uint8)
    codes[0, 256 + 8 * 3 + 1] = 9
    words = gpu.pack_lanes(codes, 4)[0]
    assert list(np.flatnonzero(words)) == [32 + 4 * 3]
    assert words[32 + 12] == 9 << 16


def test_the_fragment_of_a_lane_by_hand():
    """Lane 4g + t holds row g, columns 2t and 2t + 1 in the lowest nibble of each half; row g + 8 in the next."""
    codes = np.zeros((16, 64), np.uint8)
    codes[5, 16 + 2 * 3 + 1], codes[5 + 8, 16 + 2 * 3] = 7, 11
    words = gpu.pack_fragments(codes)[0]
    assert list(np.flatnonzero(words)) == [4 * (4 * 5 + 3) + 1]
    assert words[4 * 23 + 1] == 7 << 16 | 11 << 4


# ---- weights -------------------------------------------------------------------------------------------------------

WEIGHT = torch.from_numpy(np.random.default_rng(3).standard_normal((45, 200), np.float32))


def rows_of(made: dict[str, np.ndarray], name: str, group: int, N: int, K: int) -> np.ndarray:
    """What a kernel reads out of the operands, step by step as the docstrings say."""
    layout = gpu.LAYOUTS[name]
    codes = layout.unpack(made["W"], N, K)
    at = np.arange(K) // group
    scale = made["S"].reshape(N, -1)[:, at].astype(float)
    if layout.table:
        return made["T"].astype(float)[codes] * scale
    zero = made["Z"].astype(float)
    if layout.split:
        shift, rest = zero.reshape(-1, 2).T
        assert (shift == np.rint(shift)).all()
        zero = -1024 - shift - rest
    return (codes - zero.reshape(N, -1)[:, at]) * scale


@pytest.mark.parametrize(
    ("scheme", "name", "group"),
    [
        (Scheme(bits=4, group_size=128), "w4-lanes", 128),
        (Scheme(bits=4, group_size=64), "w4", 64),
        (Scheme(bits=4, group_size=32, symmetric=True), "w4-fragments", 32),
        (Scheme(bits=4, granularity="channel"), "w4-pairs", 128),
        (Scheme(bits=4, granularity="tensor"), "w4", 128),
        (Scheme(bits=8, group_size=64), "w8", 64),
        (Scheme(bits=3, group_size=128), "w3-lanes", 128),
        (Scheme(bits=2, group_size=32), "w2-lanes", 32),
        (Scheme(bits=6, group_size=64), "w8", 64),
        (Scheme(format="nf4", group_size=64), "nf4-lanes", 64),
        (Scheme(format="nf3", group_size=64), "nf4-lanes", 64),
        (Scheme(format="binary", group_size=64), "w2-lanes", 64),
    ],
    ids=lambda part: part if isinstance(part, str) else None,
)
def test_a_layer_from_the_bench_stands_for_the_same_numbers_but_for_fp16_scales(scheme, name, group):
    compressed = scheme.quantize(WEIGHT)
    weight = gpu.fitted(low_bit(compressed))
    assert weight.group_size == group
    made = gpu.pack(weight, f"{name}-{group}")
    read = rows_of(made, name, group, *WEIGHT.shape)
    np.testing.assert_allclose(read, gpu.dense(weight), rtol=1e-12, atol=1e-12)
    theirs = compressed.dequantize().numpy().astype(float)
    assert np.linalg.norm(read - theirs) <= 4e-4 * np.linalg.norm(theirs)  # half an ulp of fp16 is 4.9e-4


def test_a_group_of_a_whole_short_row_stays_one():
    weight = gpu.fitted(low_bit(Scheme(bits=4, granularity="channel").quantize(WEIGHT[:, :24])))
    assert weight.group_size == 32
    assert weight.scale.shape == (45, 1)


def test_zeros_between_the_codes_are_kept():
    weight = LowBit(
        4, np.zeros((1, 32), np.uint8), np.ones((1, 1), np.float32), np.full((1, 1), 7.3, np.float32), 32
    )
    assert gpu.dense(gpu.fitted(weight))[0, 0] == -float(np.float16(7.3))


def run_layer(weight: LowBit, name: str, tokens: int, schedule: str) -> emulator.Emulated:
    """A kernel on the emulator with this weight."""
    kernel = Kernel.parse(gpu.regrouped(kernels()[name].source, weight.group_size))
    x = np.random.default_rng(1).standard_normal((tokens, weight.shape[1]))
    made = ops.layer(kernel.operands, kernel.packing, weight, x)
    return emulator.run(kernel, made.shape, schedule, given=made)


@pytest.mark.usefixtures("cpp")
@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("w4_split_k", Scheme(bits=4, group_size=128)),
        ("w4_mma", Scheme(bits=4, group_size=64, symmetric=True)),
        ("nf4_shared", Scheme(format="nf4", group_size=128)),
        ("w2_split_k", Scheme(format="ternary", group_size=128)),
        ("w8_gemv", Scheme(bits=8, granularity="channel")),
    ],
)
def test_a_layer_from_the_bench_runs(name, scheme):
    weight = gpu.fitted(low_bit(scheme.quantize(WEIGHT)))
    one = run_layer(weight, name, 2, "greedy")
    assert one.passed, one.message


@pytest.mark.usefixtures("cpp")
def test_a_pruned_and_quantized_layer_runs():
    compressed = Scheme(bits=4, group_size=128, symmetric=True).quantize(WEIGHT)
    compressed = compressed.with_mask(torch.from_numpy(np.random.default_rng(0).random(WEIGHT.shape) < 0.5))
    weight = gpu.fitted(low_bit(compressed))
    one = run_layer(weight, "w4_vector", 1, "reverse")
    assert one.passed, one.message


GROUPED = [name for name, kernel in kernels().items() if kernel.packing.rpartition("-")[2].isdecimal()]


@pytest.mark.usefixtures("cpp")
@pytest.mark.parametrize("name", GROUPED)
def test_every_kernel_takes_groups_of_32(name):
    kernel = Kernel.parse(gpu.regrouped(kernels()[name].source, 32))
    assert kernel.packing.endswith("-32")
    one = emulator.run(kernel, (3, 40, 1300), "greedy")
    assert one.passed, one.message


@pytest.mark.usefixtures("cpp")
@pytest.mark.parametrize("name", ["w4_split_k", "w4_mma"])
def test_groups_of_64(name):
    one = emulator.run(Kernel.parse(gpu.regrouped(kernels()[name].source, 64)), (17, 40, 1300), "reverse")
    assert one.passed, one.message


@pytest.mark.usefixtures("cpp")
@pytest.mark.parametrize("name", GROUPED)
def test_a_long_row_is_summed_as_precisely(name):
    """K of a real layer: the error of sums in half precision must not grow with it."""
    one = emulator.run(kernels()[name], (1, 16, 11008), "forward")
    assert one.passed, one.message


@pytest.mark.usefixtures("cpp")
@pytest.mark.parametrize("name", ["w4_split_k", "w3_split_k", "w2_split_k"])
def test_where_the_zero_point_is_a_code_that_weight_is_0_exactly(name):
    """Removed weights and sums that cancel: no rounding of code and zero apart."""
    bits = ops.PACKINGS[kernels()[name].packing].bits
    codes = np.full((5, 300), 1, np.uint8)
    codes[2, 7] = 0
    weight = LowBit(bits, codes, np.ones((5, 3), np.float32), np.ones((5, 3), np.float32), 128)
    found = run_layer(weight, name, 1, "forward").output[0]
    assert (found == 0).tolist() == [True, True, False, True, True]


GUARDS = [
    *((name, "load_octet<true>", "load_octet<false>") for name in ("fp16_gemv",)),
    *((name, "eight<true>", "eight<false>") for name in ("w8_gemv", "w4_lop3")),
    *(
        (name, "chunk<true>", "chunk<false>")
        for name in ("w4_vector", "w4_split_k", "nf4_shared", "w3_split_k")
    ),
    ("w4_vector", "if (row >= N) return;", ""),
    ("w4_split_k", "min(row + r, rows - 1)", "(row + r)"),
    ("w4_split_k", " && row + threadIdx.x < N", ""),
    ("w4_mma", "if (x_row + r >= batch) break;", ""),
    ("w4_mma", "min(tile0 + i, tiles - 1)", "(tile0 + i)"),
    ("w4_mma", "if (m < M && n < N) ", ""),
    ("w4_mma_16", "else cp_async_16(&to.x", "else if (bytes) cp_async_16(&to.x"),
    ("int8_dp4a", "4 * k + 4 <= K ? word : word & ((1 << 8 * (K - 4 * k)) - 1)", "word"),
    ("int8_mma", "min(16, max(0, K - k))", "16"),
    ("w8a8_mma", "min(16, max(0, K - k))", "16"),
    ("w8a8_mma", "if (row >= M) continue;", ""),
    (
        "w8a8_mma",
        "min(column0 + warp_column + 8 * j + lane % 4 * 2 + e, N - 1)",
        "column0 + warp_column + 8 * j + e",
    ),
    ("sparse_mma", "min(high, (M - 1) / 16)", "high"),
    ("sparse_mma", "if (row >= M) continue;", ""),
    ("rational_columns", "if (n >= N) return;", ""),
    ("rational_backward", "if (n < N) {", "{"),
    ("rational_backward", "min(M, first + ROWS)", "first + ROWS"),
]


@pytest.mark.usefixtures("cpp")
@pytest.mark.parametrize(("name", "guard", "without"), GUARDS)
def test_every_guard_at_an_edge_is_needed(name, guard, without):
    """Left out, it is seen: poison in the result, or a place that is no operand's."""
    kernel = kernels()[name]
    assert guard in kernel.source
    mutant = Kernel.parse(kernel.source.replace(guard, without), where="without.cu")
    shape = (33, 74, 7) if name.startswith("rational") else (5, 33, 275)
    assert emulator.run(kernel, shape, "greedy").passed
    assert not all(one.passed for one in emulator.fuzz(mutant, shape))


def test_what_no_packing_holds_is_refused():
    weight = gpu.random_weight(np.random.default_rng(0), "w4", 32, 4, 64)
    with pytest.raises(Refused, match=r"scale for every 48 inputs.*32, 64, 128"):
        gpu.fitted(low_bit(Scheme(bits=4, group_size=48).quantize(WEIGHT)))
    with pytest.raises(Refused, match="codes of 4 bits; the packing w2-lanes-32 has 2"):
        gpu.pack(weight, "w2-lanes-32")
    with pytest.raises(Refused, match=r"every 32 inputs; the packing w4-64 has groups of 64"):
        gpu.pack(weight, "w4-64")
    with pytest.raises(Refused, match=r"equal steps; the packing nf4-lanes-32"):
        gpu.pack(weight, "nf4-lanes-32")
    with pytest.raises(Refused, match=r"'w4-lane-32' is no packing.*w4-lanes-32"):
        gpu.pack(weight, "w4-lane-32")
    with pytest.raises(Refused, match="beyond fp16"):
        gpu.fitted(LowBit(4, weight.codes, weight.scale * 1e6, weight.zero, 32))
    with pytest.raises(Refused, match="a group of 48"):
        gpu.regrouped(kernels()["w4_naive"].source, 48)
    with pytest.raises(Refused, match="no packing in groups"):
        gpu.regrouped(kernels()["fp16_gemv"].source, 64)


@pytest.mark.usefixtures("cpp", "compiler")
def test_whole_numbers_are_scaled_to_bf16_where_the_type_says_so():
    """The epilogue is one type: with bf16 in its place the kernel compiles and is right to bf16's eight bits."""
    source = kernels()["w8a8_mma"].source
    for old, new in (
        ("SW fp32, Y fp16", "SW fp32, Y bf16"),
        ("tolerance: 5e-4", "tolerance: 4e-3"),
        ("cuda_fp16.h", "cuda_bf16.h"),
        ("__float2half_rn", "__float2bfloat16_rn"),
        ("__floats2half2_rn", "__floats2bfloat162_rn"),
        ("__half2", "__nv_bfloat162"),
        ("__half", "__nv_bfloat16"),
    ):
        assert old in source
        source = source.replace(old, new)
    kernel = Kernel.parse(source)
    assert compile_kernel(kernel.source, "sm_80").functions["w8a8_mma"].spill_stores == 0
    for shape in ((33, 65, 70), (130, 140, 41)):
        one = emulator.run(kernel, shape, "greedy")
        assert one.passed, one.message
        assert one.relative_error > 5e-4  # bf16 it is


def test_symmetric_codes_with_a_scale_each_row_are_whole_numbers():
    scheme = Scheme(bits=8, granularity="channel", symmetric=True)
    for one in (scheme, Scheme(bits=8, granularity="channel", symmetric=True, convention="signed")):
        compressed = one.quantize(WEIGHT)
        codes, scale = gpu.int8(low_bit(compressed))
        assert codes.dtype == np.int8
        np.testing.assert_allclose(codes * scale[:, None], compressed.dequantize().numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("scheme", "why"),
    [
        (Scheme(bits=8, group_size=64), "a scale for every 64 inputs; .* one for each output channel"),
        (Scheme(bits=8, granularity="channel"), "no whole numbers from -128 to 127"),
        (Scheme(format="nf4"), "needs equal steps"),
    ],
)
def test_what_is_no_product_of_whole_numbers_is_refused(scheme, why):
    with pytest.raises(Refused, match=why):
        gpu.int8(low_bit(scheme.quantize(WEIGHT + 3)))


# ---- 2:4 -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(SHAPES)
def test_sparse_matrices_come_back(shape):
    M, K, seed = shape
    a = gpu.random_sparse(np.random.default_rng(seed), M, K)
    kept, metadata = gpu.pack_sparse(a)
    assert kept.shape == (M, -(-K // 32) * 16)
    assert metadata.dtype == np.uint32
    assert (gpu.unpack_sparse(kept, metadata, K) == a).all()


@settings(max_examples=20, deadline=None)
@given(SHAPES)
def test_the_two_places_of_four_are_in_order(shape):
    """Equal or falling places are undefined in mma.sp, also for rows that are only there to fill a tile."""
    M, K, seed = shape
    random = np.random.default_rng(seed)
    a = gpu.random_sparse(random, M, K) * (random.random((M, K)) < 0.5)  # often fewer than two
    words = gpu.pack_sparse(a)[1]
    places = np.stack([words >> (2 * i) & 3 for i in range(16)], -1).reshape(-1, 2)
    assert (places[:, 0] < places[:, 1]).all()


def test_metadata_by_hand():
    """Row 3 keeps columns 1 and 3 of its first four: 0b1101 in the low half of word 6; row 11: columns 16 and 18."""
    a = np.zeros((16, 32), np.float32)
    a[3, [1, 3]] = 1, 2
    a[11, [16, 18]] = 3, 4
    kept, words = gpu.pack_sparse(a)
    assert words[2 * 3] & 0xF == 0b1101
    assert words[2 * 3 + 1] >> 16 & 0xF == 0b1000
    assert list(kept[3, :2]) == [1, 2]
    assert list(kept[11, 8:10]) == [3, 4]


def test_a_matrix_that_is_not_2_4_is_refused_with_its_place():
    a = gpu.random_sparse(np.random.default_rng(0), 8, 64)
    a[5, 12:15] = 1, 2, 3
    with pytest.raises(Refused, match=r"row 5, columns 12 to 15: [34] of 4 elements are not 0"):
        gpu.pack_sparse(a)


def test_a_layer_pruned_on_the_bench_is_2_4():
    a = Magnitude(sparsity=0.5, scope="layer", n_m=(2, 4)).compress(WEIGHT, None).dequantize().numpy()
    assert (a == 0).mean() == 0.5
    assert (gpu.unpack_sparse(*gpu.pack_sparse(a), 200) == a).all()


# ---- the rational function -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 24, 4), (5, 10, 3)])
def test_the_published_form_of_the_denominator_has_torchs_gradient(shape):
    """The absolute value of every term; that of their sum is in test_ops.py."""
    _, N, K = shape
    forward, backward = (op for op in OPS if "sum |q" in op)
    types: dict[str, str] = dict.fromkeys(OPS[backward].operands, "fp32")
    made = ops.problem(backward, types, shape)
    x, p, q, g = (torch.tensor(made.dense[name], requires_grad=name != "G") for name in "XPQG")
    group = torch.arange(N) * K // N
    powers = torch.stack([x**i for i in range(6)], -1)
    y = (powers * p[group]).sum(-1) / (1 + (powers[..., 1:5] * q[group]).abs().sum(-1))
    np.testing.assert_allclose(OPS[forward].reference(made.dense, None)["Y"], y.detach().numpy(), rtol=1e-12)
    y.backward(g)
    found = made.expected()
    for name, of in (("DX", x), ("DP", p), ("DQ", q)):
        assert of.grad is not None
        np.testing.assert_allclose(found[name], of.grad.numpy(), rtol=1e-10, atol=1e-12)
