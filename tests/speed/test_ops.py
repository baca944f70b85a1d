"""Operands and references of the ops, against torch and against arithmetic done by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from workbench.errors import Refused
from workbench.speed.ops import (
    DTYPES,
    OPS,
    SCALED_LAYER,
    bf16_decode,
    bf16_encode,
    pitched,
    plain_layer,
    problem,
    scaled_layer,
)
from workbench.speed.pack import LowBit

PRODUCT, TRANSPOSED, LAYER, RATIONAL, BACKWARD, *_ = OPS


def test_bf16_rounds_as_torch_does():
    random = np.random.default_rng(0)
    x = np.concatenate(
        [
            random.standard_normal(10_000).astype(np.float32)
            * np.float32(10.0) ** random.integers(-38, 38, 10_000),
            np.array([0.0, -0.0, np.inf, -np.inf, 3.3895e38, 1e-45, 1.00390625, 1.01171875], np.float32),
        ]
    ).astype(np.float32)
    assert (bf16_decode(bf16_encode(x)) == torch.from_numpy(x).bfloat16().double().numpy()).all()
    assert np.isnan(bf16_decode(bf16_encode(np.array([np.nan], np.float32)))).all()


def test_operands_are_rounded_and_the_reference_is_of_the_rounded():
    made = problem(TRANSPOSED, {"A": "bf16", "B": "bf16", "C": "fp32"}, (5, 6, 7))
    a, b = (torch.from_numpy(made.inputs[name].view(np.int16)).view(torch.bfloat16).double() for name in "AB")
    assert np.allclose(made.expected()["C"], (a @ b.T).numpy(), rtol=1e-15)
    assert (made.expected(np.array([0, 4]))["C"] == made.expected()["C"][[0, 4]]).all()
    assert made.outputs == {"C": (5, 6)}


def test_a_seed_and_a_shape_are_operands():
    types = {"A": "fp32", "B": "fp16", "C": "fp32"}
    one, same, other = (problem(PRODUCT, types, (3, 4, 5), seed=seed) for seed in (1, 1, 2))
    assert (one.inputs["A"] == same.inputs["A"]).all()
    assert (one.inputs["A"] != other.inputs["A"]).all()
    assert one.inputs["B"].dtype == np.float16


def test_whole_numbers_fill_their_range():
    made = problem(TRANSPOSED, {"A": "int8", "B": "int8", "C": "int32"}, (64, 64, 64))
    assert (made.inputs["A"].min(), made.inputs["A"].max()) == (-127, 127)
    a, b = (made.inputs[name].astype(np.int64) for name in "AB")
    assert (made.expected()["C"] == a @ b.T).all()


def test_work_and_bytes():
    types = {"A": "bf16", "B": "bf16", "C": "fp32"}
    made = problem(TRANSPOSED, types, (3, 4, 5))
    assert made.flops == 2 * 3 * 4 * 5
    assert made.bytes(types) == 2 * (3 * 5 + 4 * 5) + 4 * 3 * 4


def test_whole_numbers_are_scaled_by_token_and_by_output_channel():
    types = {"X": "int8", "W": "int8", "SX": "fp32", "SW": "fp32", "Y": "fp16"}
    made = problem(SCALED_LAYER, types, (5, 6, 7))
    x, w, token, channel = (torch.from_numpy(made.inputs[name]).double() for name in ("X", "W", "SX", "SW"))
    y = ((x * token[:, None]) @ (w * channel[:, None]).T).numpy()
    np.testing.assert_allclose(made.expected()["Y"], y, rtol=1e-12)
    assert (made.expected(np.array([0, 4]))["Y"] == made.expected()["Y"][[0, 4]]).all()
    assert (token > 0).all()
    large = problem(SCALED_LAYER, types, (4, 4, 50_000)).expected()["Y"]
    assert np.abs(large).max() < 2000  # as a layer's: nowhere near the end of fp16


def test_a_layer_in_whole_numbers_rounds_each_token_to_its_own_steps():
    random = np.random.default_rng(0)
    weight = LowBit(8, random.integers(0, 256, (6, 40), np.uint8), np.full((6, 1), 0.01, np.float32),
                    np.full((6, 1), 128, np.float32), 40)  # fmt: skip
    x = random.standard_normal((3, 40), np.float32) * np.float32([[1], [1000], [0]])
    types = {"X": "int8", "W": "int8", "SX": "fp32", "SW": "fp32", "Y": "fp16"}
    made = scaled_layer(types, weight, x)
    assert (np.abs(made.inputs["X"]).max(1) == [127, 127, 0]).all()
    r = x.astype(float) @ weight.dequantize().T.astype(float)
    error = np.linalg.norm(made.expected()["Y"] - r, axis=1)
    assert (error[:2] < 0.02 * np.linalg.norm(r[:2], axis=1)).all()
    assert (made.expected()["Y"][2] == 0).all()
    assert made.distance(r) == pytest.approx(np.linalg.norm(error) / np.linalg.norm(r))


def test_what_a_type_does_not_hold_is_refused():
    with pytest.raises(Refused, match=r"an element of W is not finite in fp16: 7e\+04 is too large"):
        plain_layer({"X": "fp16", "W": "fp16", "Y": "fp16"}, np.full((2, 3), 7e4), np.ones((1, 3)))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_rows_with_a_pitch_hold_the_same_and_poison_between(dtype):
    array = problem(TRANSPOSED, {"A": dtype, "B": dtype, "C": "fp32"}, (3, 2, 5)).inputs["A"]
    wide = pitched(array, 16)
    assert wide.strides[0] == -(-5 * array.itemsize // 16) * 16
    assert (wide[:, :5] == array).all()
    if dtype != "int8":
        assert np.isnan(DTYPES[dtype].decode(np.ascontiguousarray(wide[:, 5:]))).all()
    assert pitched(array, 0) is array
    assert pitched(wide, 16).shape == wide.shape


def test_the_rational_function_and_its_gradient_are_autograds():
    """F = P / (1 + |Q|), coefficients by group: the Kolmogorov-Arnold Transformer's, equation 11."""
    M, N, groups = 9, 12, 3
    types = dict.fromkeys(("G", "X", "P", "Q", "DX", "DP", "DQ"), "fp32")
    made = problem(BACKWARD, types, (M, N, groups))
    x, p, q, g = (torch.from_numpy(made.dense[name]).requires_grad_() for name in ("X", "P", "Q", "G"))
    group = torch.arange(N) // (N // groups)
    powers = torch.stack([x**i for i in range(6)], -1)  # [M, N, 6]
    y = (powers * p[group]).sum(-1) / (1 + (powers[..., 1:5] * q[group]).sum(-1).abs())
    forward = OPS[RATIONAL].reference(made.dense, None)["Y"]
    assert np.allclose(forward, y.detach().numpy(), rtol=1e-12)
    y.backward(g.detach())
    for name, grad in (("DX", x.grad), ("DP", p.grad), ("DQ", q.grad)):
        assert np.allclose(made.expected()[name], grad.numpy(), rtol=1e-10), name


def test_every_op_says_the_shape_of_every_plain_operand():
    for op in OPS.values():
        shapes = op.shapes(3, 4, 5)
        assert set(op.outputs) <= set(op.operands) & set(shapes)
        assert op.flops(3, 4, 5) > 0
