"""Blocks: who shares a scale. Reduce and expand against loops, ragged ends included."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.grid import Blocks


def test_granularities_are_blocks():
    assert Blocks.of((6, 10), "tensor") == Blocks((6, 10), 6, 10)
    assert Blocks.of((6, 10), "channel", 4) == Blocks((6, 10), 1, 10)
    assert Blocks.of((6, 10), "group", 4) == Blocks((6, 10), 1, 4)
    assert Blocks.of((6, 10), "group", -1) == Blocks.of((6, 10), "group", 10) == Blocks((6, 10), 1, 10)


def test_ragged_says_whether_the_last_block_is_smaller():
    assert Blocks((6, 10), 1, 4).ragged
    assert Blocks((6, 10), 4, 5).ragged
    assert not Blocks((6, 10), 2, 5).ragged


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 13), st.integers(1, 13), st.integers(1, 15), st.integers(1, 15), st.integers(0, 99))
def test_reduce_and_expand_are_what_loops_would_do(out, inputs, rows, columns, seed):
    blocks = Blocks((out, inputs), min(rows, out), min(columns, inputs))
    w = torch.randn(out, inputs, generator=torch.Generator().manual_seed(seed)).double()
    assert blocks.counts == (math.ceil(out / blocks.rows), math.ceil(inputs / blocks.columns))
    for how in ("amin", "amax", "sum"):
        found = blocks.reduce(w, how)
        assert found.shape == blocks.counts
        for i in range(blocks.counts[0]):
            for j in range(blocks.counts[1]):
                part = w[
                    i * blocks.rows : (i + 1) * blocks.rows, j * blocks.columns : (j + 1) * blocks.columns
                ]
                assert found[i, j].item() == pytest.approx(getattr(torch, how)(part).item(), abs=1e-12)
    numbered = torch.arange(math.prod(blocks.counts)).reshape(blocks.counts)
    expanded = blocks.expand(numbered)
    assert expanded.shape == (out, inputs)
    assert all(
        expanded[i, j] == numbered[i // blocks.rows, j // blocks.columns]
        for i in range(out)
        for j in range(inputs)
    )
