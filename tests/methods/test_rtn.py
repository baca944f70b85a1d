"""Round to nearest as a method: what its parameters do, and what it says of a layer before the work."""

from __future__ import annotations

import pytest
import torch

from workbench.methods.quantize.rtn import RTN

W = torch.randn(8, 96, generator=torch.Generator().manual_seed(0))


def test_golden_numbers_through_the_method():
    w = torch.tensor([[0.9, -0.4, 0.25, -1.1]])
    made = RTN(bits=4, granularity="channel", scale_dtype="float32").compress(w)
    assert made.codes.tolist() == [[15, 5, 10, 0]]
    assert made.dequantize().tolist()[0] == pytest.approx([0.933333, -0.4, 0.266667, -1.066667], abs=1e-6)
    made = RTN(bits=3, symmetric=True, scale_dtype="float32").compress(w)
    assert made.dequantize().tolist()[0] == pytest.approx([0.733333, -0.366667, 0.366667, -1.1], abs=1e-6)


def test_the_granularity_decides_and_the_group_size_only_within_groups():
    assert RTN(granularity="tensor").compress(W).scale.shape == (1, 1)
    assert RTN(granularity="channel", group_size=32).compress(W).scale.shape == (8, 1)
    assert RTN(granularity="group", group_size=32).compress(W).scale.shape == (8, 3)
    assert RTN(group_size=-1).compress(W).scale.shape == (8, 1)


def test_the_convention_matters_for_symmetric_grids_only():
    assert (
        len(
            {
                RTN(symmetric=True, convention=c).compress(W).scale[0, 0].item()
                for c in ("narrow", "half_step", "signed")
            }
        )
        == 3
    )
    asymmetric = [RTN(convention=c).compress(W).codes for c in ("narrow", "half_step", "signed")]
    assert torch.equal(asymmetric[0], asymmetric[1])
    assert torch.equal(asymmetric[0], asymmetric[2])


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_scales_are_stored_as_asked(name):
    assert RTN(scale_dtype=name).compress(W).scale.dtype == getattr(torch, name)


def test_a_ragged_group_is_noted_or_left_out_with_the_way_out():
    note = RTN(group_size=64).judge((8, 96)).note
    assert "group_size 64 does not divide in = 96" in note
    assert "has 32" in note
    skip = RTN(group_size=64, ragged=False).judge((8, 96)).skip
    assert "group_size 64 does not divide in = 96; take 32, -1 or ragged: true" in skip
    assert not RTN(group_size=64, ragged=False).judge((8, 128)).skip
    assert "one group a row" in RTN(group_size=128, ragged=False).judge((8, 96)).note
    for whole in (RTN(group_size=-1, ragged=False), RTN(granularity="channel", ragged=False)):
        assert whole.judge((8, 97)) == RTN().judge((8, 128))


def test_labels_tell_grids_apart():
    methods = (RTN(), RTN(group_size=-1), RTN(bits=8, granularity="tensor"), RTN(bits=3, symmetric=True))
    assert [m.label for m in methods] == ["rtn 4 g64", "rtn 4 channel", "rtn 8 tensor", "rtn 3 g64 sym"]
