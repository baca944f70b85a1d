"""Calibration statistics: streamed over uneven batches, equal to those of all inputs at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.engine import collect
from workbench.engine.statistics import SAMPLE
from workbench.methods import NEEDS


def batches(sizes, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, *shape, generator=generator) * (i + 1) for i, n in enumerate(sizes)]


@pytest.fixture
def linear():
    return wb.load(nn.Sequential(nn.Linear(6, 4)), task="classification")


def test_streamed_over_uneven_batches_they_are_those_of_all_rows(linear):
    parts = batches([3, 50, 1, 17], (6,))
    found = collect(linear, list(linear.layers), NEEDS, parts)["0"]
    x = torch.cat(parts)
    assert found.tokens == 71
    torch.testing.assert_close(found.mean_abs, x.abs().mean(0))
    torch.testing.assert_close(found.mean_square, x.square().mean(0))
    assert torch.equal(found.max_abs, x.abs().amax(0))
    torch.testing.assert_close(found.hessian, x.T @ x / len(x))


def test_only_what_is_asked_for_is_collected(linear):
    found = collect(linear, list(linear.layers), {"max_abs"}, batches([4], (6,)))["0"]
    assert found.max_abs is not None
    assert all(getattr(found, need) is None for need in set(NEEDS) - {"max_abs"})


def test_tokens_of_all_windows_are_rows(model, module):
    ids = [torch.arange(8).reshape(1, 8), torch.arange(30).reshape(3, 10) % 20]
    layer = model.layer("layers.0.up_proj")
    found = collect(model, [layer], {"mean_square", "hessian"}, ids)[layer.name]
    x = torch.cat([module.embed_tokens(batch).reshape(-1, 32) for batch in ids]).detach()
    assert found.tokens == 38
    torch.testing.assert_close(found.mean_square, x.square().mean(0))
    torch.testing.assert_close(found.hessian, x.T @ x / 38)


def test_a_convolutions_rows_are_its_patches():
    module = nn.Sequential(nn.Conv2d(2, 3, 2, stride=2))
    model = wb.load(module, task="classification")
    (image,) = batches([1], (2, 4, 4))
    found = collect(model, list(model.layers), {"mean_abs"}, [image])["0"]
    assert found.tokens == 4
    patches = [image[0, :, i : i + 2, j : j + 2].flatten() for i in (0, 2) for j in (0, 2)]
    torch.testing.assert_close(found.mean_abs, torch.stack(patches).abs().mean(0))


def test_the_inputs_are_those_of_the_model_with_its_overlays(model):
    up, down = model.layer("layers.0.up_proj"), model.layer("layers.0.down_proj")
    over = wb.apply(model, wb.Recipe([wb.Step(wb.Magnitude(sparsity=1), up.name)])).model
    ids = [torch.arange(20).reshape(2, 10)]
    changed = collect(over, [down], {"mean_square"}, ids)[down.name].mean_square
    bias = model.runner.module.layers[0]["up_proj"].bias
    torch.testing.assert_close(changed, torch.relu(bias).square())
    assert not torch.allclose(changed, collect(model, [down], {"mean_square"}, ids)[down.name].mean_square)


@pytest.mark.parametrize("sizes", [[5], [300], [100] * 20, [1, 10_000], [10_000, 1], [3] * 200])
def test_the_sample_is_bounded_and_from_all_of_the_text(linear, sizes):
    parts = batches(sizes, (6,))
    sample = collect(linear, list(linear.layers), {"sample"}, parts)["0"].sample
    rows = {tuple(row.tolist()): i for i, part in enumerate(parts) for row in part}
    came_from = [rows[tuple(row.tolist())] for row in sample]  # every row is one of the inputs
    assert min(sum(sizes), SAMPLE) * 0.5 <= len(sample) <= SAMPLE
    assert max(came_from) == len(sizes) - 1
    if len(sizes) == 20:
        assert len(set(came_from)) >= 15


def test_layers_without_input_rows_are_absent_and_steps_are_told(model):
    steps = []
    ids = [torch.arange(8).reshape(1, 8)] * 3
    found = collect(model, list(model.layers), {"max_abs"}, ids, steps.append)
    assert "embed_tokens" not in found
    assert len(found) == 4
    assert steps == [1, 2, 3]


def test_they_can_be_changed_in_place_by_a_method(linear):
    found = collect(linear, list(linear.layers), {"hessian"}, batches([4], (6,)))["0"]
    found.hessian.diagonal().add_(1)
    found.hessian[0, 0] = 1
