"""Scheme: what every format does under every granularity, its true bits, and what is refused."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.errors import Refused
from workbench.grid import Scheme
from workbench.grid.formats import FIXED_BLOCKS, FORMATS, OFFERED

SHAPE = (40, 1024)
W = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)) * 0.1
GRANULARITIES = ("group", "channel", "tensor", "input", "block")


@pytest.mark.parametrize(
    ("fields", "bits"),
    [
        ({"bits": 4, "group_size": 128}, 4 + (16 + 4) / 128),
        ({"bits": 3, "group_size": 128}, 3 + (16 + 3) / 128),
        ({"bits": 4, "symmetric": True, "group_size": 64}, 4 + 16 / 64),
        ({"bits": 4, "granularity": "channel"}, 4 + (16 + 4) / 1024),
        ({"bits": 4, "granularity": "input", "group_size": 20}, 4 + (16 + 4) / 20),
        ({"bits": 8, "granularity": "tensor", "symmetric": True}, 8 + 16 / W.numel()),
        ({"bits": 4, "granularity": "block", "group_size": 8, "symmetric": True}, 4 + 16 / 64),
        ({"format": "nf4", "scale_dtype": "float32"}, 4.5),
        ({"format": "nf4", "double_quant": True}, 4.126953125),
        ({"format": "e4m3", "granularity": "tensor"}, 8 + 16 / W.numel()),
        ({"format": "mxfp4"}, 4.25),
        ({"format": "mxfp6"}, 6.25),
        ({"format": "mxfp8"}, 8.25),
        ({"format": "mxint8"}, 8.25),
        ({"format": "nvfp4"}, 4.5 + 32 / W.numel()),
        ({"format": "binary"}, 1 + 16 / 64),
    ],
    ids=str,
)
def test_true_bits_per_weight(fields, bits):
    assert Scheme(**fields).quantize(W).bits_per_weight == pytest.approx(bits, rel=2e-3)


def test_ternary_is_counted_as_it_could_be_stored():
    bits = Scheme(format="ternary").quantize(W).bits_per_weight
    assert 1.58 + 0.25 < bits <= 2 + 0.25


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("format", OFFERED)
def test_what_is_decoded_is_encoded_again_as_it_was(format, granularity):
    """Ragged blocks on both sides: 21 is no multiple of 8, 100 none of 16 or 32."""
    w = W[:21, :100].contiguous()
    fit = Scheme(format=format, bits=3, granularity=granularity, group_size=8).fit(w)
    made = fit.encode(w)
    values = made.dequantize()
    again = fit.encode(values).dequantize()
    assert torch.equal(values, again)
    assert values.unique().numel() <= 2**made.grid.code_bits * max(1, made.scales.numel())
    if format not in FIXED_BLOCKS:
        rows, columns = {
            "group": (21, 13),
            "channel": (21, 1),
            "tensor": (1, 1),
            "input": (3, 100),
            "block": (3, 13),
        }[granularity]
        assert made.scales.shape == (rows, columns)


def test_groups_inside_an_input_channel_share_a_scale_along_the_output():
    w = torch.ones(8, 4)
    w[:4, 0], w[4:, 0] = 8.0, 2.0  # two groups of four outputs in the first input
    made = Scheme(bits=4, symmetric=True, granularity="input", group_size=4, scale_dtype="float32").fit(w)
    torch.testing.assert_close(made.scale, torch.tensor([[8.0, 1, 1, 1], [2.0, 1, 1, 1]]) / 7)


def test_per_input_groups_are_groups_of_the_transpose():
    across = Scheme(bits=4, granularity="input", group_size=8).quantize(W)
    along = Scheme(bits=4, group_size=8).quantize(W.T.contiguous())
    assert torch.equal(across.dequantize(), along.dequantize().T)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in OFFERED])
def test_every_other_minifloat_is_a_format(name):
    made = Scheme(format=name).quantize(W)
    assert float((made.dequantize() - W).norm() / W.norm()) < 0.5


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"format": "nf5"}, "no such format"),
        ({"format": "e9m9"}, "no such format"),
        ({"bits": 1, "symmetric": True}, "leaves no level but 0: take format: binary"),
        ({"format": "power", "bits": 1}, "no level but 0"),
        ({"format": "power", "exponent": 0.1}, "0.2 to 1.5, or 0"),
        ({"symmetric": True, "convention": "signed", "scale_rounding": "po2"}, "a power of two has no sign"),
        ({"group_size": 1}, "at least 2"),
    ],
    ids=str,
)
def test_what_makes_no_grid_is_refused(fields, reason):
    for make in (Scheme, wb.RTN):
        with pytest.raises(Refused, match=reason):
            make(**fields)


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({}, "4 g64"),
        ({"bits": 3, "symmetric": True, "scale_search": "activation"}, "3 g64 sym act"),
        ({"format": "nf4"}, "nf4 g64"),
        ({"format": "mxfp4"}, "mxfp4"),
        ({"granularity": "input", "group_size": -1}, "4 input"),
        ({"granularity": "block", "group_size": 16}, "4 16x16"),
        ({"format": "kmeans", "bits": 3}, "kmeans3 g64"),
    ],
    ids=str,
)
def test_labels_are_short_and_say_what_differs(fields, label):
    assert Scheme(**fields).scheme_label == label
    assert wb.RTN(**fields).label == f"rtn {label}"


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"granularity": "input", "group_size": 64}, "group_size 64 is beyond out = 40: one group a column"),
        ({"granularity": "block", "group_size": 32}, "the last group of a column has 8"),
        ({"format": "mxfp4"}, ""),
        ({"granularity": "tensor"}, ""),
    ],
    ids=str,
)  # fmt: skip
def test_shapes_are_judged_on_the_side_that_is_grouped(fields, note):
    skip, said = Scheme(**fields).judge_shape(SHAPE)
    assert not skip
    assert said.endswith(note)
    assert bool(said) == bool(note)


def test_blocks_that_do_not_divide_are_noted_or_left_out():
    assert "blocks of 32 do not divide in = 100" in Scheme(format="mxfp4").judge_shape((8, 100))[1]
    assert "ragged: true" in Scheme(format="mxfp4", ragged=False).judge_shape((8, 100))[0]


def test_more_than_half_precision_is_kept_where_half_would_lose():
    tiny = W * 1e-9
    made = Scheme(bits=4).quantize(tiny)
    assert made.scale.dtype == torch.float32
    assert float((made.dequantize() - tiny).norm() / tiny.norm()) < 0.15
