"""Exports load again, give the same numbers, and are whole or not there."""

import errno
import json
import shutil

import pytest
import safetensors
import torch

import workbench as wb
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
