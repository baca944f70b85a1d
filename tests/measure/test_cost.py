"""What a model costs: true bits over its layers, an unchanged embedding and head aside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.grid import Running
from workbench.measure import OutputError, storage

FC = 24 * 40  # each of up_proj and down_proj; embedding and head have 17 * 24


def test_an_unchanged_model_costs_its_dtype_and_the_embedding_counts_as_bytes_only(model):
    found = storage(model, {})
    assert found == {"bits_per_weight": 32.0, "bytes": 4 * (2 * FC + 2 * 17 * 24)}


def test_a_changed_layer_costs_its_codes_scales_and_zeros(model):
    rtn = wb.RTN(bits=4, granularity="channel")
    weights = wb.apply(model, wb.Recipe([wb.Step(rtn, "role:up")])).weights
    bits = 4 * FC + 40 * (16 + 4)
    found = storage(model, weights)
    assert found["bits_per_weight"] == pytest.approx((bits + 32 * FC) / (2 * FC))
    assert found["bytes"] == round(bits / 8) + 4 * (FC + 2 * 17 * 24)


def test_a_changed_embedding_counts(model):
    rtn = wb.RTN(bits=8, granularity="channel", symmetric=True)
    weights = wb.apply(model, wb.Recipe([wb.Step(rtn, "*, role:embed, role:head")])).weights
    bits = 8 * (2 * FC + 2 * 17 * 24) + 16 * (40 + 24 + 17 + 17)
    assert storage(model, weights)["bits_per_weight"] == pytest.approx(bits / (2 * FC + 2 * 17 * 24))


def test_a_model_of_embeddings_alone_is_counted_all_the_same():
    assert storage(wb.load(nn.ModuleDict({"wte": nn.Embedding(4, 4)})), {})["bits_per_weight"] == 32


def test_the_error_of_an_output_is_that_of_all_batches_together():
    generator = torch.Generator().manual_seed(0)
    w, change, x = (torch.randn(shape, generator=generator) for shape in ((5, 8), (5, 8), (33, 8)))
    total = OutputError(w, Running(w + change))
    assert total.value is None
    for part in x.split([1, 20, 12]):
        total.add(part)
    assert total.value == pytest.approx(((x @ change.T).norm() / (x @ w.T).norm()).item(), rel=1e-5)
