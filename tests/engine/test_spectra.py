"""Spectra of a model layer by layer, before and after; and the recipes that alpha makes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

import workbench as wb
from workbench.engine.allocation import allocate, allocated
from workbench.engine.spectra import AFTER_COLUMNS, SPECTRA_COLUMNS, heads_of, spectra, spectra_rows
from workbench.errors import Refused
from workbench.jobs import Cancelled, Job
from workbench.model import Source, TensorInfo
from workbench.spectra import Reading, singular_values, spectrum_row


@pytest.fixture(scope="module")
def model():
    return wb.load("tiny-llama")


@pytest.fixture(scope="module")
def variant(model):
    return wb.apply(model, wb.Recipe([wb.Step(wb.RTN(bits=3, group_size=64), "role:q, role:down")]))


def test_a_row_is_that_of_the_weight_alone(model):
    frame = spectra(model, "model.layers.1.*")
    row = frame.set_index("name").loc["model.layers.1.mlp.up_proj"]
    alone = spectrum_row(model.base_weight("model.layers.1.mlp.up_proj"))
    for name in ("alpha", "D", "entropy", "effective_rank"):
        assert row[name] == pytest.approx(alone[name], rel=1e-9)
    assert (row["layer_type"], row["role"], row["block"], row["has_esd"]) == ("dense", "up", 1, True)
    assert list(frame)[:3] == ["layer_id", "name", "longname"]
    assert list(frame.attrs["columns"]) == list(frame)
    assert not set(frame) & set(AFTER_COLUMNS)


def test_a_variant_has_columns_of_what_was_changed(model, variant):
    frame = spectra(variant, "model.layers.2.*").set_index("name")
    q, k = frame.loc["model.layers.2.self_attn.q_proj"], frame.loc["model.layers.2.self_attn.k_proj"]
    assert q["method"] == "rtn 3 g64"
    assert 0 < q["edge"] < q["sv_max"]
    assert q["largest_shift"] <= q["error_norm"] * (1 + 1e-9)  # Weyl
    assert 0.5 < q["right_overlap"] < 1
    after = spectrum_row(variant.weights["model.layers.2.self_attn.q_proj"].dequantize())
    assert q["after_alpha"] == pytest.approx(after["alpha"], rel=1e-9)
    assert pd.isna(k["method"])


def test_heads_are_rows_of_their_own(model):
    frame = spectra(model, "model.layers.0.self_attn.*", heads=True)
    counts = frame.groupby("role")["head"].nunique()
    q = next(layer for layer in model.layers if layer.role == "q")
    assert counts["q"] == counts["o"] == heads_of(model, q)
    assert counts["k"] == counts["v"] == model.config["num_key_value_heads"]
    size = q.shape[0] // heads_of(model, q)
    w = model.base_weight("model.layers.0.self_attn.q_proj")[size : 2 * size]
    assert frame[(frame["role"] == "q") & (frame["head"] == 1)]["sv_max"].item() == pytest.approx(
        singular_values(w)[0]
    )


def test_a_convolution_is_read_as_slices_or_as_one_matrix():
    model = wb.load("tiny-resnet")
    name = "layer2.1.conv1"
    slices = spectra(wb.apply(model, wb.Recipe(wb.RTN(bits=4))), name).iloc[0]
    whole = spectra(model, name, Reading(conv="im2col")).iloc[0]
    assert (slices["rf"], slices["num_evals"], slices["layer_type"]) == (9, 288, "conv2d")
    assert (whole["rf"], whole["N"], whole["M"]) == (1, 288, 32)
    assert whole["norm"] == pytest.approx(2 * slices["norm"])
    assert np.isfinite(slices["after_alpha"])


def test_a_layer_that_cannot_be_fitted_says_why_and_ends_nothing():
    frame = spectra(wb.load("tiny-resnet")).set_index("name")
    assert frame.loc["conv1", "status"] == "failed"
    assert "9 of 9 eigenvalues" in frame.loc["conv1", "reason"]
    assert frame.loc["layer3.2.conv2", "status"] == "success"


def test_a_job_hears_of_every_layer_and_cancels_between_two(model):
    seen = []

    def work(job: Job) -> None:
        for row in spectra_rows(model, "role:q", job=job):
            seen.append(row["name"])
            if len(seen) == 2:
                job.cancel()

    job = Job(work, "spectra")
    with pytest.raises(Cancelled):
        job.run()
    assert len(seen) == 2
    assert (job.done, job.total) == (1, 5)


class Endless(Source):
    """Layers of a large model that are made when they are read; remembers how many lie in memory at once."""

    def __init__(self, layers: int, shape: tuple[int, int]):
        self.shape, self.read_names = shape, []
        info = {f"model.layers.{i}.mlp.up_proj.weight" for i in range(layers)}
        self._tensors = {name: TensorInfo(name, shape, torch.bfloat16) for name in sorted(info)}

    def tensors(self):
        return self._tensors

    def read(self, name):
        self.read_names.append(name)
        return torch.randn(
            self.shape, generator=torch.Generator().manual_seed(len(self.read_names))
        ).bfloat16()


def test_layers_are_read_one_after_another_when_their_turn_comes():
    from workbench.model.model import checkpoint_layers

    source = Endless(6, (60, 200))
    model = wb.Model("large", source, checkpoint_layers(source, {}))
    rows = spectra_rows(model)
    assert source.read_names == []
    next(rows)
    assert len(source.read_names) <= 3  # as many as there are threads, and one
    assert sum(1 for _ in rows) == 5


# Recipes from alpha


@pytest.fixture(scope="module")
def table(model):
    return spectra(model, "role:q, role:down", Reading(extra=("farms",), windows=3))


def weights(table):
    return (table["N"] * table["M"]).to_numpy(float)


def test_blocks_share_their_mean_alpha_and_the_sparsity_is_kept(table):
    given = allocated(table, wb.Magnitude(sparsity=0.5))
    shares = np.array([given[name] for name in table["name"]])
    assert np.average(shares, weights=weights(table)) == pytest.approx(0.5, abs=1e-5)
    means = table.groupby("block")["alpha"].mean()
    by_block = {block: given[name] for block, name in zip(table["block"], table["name"], strict=True)}
    order = sorted(by_block, key=by_block.get)
    assert order == sorted(means.index, key=means.get)
    recipe = allocate(table, wb.Magnitude(sparsity=0.5))
    assert len(recipe) == 5
    assert sum(step.layers.count(",") + 1 for step in recipe) == len(table)


def test_the_recipe_prunes_what_it_promises(model, table):
    variant = wb.apply(model, allocate(table, wb.Magnitude(sparsity=0.6), by="layer", metric="alpha_farms"))
    zeros = sum((w.dequantize() == 0).sum().item() for w in variant.weights.values())
    total = sum(w.numel for w in variant.weights.values())
    assert zeros / total == pytest.approx(0.6, abs=2e-3)


def test_bits_go_to_heavy_tails_and_meet_their_mean(table):
    given = allocated(table, wb.RTN(bits=4), by="layer")
    bits = np.array([given[name] for name in table["name"]])
    assert np.average(bits, weights=weights(table)) <= 4 + 1e-9
    assert np.average(bits, weights=weights(table)) > 3.8
    alphas = table["alpha"].to_numpy(float)
    assert bits[alphas.argmin()] > bits[alphas.argmax()]
    steps = list(allocate(table, wb.RTN(bits=4, group_size=64), by="layer"))
    assert all(isinstance(step.method.bits, int) and step.method.group_size == 64 for step in steps)


def test_what_cannot_be_allocated_is_refused(table):
    with pytest.raises(Refused, match="near: alpha"):
        allocate(table, wb.RTN(), metric="alpah")
    with pytest.raises(Refused, match="neither block nor layer"):
        allocate(table, wb.RTN(), by="role")
    with pytest.raises(Refused, match="no layer has a finite alpha"):
        allocate(table.assign(alpha=np.nan), wb.RTN())
    with pytest.raises(Refused, match="neither a free sparsity nor bits"):
        allocate(table, wb.Wanda(n_m="2:4"))
    with pytest.raises(Refused, match="rows are of heads"):
        allocate(table.assign(head=0), wb.RTN())


def test_all_columns_are_told(model, variant):
    reading = Reading(extra=("mp", "randomize", "detX", "tails", "farms"), windows=2)
    frame = spectra(variant, "model.layers.0.self_attn.q_proj", reading)
    known = {**SPECTRA_COLUMNS, **reading.columns, **AFTER_COLUMNS}
    assert set(frame) == set(known) - {"head"}
    assert all(len(text) > 5 for text in known.values())
