"""Recognising weights that lie on a grid already, and none where there is none."""

from __future__ import annotations

import pytest
import torch

from workbench.grid import Blocks, CompressedWeight, encode, fit, int_grid
from workbench.grid.detect import find_grid, sample_rows


def noise(out=64, inputs=512, seed=0):
    return torch.randn(out, inputs, generator=torch.Generator().manual_seed(seed)) * 0.02


def rounded(w, bits, size, symmetric=False, stored=torch.float32):
    blocks = Blocks.of((w.shape[0], w.shape[1]), "group", size)
    scale, zero = fit(w, blocks, bits, symmetric=symmetric)
    grid = int_grid(bits, symmetric)
    return (
        CompressedWeight(grid, encode(w, grid, blocks, scale, zero), blocks, scale, zero)
        .dequantize()
        .to(stored)
    )


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [False, True])
def test_sixteen_levels_in_every_group_are_found(symmetric, stored):
    for seed in range(5):
        found = find_grid(rounded(noise(seed=seed), 4, 32, symmetric, stored))
        assert found is not None
        assert (found.levels, found.block) == (16, 32)
        assert "16 levels in every 32 inputs" in str(found)


def test_the_block_is_the_largest_that_shares_the_levels():
    assert find_grid(rounded(noise(), 4, 128)).block == 128
    assert find_grid(rounded(noise(), 3, 64)).levels == 8
    assert find_grid(rounded(noise(), 3, 64)).block == 64


def test_int8_rows_are_found():
    found = find_grid(rounded(noise(inputs=4096), 8, -1, symmetric=True))
    assert (found.levels, found.block) == (256, 4096)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("inputs", [64, 256, 1000, 2048])
def test_random_weights_lie_on_no_grid(dtype, inputs):
    assert find_grid(noise(16, inputs).to(dtype)) is None
    assert (
        find_grid(torch.rand(16, inputs, generator=torch.Generator().manual_seed(1)).sub(0.5).to(dtype))
        is None
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_pruned_weights_lie_on_no_grid(dtype, sparsity):
    w = noise()
    w[torch.rand(w.shape, generator=torch.Generator().manual_seed(2)) < sparsity] = 0
    assert find_grid(w.to(dtype)) is None


@pytest.mark.parametrize("shape", [(4, 64), (3, 1), (5, 2)])
def test_zeros_are_no_grid(shape):
    assert find_grid(torch.zeros(shape)) is None


def test_the_sample_is_spread_over_all_rows():
    assert sample_rows(1000).tolist()[::15] == [0, 999]
    assert len(sample_rows(1000)) == 16
    assert sample_rows(3).tolist() == [0, 1, 2]
