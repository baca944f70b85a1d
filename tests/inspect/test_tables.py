"""Measures as tables: columns with units, and numbers that are right."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import workbench as wb
from workbench import inspect
from workbench.errors import Refused
from workbench.measure import MODEL_COLUMNS, WEIGHT_COLUMNS, Evaluation, Quality

DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture(scope="module")
def variant(llama):
    return wb.apply(llama, wb.Recipe([wb.RTN(bits=3), wb.Magnitude(sparsity=0.25)]))


def test_layers_has_a_row_for_each_changed_layer(llama, variant):
    frame = inspect.layers(variant)
    assert list(frame.columns) == list(WEIGHT_COLUMNS)
    assert frame.attrs["columns"] == WEIGHT_COLUMNS
    assert list(frame["name"]) == [layer.name for layer in llama.layers if layer.role != "embed"]
    assert frame["output_relative_error"].isna().all()
    assert set(frame["method"]) == {"rtn 3 g64 + magnitude 25 %"}
    row = frame.set_index("name").loc[DOWN]
    w, v = llama.base_weight(DOWN).double(), variant.weights[DOWN].dequantize().double()
    assert row["relative_error"] == pytest.approx(((v - w).norm() / w.norm()).item(), rel=1e-5)
    assert row["cosine"] == pytest.approx(
        torch.cosine_similarity(w.flatten(), v.flatten(), 0).item(), rel=1e-5
    )
    assert row["sparsity"] == pytest.approx(0.25, abs=0.001)
    assert row["bytes"] == variant.weights[DOWN].nbytes


def test_the_unchanged_model_has_no_changed_layers(llama, data):
    frame = inspect.layers(llama, data)
    assert list(frame.columns) == list(WEIGHT_COLUMNS)
    assert frame.empty


def test_the_output_error_is_that_of_the_layer_on_the_unchanged_activations(
    llama, llama_folder, data, variant
):
    from transformers import LlamaForCausalLM

    network = LlamaForCausalLM.from_pretrained(llama_folder, dtype=torch.float32).eval()
    seen = []
    network.get_submodule(DOWN).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(data.inputs)
    x, w = seen[0].flatten(0, 1), llama.base_weight(DOWN)
    change = x @ (variant.weights[DOWN].dequantize() - w).T
    frame = inspect.layers(variant, data).set_index("name")
    assert frame.loc[DOWN, "output_relative_error"] == pytest.approx(
        (change.norm() / (x @ w.T).norm()).item(), rel=1e-3
    )
    assert frame["output_relative_error"].between(0, 2).all()


def test_layers_tells_its_progress(variant):
    job = wb.Job(lambda job: inspect.layers(variant, job=job))
    assert len(job.run()) == job.total == job.done + 1


def test_layer_is_what_a_method_does_to_one_layer(llama):
    frame = inspect.layer(llama, DOWN + ".weight", wb.RTN(bits=4, group_size=32))
    assert len(frame) == 1
    assert [*frame.columns] == [c for c in WEIGHT_COLUMNS if c != "output_relative_error"]
    assert frame.attrs["columns"].items() <= WEIGHT_COLUMNS.items()
    row = frame.iloc[0]
    change = wb.apply(llama, wb.Recipe([wb.Step(wb.RTN(bits=4, group_size=32), DOWN)]))
    same = inspect.layers(change).iloc[0]
    for name in frame.columns:
        assert row[name] == same[name] or (pd.isna(row[name]) and pd.isna(same[name]))


def test_layer_refuses_what_cannot_be_done(llama):
    with pytest.raises(Refused, match=r"down_proj: group_size 100 does not divide in = 176"):
        inspect.layer(llama, DOWN, wb.RTN(group_size=100, ragged=False))
    with pytest.raises(Refused, match=r"no layer 'down_proj'; near: model.layers.0.mlp.down_proj"):
        inspect.layer(llama, "down_proj", wb.RTN())


def test_model_of_the_unchanged_one_is_no_distance_away(llama, data):
    frame = inspect.model(llama, data)
    row = frame.iloc[0]
    assert (row["kl"], row["top1_agreement"], row["bits_per_weight"]) == (0, 1, 32)
    assert row["perplexity"] > 1
    assert set(frame.columns) == set(MODEL_COLUMNS) - {"accuracy"}
    assert frame.attrs["columns"].items() <= MODEL_COLUMNS.items()
    assert frame.attrs["data"] == data.what


def test_model_measures_get_worse_with_fewer_bits_and_a_quality_is_kept_between_calls(llama, data):
    quality = Quality(llama, data)
    rows = [
        inspect.model(wb.apply(llama, wb.Recipe([wb.RTN(bits=bits)])), quality).iloc[0] for bits in (8, 4, 2)
    ]
    assert [r["kl"] for r in rows] == sorted(r["kl"] for r in rows)
    assert rows[0]["kl"] > 0
    assert rows[0]["top1_agreement"] > rows[2]["top1_agreement"]
    assert [r["bits_per_weight"] for r in rows] == sorted((r["bits_per_weight"] for r in rows), reverse=True)


def test_a_model_with_overlays_is_measured_as_its_variant(llama, data, variant):
    assert inspect.model(variant.model, data).equals(inspect.model(variant, data))
    assert inspect.measured(variant, data).measures == inspect.model(variant, data).iloc[0].to_dict()


def test_a_classifier_has_an_accuracy():
    network = wb.load("tiny-resnet")
    test = wb.evaluation(network)
    few = Evaluation(test.inputs[:100], test.labels[:100], "100 images", 50)
    frame = inspect.model(network, few)
    assert frame["accuracy"][0] > 0.5  # by chance: 0.1
    assert "perplexity" not in frame.columns
    coarse = inspect.model(wb.apply(network, wb.Recipe([wb.RTN(bits=2)])), few)
    assert coarse["kl"][0] > 0
    assert (
        inspect.layers(wb.apply(network, wb.Recipe([wb.RTN(bits=4)])), few)["output_relative_error"]
        .gt(0)
        .any()
    )


def test_what_cannot_be_run_says_why(llama_folder):
    weights = wb.load(llama_folder / "model.safetensors")
    with pytest.raises(Refused, match="is weights alone"):
        inspect.model(weights)
    assert len(inspect.layers(wb.apply(weights, wb.Recipe([wb.RTN()])))) > 10
