"""Spectra of a model layer by layer, before and after; and the recipes that alpha makes."""

from __future__ import annotations

import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

import workbench as wb
import workbench.engine.spectra as engine
from workbench.engine.allocation import allocate, allocated
from workbench.engine.heads import heads_of
from workbench.engine.spectra import AFTER_COLUMNS, SPECTRA_COLUMNS, spectra, spectra_rows
from workbench.errors import Refused
from workbench.grid import uncompressed
from workbench.jobs import Cancelled, Job
from workbench.model import Source, TensorInfo
from workbench.spectra import Reading, hill, singular_values, spectrum_row
from workbench.spectra.columns import EXTRAS


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


def test_heads_of_a_fused_projection_are_rows_of_their_own():
    """The network says how many: the configuration of this vision transformer does not."""
    model = wb.load("tiny-vit")
    variant = wb.apply(model, wb.Recipe(wb.RTN(bits=3)))
    name = "blocks.1.attn.qkv"
    frame = spectra(variant, name, heads=True)
    heads = model.runner.module.get_submodule("blocks.1.attn").heads
    assert frame.groupby("role")["head"].nunique().to_dict() == {"q": heads, "k": heads, "v": heads}
    w = model.base_weight(name)
    size = len(w) // (3 * heads)
    row = frame[(frame["role"] == "k") & (frame["head"] == 1)].iloc[0]
    part = w[(heads + 1) * size : (heads + 2) * size]
    assert row["sv_max"] == pytest.approx(singular_values(part)[0])
    copy = variant.weights[name].dequantize()[(heads + 1) * size : (heads + 2) * size]
    assert row["error_norm"] == pytest.approx(singular_values(copy - part)[0])
    with pytest.raises(Refused, match="none of the chosen layers of tiny-resnet"):
        spectra(wb.load("tiny-resnet"), heads=True)


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
        # Seeded by the layer and not by the order of reading: that is up to the threads.
        seed = 1 + list(self._tensors).index(name)
        return torch.randn(self.shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_layers_are_read_one_after_another_when_their_turn_comes(monkeypatch):
    from workbench.model.model import checkpoint_layers

    cores(monkeypatch, 2)
    source = Endless(6, (60, 200))
    model = wb.Model("large", source, checkpoint_layers(source, {}))
    rows = spectra_rows(model)
    assert source.read_names == []
    next(rows)
    assert len(source.read_names) <= 3  # as many as there are threads, and one
    assert sum(1 for _ in rows) == 5


def quiet() -> bool:
    """Whether layers that were begun for a caller who left have ended, and their threads with them."""
    return not any(thread.name.startswith("ahead") for thread in threading.enumerate())


def until(true, seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def cores(monkeypatch, count: int) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: range(count), raising=False)


def test_small_layers_go_side_by_side_though_the_model_has_a_large_one(monkeypatch):
    model, seen = wb.load("tiny-llama"), {}
    cores(monkeypatch, 3)
    monkeypatch.setattr(engine, "SMALL", 100_000)

    def made(layer):
        blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        seen[layer.name] = threading.current_thread().name, max(blas)

    assert until(quiet)
    before = threadpool_info()
    list(spectra_rows(model, "role:embed, role:q, role:down", made=made))
    large = {layer.name for layer in model.layers if layer.parameters > 100_000} & set(seen)
    assert large
    caller = threading.current_thread().name
    assert {name for name, (thread, _) in seen.items() if thread == caller} == large
    assert {blas for name, (_, blas) in seen.items() if name not in large} == {1}
    assert threadpool_info() == before


def test_few_large_layers_are_in_memory_at_once_however_many_cores_there_are(monkeypatch):
    from workbench.model.model import checkpoint_layers

    cores(monkeypatch, 64)
    monkeypatch.setattr(engine, "TOGETHER", 2 * 60 * 200)
    source = Endless(6, (60, 200))
    next(spectra_rows(wb.Model("large", source, checkpoint_layers(source, {}))))
    assert len(source.read_names) <= 3


@pytest.mark.parametrize("threads", [1, 2])
def test_two_that_hold_one_thread_leave_the_limit_as_it_was(threads):
    assert until(quiet)
    with threadpool_limits(threads, user_api="blas"):
        blas = lambda: {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"}  # noqa: E731
        first, second = engine.ONE_THREAD.held(), engine.ONE_THREAD.held()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert blas() == {1}
        second.__exit__(None, None, None)
        assert blas() == {threads}


def test_a_cancelled_job_keeps_no_threads(monkeypatch):
    cores(monkeypatch, 3)
    assert until(quiet)

    def work(job: Job) -> None:
        for _ in spectra_rows(wb.load("tiny-llama"), "role:q", job=job):
            job.cancel()

    job = Job(work, "spectra")
    with pytest.raises(Cancelled) as kept:  # the error, and with it every frame, is alive
        job.run()
    assert until(quiet)
    assert kept.value is not None


class Torn(Endless):
    """One layer of it cannot be read."""

    def read(self, name):
        if ".3." in name:
            raise OSError("the file ends early")
        return super().read(name)


def test_a_layer_that_cannot_be_read_is_a_row_and_counts_as_the_median_when_alpha_is_spent():
    from workbench.model.model import checkpoint_layers

    source = Torn(6, (60, 200))
    frame = spectra(wb.Model("large", source, checkpoint_layers(source, {})))
    torn = frame[frame["status"] == "failed"]
    assert list(torn["reason"]) == ["the file ends early"]
    assert (torn["N"].item(), torn["M"].item(), torn["rf"].item()) == (200, 60, 1)
    given = allocated(frame, wb.Magnitude(sparsity=0.5), by="layer")
    assert sum(given.values()) / 6 == pytest.approx(0.5, abs=1e-5)


def test_stacked_experts_are_matrices_of_their_own():
    from workbench.model.model import checkpoint_layers

    class Experts(Endless):
        def __init__(self):
            super().__init__(1, (3, 60, 80))
            name = "model.layers.0.mlp.experts.gate_up_proj"
            self._tensors = {name: TensorInfo(name, (3, 60, 80), torch.bfloat16)}

    source = Experts()
    model = wb.Model("mixture", source, checkpoint_layers(source, {}))
    row = spectra(model, reading=Reading(extra=("farms",), rows=60, windows=2)).iloc[0]
    each = torch.randn(3, 60, 80, generator=torch.Generator().manual_seed(1)).bfloat16().double()
    assert (row["N"], row["M"], row["rf"], row["num_evals"]) == (80, 60, 3, 180)
    assert row["sv_max"] == pytest.approx(torch.linalg.svdvals(each).max().item())
    assert row["norm"] == pytest.approx(each.square().sum().item())
    pooled = torch.cat([torch.linalg.svdvals(e[:, k : k + 60]) for e in each for k in (0, 20)]).square()
    assert row["alpha_farms"] == pytest.approx(hill(pooled.numpy()).alpha, rel=1e-9)
    made = lambda layer: (uncompressed(layer.to_matrix(each.float())), "none")  # noqa: E731
    after = next(spectra_rows(model, made=made))
    assert after["after"]["num_evals"] == 180
    assert after["after_alpha"] == pytest.approx(row["alpha"], rel=1e-9)


def test_a_weight_with_nan_is_a_row_among_the_others():
    from workbench.model.model import checkpoint_layers

    source = Endless(3, (60, 200))
    model = wb.Model("large", source, checkpoint_layers(source, {}))
    read = source.read
    source.read = lambda name: read(name) * float("nan") if ".1." in name else read(name)
    frame = spectra(model)
    assert list(frame["status"]) == ["success", "failed", "success"]
    assert frame["reason"][1] == "weights are NaN or Inf"
    assert len(allocate(frame, wb.Magnitude(sparsity=0.5), by="layer")) == 3


def test_the_copy_is_fitted_as_carefully_as_the_weight():
    """Its tail begins where the Gram matrix has lost digits: the after columns are those of the copy alone."""
    sigmas = np.geomspace(10, 5e-3, 60)
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((size, 60)))[0] for size in (60, 80))
    copy = (u * sigmas) @ v.T
    alone = spectrum_row(copy)
    after = engine._after(copy + 1e-3, copy, "shift", Reading())
    assert alone["xmin"] < 1e-3  # far below: the exact road is taken
    assert after["after"]["alpha"] == alone["alpha"]


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
    extras = {f"after_{name}" for extra in reading.extra for name in EXTRAS[extra]}
    assert set(frame) == set(known) - {"head"} | extras
    assert set(frame.attrs["columns"]) == set(frame)
    assert all(len(text) > 5 for text in frame.attrs["columns"].values())


def test_columns_that_were_asked_for_are_of_the_copy_too():
    model = wb.load("tiny-mlp")
    variant = wb.apply(model, wb.Recipe([wb.RTN(bits=3)]))
    reading = Reading(extra=("mp", "farms"))
    table = spectra(variant, "layers.1", reading)
    copy = variant.weights["layers.1"].dequantize()
    expected = spectrum_row(copy, reading)
    for column in ("alpha", "alpha_farms", "num_spikes", "sigma_mp"):
        assert table[f"after_{column}"][0] == pytest.approx(expected[column], rel=1e-6), column
        assert table.attrs["columns"][f"after_{column}"] == f"{column} of the compressed weight"
