"""Exports load again, give the same numbers, and are whole or not there."""

import errno
import json
import shutil

import pytest
import safetensors
import torch

import workbench as wb
from workbench.engine.fold import fold
from workbench.files import save as saving
from workbench.files.export import check_export, export
from workbench.measure import Quality, evaluation
from workbench.model.source import DictSource
from workbench.model.zoo.networks import TinyResNet

FULL = shutil._ntuple_diskusage(total=10**9, used=10**9 - 100, free=100)
RECIPE = [wb.RTN(bits=3, group_size=32), wb.Step(wb.RTN(bits=8), "role:embed")]


@pytest.fixture(scope="module")
def variant(llama_folder):
    return wb.apply(wb.load(llama_folder), wb.Recipe(RECIPE))


@pytest.fixture(scope="module")
def exported(variant, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "out"
    return folder, export(variant, folder)


def test_an_export_gives_the_measures_of_the_variant(variant, exported, text_file):
    folder, _ = exported
    again = wb.load(folder)
    data = evaluation(variant.base, text_file, 512)
    expected = Quality(variant.base, data).measure(variant.weights)
    found = Quality(again, data).measure()
    assert found["perplexity"] == pytest.approx(expected["perplexity"], rel=1e-6)
    assert expected["kl"] > 0.01, "the recipe changes too little for this test to see anything"
    assert all(torch.equal(again.weight(n), cw.dequantize()) for n, cw in variant.weights.items())


def test_a_tied_head_changes_with_its_embedding(variant, exported):
    folder, _ = exported
    module = wb.load(folder).runner.module
    embedding = variant.weights["model.embed_tokens"].dequantize()
    assert torch.equal(module.lm_head.weight, embedding)
    assert not torch.equal(variant.base.base_weight("model.embed_tokens"), embedding)


def test_what_the_recipe_leaves_alone_is_the_same_bytes(variant, exported, llama_folder):
    folder, _ = exported
    with safetensors.safe_open(folder / "model.safetensors", "pt") as new:
        assert new.metadata()["format"] == "pt"
        assert set(new.keys()) == set(variant.base.source)
        for name in new.keys():
            if name.removesuffix(".weight") not in variant.weights:
                assert torch.equal(new.get_tensor(name), variant.base.source.read(name))


def test_an_export_comes_with_its_companions_recipe_and_card(variant, exported, llama_folder):
    folder, said = exported
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in llama_folder.iterdir()} <= names
    assert wb.Recipe.load(folder / "recipe.yaml") == variant.recipe
    card = (folder / "README.md").read_text()
    assert "rtn 3 g32" in card
    assert "bits per weight" in card
    assert str(llama_folder) not in card, "a card travels, the path does not"
    assert said == {
        "folder": str(folder),
        "format": "safetensors",
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "notes": [],
    }


def test_stored_dtypes_stay(make_llama, tmp_path):
    model = wb.load(make_llama(tmp_path / "half", dtype="float16"))
    export(wb.apply(model, wb.Recipe([wb.RTN(bits=4)])), tmp_path / "out")
    again = wb.load(tmp_path / "out")
    assert {info.dtype for info in again.source.tensors().values()} == {torch.float16}


def test_transposed_weights_are_stored_transposed(tmp_path):
    source = DictSource({"h.0.mlp.c_fc.weight": torch.randn(64, 256, generator=torch.manual_seed(0))})
    model = wb.Model("gpt", source, wb.model.checkpoint_layers(source, {}))
    assert model.layers[0].shape == (256, 64)
    variant = wb.apply(model, wb.Recipe([wb.RTN(bits=4, group_size=64)]))
    export(variant, tmp_path / "out")
    again = wb.load(tmp_path / "out")
    assert again.layers[0].stored == (64, 256)
    assert torch.equal(again.weight("h.0.mlp.c_fc"), variant.model.weight("h.0.mlp.c_fc"))


def test_a_module_in_memory_is_exported_with_its_buffers(tmp_path):
    torch.manual_seed(0)
    network = TinyResNet()
    network.train()(torch.randn(8, 1, 28, 28))  # moves the running means
    model = wb.load(network, task="classification")
    export(wb.apply(model, wb.Recipe([wb.Magnitude(sparsity=0.5)])), tmp_path / "out")
    source = wb.load(tmp_path / "out").source
    assert set(source) == set(network.state_dict())
    assert torch.equal(source.read("bn1.running_mean"), network.bn1.running_mean)


def test_a_classifier_is_run_from_where_it_was_exported_to(tmp_path):
    torch.manual_seed(0)
    network = TinyResNet().eval()
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    config = {"architecture": "tiny-resnet", "task": "classification", "mean": 0.286, "deviation": 0.353}
    folder = tmp_path / "in"
    folder.mkdir()
    saving.save_safetensors(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    variant = wb.apply(wb.load(folder), wb.Recipe([wb.RTN(bits=4)]))
    export(variant, tmp_path / "out")
    runner = variant.base.runner
    weights = {variant.base.layer(n): cw.dequantize() for n, cw in variant.weights.items()}
    expected = runner.logits(images, weights)
    assert torch.allclose(wb.load(tmp_path / "out").runner.logits(images), expected, atol=1e-5)
    assert not torch.allclose(runner.logits(images), expected, atol=1e-3)


def test_an_unchanged_model_is_exported_too(llama_folder, tmp_path):
    export(wb.load(llama_folder), tmp_path / "out")
    assert "unchanged" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "recipe.yaml").exists()


SCALED = {
    "awq": [wb.AWQ(bits=4, group_size=32, grid_points=5, protect=0.02)],
    "smoothquant": [wb.SmoothQuant(), wb.RTN(bits=8)],
    "equalize": [wb.Equalize(), wb.RTN(bits=4)],
    "gptq by activation": [wb.GPTQ(bits=4, group_size=32, static_groups=False), wb.Magnitude(sparsity=0.3)],
}


@pytest.fixture(scope="module")
def loud(llama_folder):
    """Float32, with loud channels: every transform has something to do."""
    return wb.engine.with_outliers(wb.load(llama_folder), 3)


@pytest.fixture(scope="module")
def batches(loud, text_file):
    return evaluation(loud, text_file, 1024).inputs_only()


@pytest.mark.parametrize("folded", [False, True], ids=["as made", "folded"])
@pytest.mark.parametrize("recipe", SCALED.values(), ids=SCALED)
def test_scales_of_the_inputs_are_exported_in_the_weights_or_folded_and_never_lost(
    loud, batches, tmp_path, recipe, folded
):
    variant = wb.apply(loud, wb.Recipe(recipe), calibration=batches)
    expected = loud.runner.logits(batches[0], variant.model.running)
    unchanged = loud.runner.logits(batches[0])
    variant = fold(variant) if folded else variant
    said = export(variant, tmp_path / "out")
    found = wb.load(tmp_path / "out").runner.logits(batches[0])
    change, error = ((each - expected).norm() / expected.norm() for each in (unchanged, found))
    assert error < 1e-3
    assert error < change / 10, "the recipe changes too little for this test to see anything"
    card = (tmp_path / "out" / "README.md").read_text()
    left = [n for n, made in variant.weights.items() if made.input_scale is not None]
    assert any(note.startswith(f"{len(left)} layers divide their input") for note in said["notes"]) == bool(
        left
    )
    assert all(note in card for note in said["notes"])
    assert any("input scales folded" in note for note in said["notes"]) == (
        folded and "gptq" not in recipe[0].name and recipe[0].name != "equalize"
    )


def test_a_folded_export_has_the_values_of_the_grid(loud, batches, tmp_path):
    variant = fold(wb.apply(loud, wb.Recipe([wb.AWQ(bits=4, group_size=32)]), calibration=batches))
    export(variant, tmp_path / "out")
    name = "model.layers.0.mlp.gate_proj"
    made = variant.weights[name]
    assert made.input_scale is None
    again = wb.load(tmp_path / "out")
    assert torch.equal(again.weight(name), made.dequantize())
    norm = "model.layers.0.post_attention_layernorm.weight"
    assert torch.equal(again.source.read(norm), variant.vectors[norm])
    assert not torch.equal(again.source.read(norm), loud.source.read(norm))


def test_quantized_inputs_stay_behind_and_it_is_said(loud, batches, tmp_path):
    static = wb.Step(wb.Activations(granularity="tensor"), "role:down")
    variant = wb.apply(loud, wb.Recipe([wb.RTN(bits=8), wb.Activations(), static]), calibration=batches)
    said = export(variant, tmp_path / "out")
    (note,) = said["notes"]
    assert "inputs of 14 layers were quantized too (a8 token, a8 tensor)" in note
    assert "runs with float inputs" in (tmp_path / "out" / "README.md").read_text()
    found = wb.load(tmp_path / "out").runner.logits(batches[0])
    floats = {loud.layer(n): made.dequantize() for n, made in variant.weights.items()}
    torch.testing.assert_close(found, loud.runner.logits(batches[0], floats), rtol=1e-4, atol=1e-4)


def test_a_correction_goes_into_the_bias_also_where_the_bias_was_scaled(tmp_path):
    vit = wb.load("tiny-vit")
    images = evaluation(vit, part="calibration").inputs[:64]
    steps = [wb.SmoothQuant(), wb.RTN(bits=3), wb.BiasCorrection()]
    variant = fold(wb.apply(vit, wb.Recipe(steps), calibration=[images]), images[:2])
    expected = vit.runner.logits(images, variant.model.running)
    export(variant, tmp_path / "out")
    found = wb.load(tmp_path / "out").runner.logits(images)
    assert (found - expected).norm() / expected.norm() < 5e-3  # weights, gains and biases in half precision
    biased = [n for n, made in variant.weights.items() if made.shift is not None]
    name = next(n for n in biased if n.endswith("fc1"))
    bias = f"{name}.bias"
    moved = wb.load(tmp_path / "out").source.read(bias).float() - vit.source.read(bias).float()
    torch.testing.assert_close(moved, variant.weights[name].shift, atol=5e-3, rtol=0)
    assert moved.abs().max() > 0.02


def test_a_correction_without_a_bias_is_refused_also_before_the_work(loud, batches, tmp_path, refused):
    words = ("model.layers.0.", "and 13 more", "needs a bias", "leave bias-correction out")
    names = [la.name for la in loud.layers if la.role not in ("embed", "head")]
    refused(lambda: check_export(loud, tmp_path / "a", shifted=names), *words)
    variant = wb.apply(loud, wb.Recipe([wb.RTN(bits=3), wb.BiasCorrection()]), calibration=batches)
    refused(lambda: export(variant, tmp_path / "a"), *words)
    assert list(tmp_path.iterdir()) == []


def test_what_the_stored_dtype_cannot_hold_is_refused(make_llama, tmp_path, refused):
    model = wb.load(make_llama(tmp_path / "half", dtype="float16"))
    norm = "model.layers.0.input_layernorm.weight"
    grown = model.with_overlays({}, {norm: torch.full((64,), 1e6)})
    refused(lambda: export(grown, tmp_path / "out"), norm, "1e+06", "float16", "before its scales are folded")
    assert [path.name for path in tmp_path.iterdir()] == ["half"]


def test_what_cannot_be_written_is_refused_before_the_work(variant, tmp_path, refused, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    refused(lambda: check_export(variant.base, tmp_path / "full"), "not an empty folder", "another name")
    refused(lambda: check_export(variant.base, tmp_path / "a", "gguf"), "'gguf'", "known: safetensors")
    packed = wb.Model("packed", variant.base.source, variant.base.layers, {"quantization_config": {}})
    refused(lambda: check_export(packed, tmp_path / "a"), "packed already", "float model")
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda _: FULL)
    refused(lambda: check_export(variant.base, tmp_path / "a" / "b"), "100 free", "free space")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_disk_that_fills_up_leaves_nothing_behind(variant, tmp_path, refused, monkeypatch):
    def full(file, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "_write", full)
    refused(lambda: export(variant, tmp_path / "out"), "No space left on device", "unchanged")
    assert list(tmp_path.iterdir()) == []


def test_a_stop_between_tensors_leaves_nothing_behind(variant, tmp_path):
    def step(done, total, name):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(variant, tmp_path / "out", step=step)
    assert list(tmp_path.iterdir()) == []
