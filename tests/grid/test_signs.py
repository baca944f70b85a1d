"""Binary and ternary grids and their scales."""

from __future__ import annotations

import pytest
import torch

from workbench.grid import Blocks, Scheme
from workbench.grid.signs import Binary, Ternary, mean_of_large, mean_size

W = torch.tensor([[0.5, -0.2, 0.1, -0.8], [0.3, 0.3, -0.6, 0.2]])


def test_golden_rows_of_the_binary_grid():
    # BiBench, DoReFa: alpha = mean |w| of the row.
    made = Scheme(format="binary", granularity="channel", scale_dtype="float32").quantize(W)
    assert made.scale.flatten().tolist() == pytest.approx([0.4, 0.35])
    assert made.codes.tolist() == [[1, 0, 1, 0], [1, 1, 0, 1]]
    # The card's product takes signs of the input as well.
    x = torch.tensor([0.7, -1.5, 0.2, -0.1]).sign()
    assert (made.dequantize() @ x).tolist() == pytest.approx([1.6, -0.7])


def test_the_mean_is_the_best_scale_for_the_signs():
    errors = [(W[0] - a * W[0].sign()).square().sum().item() for a in (0.3, 0.4, 0.5)]
    assert errors == pytest.approx([0.34, 0.30, 0.34], abs=1e-6)
    assert mean_size(W[:1], Blocks.of((1, 4), "channel")).item() == pytest.approx(0.4)


def test_the_sign_of_zero_is_1_also_of_negative_zero():
    assert Binary().encode(torch.tensor([0.0, -0.0, 1e-45, -1e-45, -1.0])).tolist() == [1, 1, 1, 0, 0]
    assert Binary().values.tolist() == [-1, 1]
    assert Binary().code_bits == 1


def test_the_ternary_scale_is_the_mean_of_the_large_weights():
    w = torch.tensor([[1.0, -2.0, 0.1, -0.2, 3.0, 0.3]])  # mean 1.1, threshold 0.77
    assert mean_of_large(w, Blocks.of((1, 6), "channel")).item() == pytest.approx(2.0)
    made = Scheme(format="ternary", granularity="channel").quantize(w)
    assert made.dequantize().tolist() == [[0, -2, 0, 0, 2, 0]]  # 1 lies half way between 0 and 2: even
    assert made.grid.code_bits == 2


def test_the_nearest_value_is_never_worse_than_the_cut_of_the_paper():
    w = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    made = Scheme(format="ternary", granularity="channel", scale_dtype="float32").quantize(w)
    cut = made.scale * w.sign() * (w.abs() > 0.7 * w.abs().mean(1, keepdim=True))
    error, of_cut = (((v - w) ** 2).sum(1) for v in (made.dequantize(), cut))
    assert (error <= of_cut * (1 + 1e-6)).all()
    assert of_cut.sum() < error.sum() * 1.02  # and hardly better


def test_a_block_of_zeros_stays_zeros_on_the_ternary_grid():
    assert Scheme(format="ternary").quantize(torch.zeros(3, 70)).dequantize().count_nonzero() == 0
    assert Ternary().encode(torch.tensor([-0.5, 0.5, 0.51, -0.51])).tolist() == [1, 1, 2, 0]


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group", "input", "block"])
def test_the_scales_are_means_over_any_blocks(granularity):
    w = torch.randn(20, 30, generator=torch.Generator().manual_seed(1))
    blocks = Blocks.of((20, 30), granularity, 7)
    scale = mean_size(w, blocks)
    part = w[: blocks.rows, : blocks.columns]
    assert scale[0, 0].item() == pytest.approx(part.abs().mean().item(), rel=1e-6)
    last = w[(blocks.counts[0] - 1) * blocks.rows :, (blocks.counts[1] - 1) * blocks.columns :]
    assert scale[-1, -1].item() == pytest.approx(last.abs().mean().item(), rel=1e-6)
