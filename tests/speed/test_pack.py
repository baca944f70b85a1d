"""Packings: what went in comes out, and the golden index of the T-MAC paper's layout."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.speed.pack import LowBit, Runs, pack_planes, pack_steps, unpack_planes, unpack_steps

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 300), st.integers(1, 200), st.integers(0, 99))


def low_bit(bits: int, N: int, K: int, group: int, seed: int) -> LowBit:
    random = np.random.default_rng(seed)
    groups = -(-K // group)
    return LowBit(
        bits,
        random.integers(0, 2**bits, (N, K), dtype=np.uint8),
        random.uniform(0.5, 1, (N, groups)).astype(np.float32),
        random.integers(0, 2**bits, (N, groups)).astype(np.float32),
        group,
    )


@pytest.mark.parametrize("bits", range(1, 9))
@settings(max_examples=15, deadline=None)
@given(SHAPES)
def test_steps_come_back(bits, shape):
    codes = low_bit(bits, *shape).in_runs(rows=16, block=32)
    packed = pack_steps(codes, bits)
    assert packed.size * 8 == codes.size * bits  # nothing is wasted
    assert (unpack_steps(packed, bits) == codes).all()


@pytest.mark.parametrize("bits", range(1, 5))
@settings(max_examples=15, deadline=None)
@given(SHAPES)
def test_planes_come_back(bits, shape):
    codes = low_bit(bits, *shape).in_runs(rows=32, block=16)
    packed = pack_planes(codes, bits)
    assert packed.size * 8 == codes.size * bits
    assert (unpack_planes(packed, bits) == codes).all()


def test_the_bits_of_four_neighbours_are_one_index():
    """T-MAC's example: codes -8, -1, 0, 7 are 0, 7, 8, 15; planes from the lowest (0,1,0,1) three times, (0,0,1,1)."""
    codes = np.zeros((1, 32, 1, 16), np.uint8)
    codes[0, 0, 0, :4] = [0, 7, 8, 15]
    packed = pack_planes(codes, 4)[0, 0]
    assert [packed[0], packed[1], packed[128], packed[129]] == [10, 10, 10, 12]
    assert np.count_nonzero(packed) == 4


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1000), st.integers(1, 400))
def test_runs_cover_the_inputs_and_keep_to_their_group(K, group):
    runs = Runs.of(K, group)
    assert runs.starts[0] == 0
    assert runs.starts[-1] == K
    for r, (a, b) in enumerate(zip(runs.starts, runs.starts[1:], strict=False)):
        assert 1 <= b - a <= 128
        assert a // group == (b - 1) // group == runs.group[r]


def test_a_group_of_a_whole_row_is_cut_evenly():
    assert Runs.of(300, 300).starts == (0, 100, 200, 300)
    assert Runs.of(300, 128).starts == (0, 128, 256, 300)
