"""Wanda and SparseGPT: masks as their references choose them, errors as the cards say."""

from __future__ import annotations

import pytest
import torch

import workbench as wb
from workbench.errors import Refused
from workbench.methods import Statistics


def statistics(x: torch.Tensor) -> Statistics:
    return Statistics(len(x), mean_square=x.square().mean(0), hessian=x.T @ x / len(x), sample=x)


def correlated(seed: int, out: int = 24, inputs: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(512, inputs, generator=g) @ torch.randn(inputs, inputs, generator=g)
    return torch.randn(out, inputs, generator=g), x


def output_error(w, made, x) -> float:
    return ((x @ (made.dequantize() - w).T).norm() ** 2 / (x @ w.T).norm() ** 2).item()


GOLDEN = torch.tensor([[4.0, 0, 1, -1], [3, -2, -1, -3], [-3, 1, 0, 2]])
NORMS = Statistics(1, mean_square=torch.tensor([1.0, 2, 8, 3]) ** 2)


def test_golden_masks_of_wanda_and_of_magnitude_beside_it():
    assert wb.Wanda().compress(GOLDEN, NORMS).dequantize().tolist() == [
        [4, 0, 1, 0],
        [0, 0, -1, -3],
        [-3, 0, 0, 2],
    ]
    rows = wb.Magnitude(scope="row").compress(GOLDEN).dequantize()
    assert rows.tolist() == [[4, 0, 0, -1], [3, 0, 0, -3], [-3, 0, 0, 2]]


@pytest.mark.parametrize("n_m", [None, (2, 4), (4, 8)])
def test_wanda_against_the_reference_procedure(n_m):
    """Sun et al.'s prune.py: a stable sort of |w| sqrt(mean x^2) in each row, or in each run of M."""
    w, x = correlated(0)
    made = wb.Wanda(sparsity=0.5, n_m=n_m).compress(w, statistics(x))
    score = w.abs() * x.square().mean(0).sqrt()
    mask = torch.ones_like(w, dtype=torch.bool)
    for row in range(len(w)):
        for start in range(0, 32, 32 if n_m is None else n_m[1]):
            stop = start + (32 if n_m is None else n_m[1])
            removed = 16 if n_m is None else n_m[1] - n_m[0]
            mask[row, start + score[row, start:stop].sort(stable=True).indices[:removed]] = False
    assert torch.equal(made.mask, mask)
    assert torch.equal(made.dequantize()[mask], w[mask])


def test_wanda_does_not_mind_the_loudness_of_all_inputs_and_is_magnitude_for_equal_ones():
    w, x = correlated(1)
    assert torch.equal(
        wb.Wanda().compress(w, statistics(x)).mask, wb.Wanda().compress(w, statistics(100 * x)).mask
    )
    equal = Statistics(1, mean_square=torch.full((32,), 7.0))
    assert torch.equal(wb.Wanda().compress(w, equal).mask, wb.Magnitude(scope="row").compress(w).mask)


def test_wanda_is_idempotent_and_every_row_loses_as_much():
    w, x = correlated(2)
    once = wb.Wanda(sparsity=0.3).compress(w, statistics(x))
    again = wb.Wanda(sparsity=0.3).compress(once.dequantize(), statistics(x))
    assert torch.equal(once.dequantize(), again.dequantize())
    assert (~once.mask).sum(1).unique().tolist() == [9]


def test_golden_of_sparsegpt():
    x = torch.tensor([[1.0, 1], [1, 0], [0, 1]])
    w = torch.tensor([[0.1, 1.0]])
    made = wb.SparseGPT(n_m=(1, 2), damp=0).compress(w, statistics(x))
    # Stored as halves.
    torch.testing.assert_close(made.dequantize(), torch.tensor([[0, 1.05]]), atol=5e-4, rtol=0)
    assert made.report.curves["output error^2"][-1] == pytest.approx(0.005, abs=1e-6)
    assert (x @ (made.dequantize() - w).T).square().sum().item() == pytest.approx(0.015, abs=1e-4)


def reference_sparsegpt(w, x, sparsity, n_m, block=128, damp=0.01):
    """Frantar and Alistarh's algorithm 1 written out in float64, one column after another."""
    w = w.double().clone()
    h = (x.T @ x / len(x)).double()
    h += damp * h.diagonal().mean() * torch.eye(len(h), dtype=torch.float64)
    u = torch.linalg.cholesky(torch.linalg.inv(h), upper=True)
    mask = torch.ones_like(w, dtype=torch.bool)
    for first in range(0, w.shape[1], block):
        last = min(first + block, w.shape[1])
        if n_m is None:
            score = (w[:, first:last] / u.diagonal()[first:last]) ** 2
            order = score.flatten().argsort(stable=True)[: int(score.numel() * sparsity)]
            part = torch.ones(score.numel(), dtype=torch.bool)
            part[order] = False
            mask[:, first:last] = part.view(score.shape)
        for i in range(first, last):
            if n_m is not None and i % n_m[1] == 0:
                score = (w[:, i : i + n_m[1]] / u.diagonal()[i : i + n_m[1]]) ** 2
                for row in range(len(w)):
                    mask[row, i + score[row].argsort(stable=True)[: n_m[1] - n_m[0]]] = False
            q = w[:, i] * mask[:, i]
            error = (w[:, i] - q) / u[i, i]
            w[:, i + 1 :] -= error[:, None] * u[i, i + 1 :]
            w[:, i] = q
    return w.float(), mask


@pytest.mark.parametrize(("sparsity", "n_m"), [(0.5, None), (0.7, None), (0.5, (2, 4)), (0.5, (4, 8))])
def test_sparsegpt_against_the_algorithm_written_out(sparsity, n_m):
    w, x = correlated(3, 24, 64)
    made = wb.SparseGPT(sparsity=sparsity, n_m=n_m, block_size=32).compress(w, statistics(x))
    expected, mask = reference_sparsegpt(w, x, sparsity, n_m, 32)
    assert torch.equal(made.mask, mask)
    torch.testing.assert_close(made.dequantize(), expected, atol=3e-3, rtol=2e-3)


@pytest.mark.parametrize("seed", range(6))
def test_at_two_of_four_sparsegpt_has_the_largest_weight_error_and_the_smallest_output_error(seed):
    w, x = correlated(seed, 48, 64)
    known = statistics(x)
    made = [kind(n_m=(2, 4)).compress(w, known) for kind in (wb.Magnitude, wb.Wanda, wb.SparseGPT)]
    weight = [(m.dequantize() - w).norm().item() for m in made]
    output = [output_error(w, m, x) for m in made]
    assert weight[0] < weight[1] < weight[2]
    assert output[2] == min(output)


def test_no_weights_with_the_same_mask_do_better_than_least_squares():
    w, x = correlated(4)
    made = wb.SparseGPT(damp=1e-4).compress(w, statistics(x))
    best = torch.zeros_like(w)
    for row in range(len(w)):
        kept = made.mask[row]
        best[row, kept] = torch.linalg.lstsq(x[:, kept].double(), (x @ w[row]).double()).solution.float()
    least = (x @ (best - w).T).square().sum()
    found = (x @ (made.dequantize() - w).T).square().sum()
    zeroed = (x @ (w * made.mask - w).T).square().sum()
    assert least <= found * 1.001
    assert least <= zeroed


def test_joint_rounding_keeps_the_mask_and_beats_wanda_rounded_to_nearest():
    w, x = correlated(5, 48, 64)
    known = statistics(x)
    joint = wb.SparseGPT(n_m=(2, 4), bits=4, group_size=32).compress(w, known)
    after = wb.compress(w, [wb.Wanda(n_m=(2, 4)), wb.RTN(bits=4, group_size=32)], known)
    assert joint.sparsity == 0.5
    assert joint.n_m == (2, 4)
    assert output_error(w, joint, x) < output_error(w, after, x)
    assert joint.bits_per_weight < 4


def test_the_ends_and_what_does_not_compose():
    w, x = correlated(6)
    known = statistics(x)
    torch.testing.assert_close(
        wb.SparseGPT(sparsity=0).compress(w, known).dequantize(), w, atol=2e-3, rtol=1e-3
    )
    assert wb.SparseGPT(sparsity=1).compress(w, known).dequantize().count_nonzero() == 0
    assert wb.Wanda(sparsity=1).compress(w, known).dequantize().count_nonzero() == 0
    with pytest.raises(Refused, match="needs mean_square of the inputs: give calibration"):
        wb.Wanda().compress(w)
    with pytest.raises(Refused, match="rounds already while it prunes"):
        wb.plan(wb.load("tiny-llama"), wb.Recipe([wb.SparseGPT(bits=4), wb.RTN()]))


def test_what_was_removed_before_counts_in_a_run_of_n_of_m():
    x, w = torch.randn(64, 16), torch.randn(8, 16)
    made = wb.compress(w, [wb.Magnitude(n_m=(2, 4)), wb.SparseGPT(n_m=(2, 4))], statistics(x))
    assert made.sparsity == 0.5


@pytest.mark.parametrize("size", [1e-7, 1e-15, 1.0])
def test_small_weights_are_not_lost_in_half_precision(size):
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(64, 16, generator=g), torch.randn(8, 16, generator=g)
    made = wb.SparseGPT().compress(w * size, statistics(x)).dequantize() / size
    torch.testing.assert_close(
        made, wb.SparseGPT().compress(w, statistics(x)).dequantize(), rtol=2e-3, atol=2e-3
    )
