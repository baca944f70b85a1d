"""The shell: its documents, its tables, and one line with status 1 for every bad input."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import workbench as wb
from workbench import cli, jobs
from workbench.files import save as saving
from workbench.model import zoo
from workbench.shell.report import plain, sentence

ROOT = Path(__file__).resolve().parents[1]
RTN4 = 'steps:\n  - {method: rtn, layers: "*", bits: 4, group_size: 32}\n'


@dataclass
class Said:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> dict:
        """The one JSON document on stdout; NaN and Infinity are none."""
        assert self.status == 0, self.err
        return json.loads(self.out, parse_constant=lambda word: pytest.fail(f"{word} in the document"))

    @property
    def refusal(self) -> str:
        """The one line of a failure."""
        assert (self.status, self.out) == (1, ""), (self.status, self.out)
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("workbench: "), lines
        assert "Traceback" not in self.err
        return lines[0]


@pytest.fixture
def shell(monkeypatch, tmp_path):
    """shell("layers", folder) -> Said; runs in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Said:
        result = CliRunner().invoke(cli.app, [str(word) for word in words])
        return Said(result.exit_code, result.stdout, result.stderr)

    return run


def process(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """The same in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "workbench.cli", *map(str, words)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def recipe(tmp_path):
    def write(text: str = RTN4) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def own_llama(make_llama, tmp_path) -> Path:
    """One that the test may break."""
    return make_llama(tmp_path / "own")


# What the verbs give.


def test_a_checkpoint_never_seen_before_is_measured(shell, make_llama, tmp_path, recipe, text_file):
    folder = make_llama(tmp_path / "new", seed=7, hidden_size=96, intermediate_size=200, dtype="bfloat16")
    said = shell("measure", folder, "--recipe", recipe(), "--text", text_file, "--json")
    model, layers = said.document["model"], said.document["layers"]
    assert model["kl"] > 0
    assert 0 < model["top1_agreement"] < 1
    assert model["perplexity"] != model["base_perplexity"]
    # 4 bits, an fp16 scale and a 4-bit zero for 32 weights; 200 inputs leave a ragged group of 8
    assert 4 + 20 / 32 <= model["bits_per_weight"] < 4.8
    assert model["bytes"] < model["base_bytes"]
    assert len(layers) == 14
    by_name = {layer["name"]: layer for layer in layers}
    up = by_name["model.layers.0.mlp.up_proj"]
    assert (up["method"], up["role"]) == ("rtn 4 g32", "up")
    assert up["bits_per_weight"] == 4 + 20 / 32
    # absmax of 32 normal weights is about 2 sd: a step of 4 sd / 15, an error of step / sqrt(12)
    assert 0.05 < up["relative_error"] < 0.12
    assert up["sqnr_db"] == pytest.approx(-20 * math.log10(up["relative_error"]), abs=1e-3)
    assert 0.03 < up["output_relative_error"] < 0.2
    assert {"cosine", "max_error", "sparsity", "bytes"} <= up.keys()
    assert said.document["skipped"][0]["name"] == "model.embed_tokens"
    assert "leaves it alone" in said.document["skipped"][0]["reason"]
    assert any("the last group of a row has 8" in note["note"] for note in said.document["notes"])
    assert "14 layers, 1 skipped" in said.err


def test_an_unchanged_model_has_no_divergence(shell, llama_folder, text_file):
    model = shell("measure", llama_folder, "--text", text_file, "--tokens", 256, "--json").document["model"]
    assert (model["kl"], model["top1_agreement"]) == (0, 1)
    assert model["perplexity"] == model["base_perplexity"]
    assert model["bits_per_weight"] == 32
    assert model["data"] == "256 tokens of text.txt"


def test_tokens_say_how_much_of_the_text_is_read(shell, llama_folder, text_file):
    words = ["measure", llama_folder, "--text", text_file, "--json", "--tokens"]
    few, many = (shell(*words, count).document["model"]["perplexity"] for count in (64, 1024))
    assert few != many


def test_the_tables_say_what_the_documents_say(shell, llama_folder, recipe, text_file):
    said = shell("measure", llama_folder, "--recipe", recipe(), "--text", text_file)
    assert said.status == 0
    for word in ("perplexity", "unchanged", "model.layers.1.mlp.down_proj", "rtn 4 g32", "nats", "dB"):
        assert word in said.out
    assert "measured on" in said.out


def test_layers_are_listed_without_transformers(tmp_path, llama_folder):
    code = f"""
import sys
from typer.testing import CliRunner
from workbench.cli import app
result = CliRunner().invoke(app, ["layers", {str(llama_folder)!r}, "--json"])
assert result.exit_code == 0, result.stderr
print(*{{"transformers", "pandas", "numba", "scipy"}} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ""


def test_layers_have_the_columns_of_the_contract(shell, llama_folder):
    layers = shell("layers", llama_folder, "--json").document["layers"]
    assert len(layers) == 15
    assert layers[0] == {
        "name": "model.embed_tokens",
        "role": "embed",
        "block": None,
        "rows": 257,
        "columns": 64,
        "shape": [257, 64],
        "dtype": "float32",
        "parameters": 257 * 64,
        "note": "tied with lm_head",
    }
    assert shell("layers", llama_folder).out.count("mlp.up_proj") == 2


def test_spectra_before_and_after_a_recipe(shell, llama_folder, recipe):
    words = ["spectra", llama_folder, "--layers", "role:q", "--json"]
    (before, _), (both, _) = (
        shell(*words, *more).document["layers"] for more in ([], ["--recipe", recipe()])
    )
    assert before.keys() >= {
        "name",
        "role",
        "block",
        "alpha",
        "D",
        "xmin",
        "sigma",
        "stable_rank",
        "log_norm",
    }
    assert "after" not in before
    w = wb.load(llama_folder).base_weight(before["name"])
    largest = float(torch.linalg.matrix_norm(w, 2)) ** 2
    assert before["spectral_norm"] == pytest.approx(largest, rel=1e-4)
    assert both["log_norm"] == pytest.approx(before["log_norm"], abs=1e-6)
    assert both["after"]["log_norm"] != both["log_norm"]
    assert both["method"] == "rtn 4 g32"
    assert 0 < both["lost"] < 64
    assert both["edge"] > both["threshold"] > 0


def test_spectra_have_further_columns_and_heads(shell, llama_folder):
    words = ["spectra", llama_folder, "--layers", "role:q", "--json"]
    rows = shell(*words, "--extra", "mp,detX", "--extra", "farms", "--rows", "16", "--windows", "3").document[
        "layers"
    ]
    assert {"bulk_max", "mp_problem", "detX_num", "alpha_farms"} <= rows[0].keys()
    assert rows[0]["farms_window"] == "16 x 16"
    heads = shell(*words, "--heads").document["layers"]
    assert {row["head"] for row in heads} == set(range(len(heads) // len(rows)))
    assert (
        "none of mp, randomize, detX, tails, peak, farms, all; near: mp"
        in shell(*words, "--extra", "mpp").refusal
    )


def test_a_recipe_from_alpha(shell, tmp_path):
    said = shell(
        "spectra",
        "tiny-llama",
        "--layers",
        "role:q",
        "--allocate",
        "Wanda(sparsity=0.5)",
        "--out",
        "r.yaml",
        "--json",
    )
    given = said.document["recipe"]["assignment"]
    assert len(given) == 5
    assert sum(given.values()) / 5 == pytest.approx(0.5, abs=1e-5)
    assert len(wb.Recipe.load(Path("r.yaml"))) == 5
    assert "give that too" in shell("spectra", "tiny-llama", "--out", "r.yaml").refusal


def test_a_layer_with_nan_costs_its_own_row_only(shell, own_llama, recipe):
    _spoil(own_llama)
    for more in ([], ["--recipe", recipe()]):
        said = shell("spectra", own_llama, "--json", *more)
        rows = {row["name"]: row for row in said.document["layers"]}
        spoiled = rows.pop("model.layers.1.mlp.up_proj")
        assert "NaN" in spoiled["reason"]
        assert spoiled["alpha"] is None
        # Of the others only those with fewer than 50 eigenvalues have no fit.
        assert all((row["status"] == "success") == (row["num_evals"] >= 50) for row in rows.values())


def test_an_export_has_the_measures_that_were_said(shell, llama_folder, recipe, text_file):
    measures = ["--text", text_file, "--json"]
    said = shell("measure", llama_folder, "--recipe", recipe(), *measures).document
    made = shell("compress", llama_folder, "--recipe", recipe(), "--out", "out", "--json").document
    assert (made["folder"], made["format"]) == ("out", "safetensors")
    assert made["bytes"] == sum(path.stat().st_size for path in Path("out").iterdir())
    assert made["bits_per_weight"] == said["model"]["bits_per_weight"]
    assert [layer["relative_error"] for layer in made["layers"]] == [
        layer["relative_error"] for layer in said["layers"]
    ]
    again = shell("measure", "out", *measures).document["model"]
    assert again["perplexity"] == pytest.approx(said["model"]["perplexity"], rel=1e-6)


def test_scales_can_be_folded_into_the_layers_before(shell, llama_folder, recipe, text_file):
    words = (
        "--recipe",
        recipe("steps:\n  - {method: awq, bits: 3, group_size: 32}\n"),
        "--calibration",
        text_file,
    )
    whole = shell("compress", llama_folder, *words, "--out", "whole")
    folded = shell("compress", llama_folder, *words, "--out", "folded", "--fold")
    assert "input scales folded" not in whole.err
    assert "input scales folded" in folded.err
    measures = [
        shell("measure", out, "--text", text_file, "--json").document["model"]["perplexity"]
        for out in ("whole", "folded")
    ]
    # The rows of folded layers are rounded with s in them.
    assert measures[0] == pytest.approx(measures[1], rel=2e-2)
    norms = [wb.load(out).source.read("model.layers.0.input_layernorm.weight") for out in ("whole", "folded")]
    assert not torch.equal(*norms)


def test_methods_carry_their_parameters(shell):
    methods = {method["name"]: method for method in shell("methods", "--json").document["methods"]}
    rtn = {parameter["name"]: parameter for parameter in methods["rtn"]["parameters"]}
    assert (rtn["bits"]["type"], rtn["bits"]["default"], rtn["bits"]["bounds"]) == ("int", 4, "1 to 8")
    assert rtn["symmetric"]["help"]
    assert (methods["rtn"]["kind"], methods["rtn"]["needs"]) == ("quantize", [])
    assert methods["rtn"]["summary"]
    assert "which weights share a scale" in shell("methods").out


def test_the_zoo_is_listed_from_its_records(shell, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "tiny-llama"
    folder.mkdir(parents=True)
    record = {"parameters": 5, "test_perplexity": {"a": 9.5}, "log": [1, 2]}
    (folder / "training.json").write_text(json.dumps(record))
    (folder / "evaluation.txt").write_text("text")
    (folder / "model.safetensors").write_text("{}")
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    zoo.data_folder.cache_clear()
    try:
        document, table = shell("zoo", "--json").document, shell("zoo").out
    finally:
        zoo.data_folder.cache_clear()
    (model,) = document["models"]
    assert (model["name"], model["task"], model["parameters"]) == ("tiny-llama", "language", 5)
    assert model["scores"] == {"test_perplexity": {"a": 9.5}}
    assert (model["folder"], model["bytes"]) == (str(folder), len(json.dumps(record)) + 6)
    assert [entry["name"] for entry in document["data"]] == ["tiny-llama/evaluation.txt"]
    assert "test_perplexity (a 9.5)" in table


@pytest.mark.parametrize(
    "name", ["tiny-llama", *(pytest.param(n, marks=pytest.mark.slow) for n in ("tiny-resnet", "tiny-vit"))]
)
def test_an_embedded_model_is_measured(shell, recipe, name):
    assert zoo.embedded(name).here
    model = shell("measure", name, "--recipe", recipe(), "--json").document["model"]
    score = "perplexity" if name == "tiny-llama" else "accuracy"
    assert model["kl"] > 0
    assert model[score] == pytest.approx(model[f"base_{score}"], rel=0.2)
    assert name == "tiny-llama" or 0.85 < model["accuracy"] < 1


def test_speed_times_a_product(shell):
    said = shell("speed", "--kernel", "cpu-torch*", "--shape", "64x64x64", "--record", "r.json", "--json")
    fp32 = said.document["kernels"][0]
    assert fp32["kernel"] == "cpu-torch-fp32"
    assert fp32["seconds"] > 0
    assert fp32.keys() >= {"kernel", "device", "bits", "shape", "seconds", "baseline", "ratio"}
    assert json.loads(Path("r.json").read_text())["kernels"][0]["shape"] == "64x64x64"
    assert "cpu-torch-fp32" in shell("speed", "--kernel", "cpu-torch-fp32", "--shape", "8x8x8").out


def test_lab_opens_a_notebook(shell, monkeypatch):
    from workbench.widgets import lab

    calls = []
    monkeypatch.setattr(lab, "open_lab", lambda *words: calls.append(words) or 3)
    assert shell("lab", "01_number_grids", "--no-browser", "--port", 8899).status == 3
    assert calls == [("01_number_grids", False, 8899)]


def test_lab_says_what_to_install(shell, tmp_path, monkeypatch):
    (tmp_path / "n.ipynb").write_text("{}")
    monkeypatch.setitem(sys.modules, "jupyterlab", None)
    monkeypatch.setitem(sys.modules, "jupyterlab.labapp", None)
    assert "pip install 'workbench[lab]'" in shell("lab", "n.ipynb").refusal


# Documents.


def test_a_document_has_the_types_of_json():
    frame = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": [np.float32(0.5), np.nan]})
    value = {
        "rows": frame.to_dict("records"),
        "numpy": (np.int64(3), np.bool_(True), math.inf),
        "torch": torch.tensor(2.0),
        3: torch.float16,
        "path": Path("a"),
    }
    found = json.loads(json.dumps(plain(value), allow_nan=False))
    assert found["rows"] == [{"a": 1, "b": 0.5}, {"a": None, "b": None}]
    assert found["numpy"] == [3, True, None]
    assert (found["torch"], found["3"], found["path"]) == (2.0, "torch.float16", "a")


# Bad input: one line that names what, where and the way out; nothing on stdout; nothing left behind.


def _spoil(folder: Path) -> None:
    """A NaN into one weight."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = math.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("verb", ["layers", "measure", "spectra"])
def test_an_unknown_model_names_near_ones(shell, verb):
    assert "'tiny-lama'; near: tiny-llama" in shell(verb, "tiny-lama").refusal


def test_a_git_lfs_pointer(shell, own_llama):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (own_llama / "model.safetensors").write_text(pointer)
    assert "git lfs pull" in shell("layers", own_llama).refusal


def test_a_truncated_file(shell, own_llama):
    path = own_llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "truncated" in shell("measure", own_llama).refusal


def test_a_pickle_is_refused_with_the_way_to_convert_it(shell, tmp_path):
    torch.save({"w": torch.ones(2, 2)}, tmp_path / "m.bin")
    assert "weights_only=True" in shell("layers", "m.bin").refusal


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps:\n  - {method: rtm, bits: 4}\n", ["line 2", "'rtm'", "near: rtn"]),
        ("steps:\n  - method: rtn\n    bitz: 4\n", ["line 3", "'bitz'", "near: bits"]),
        ("steps:\n  - method: rtn\n    bits: 99\n", ["line 3", "bits = 99", "1 to 8"]),
        ("steps:\n  - method: rtn\n    group_size: 1\n", ["line 3", "group_size = 1", "-1"]),
        (
            'steps:\n  - {method: rtn, layers: "*.upproj"}\n',
            ["'*.upproj'", "near", "model.layers.0.mlp.up_proj"],
        ),
        ("steps:\n  - {method: rtn, layers: role:dwn}\n", ["'role:dwn'", "near: down"]),
        ("step: []\n", ["line 1", "near: steps"]),
        ("steps: [\n", ["not YAML", "line 2"]),
    ],
)
@pytest.mark.parametrize("verb", ["measure", "compress"])
def test_what_is_wrong_with_a_recipe_is_named_with_its_line(
    shell, llama_folder, recipe, text_file, text, words, verb
):
    more = ["--text", text_file] if verb == "measure" else ["--out", "out"]
    line = shell(verb, llama_folder, "--recipe", recipe(text), *more, "--json").refusal
    assert [word for word in words if word not in line] == [], line
    assert not Path("out").exists()


def test_a_recipe_that_is_not_there(shell, llama_folder):
    line = shell("measure", llama_folder, "--recipe", "nothing.yaml").refusal
    assert "nothing.yaml" in line
    assert "No such file" in line


def test_a_text_that_is_too_short_or_not_there(shell, llama_folder, tmp_path):
    (tmp_path / "short.txt").write_text("ten tokens")
    line = shell("measure", llama_folder, "--text", "short.txt").refusal
    assert "short.txt has 10 tokens, less than one context of 64" in line
    assert "--tokens 10" in line
    assert "--text none.txt cannot be read" in shell("measure", llama_folder, "--text", "none.txt").refusal
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    assert "bytes.txt" in shell("measure", llama_folder, "--text", "bytes.txt").refusal
    assert "--tokens 1 " in shell("measure", llama_folder, "--text", "short.txt", "--tokens", 1).refusal


def test_a_calibration_text_that_is_not_there(shell, llama_folder, recipe, text_file):
    words = ["measure", llama_folder, "--recipe", recipe(), "--text", text_file, "--calibration"]
    assert "--calibration none.txt cannot be read" in shell(*words, "none.txt").refusal
    assert "is not used" in shell(*words, text_file).err


def test_nan_weights_are_named_with_their_place(shell, own_llama, recipe, text_file):
    _spoil(own_llama)
    line = shell("measure", own_llama, "--recipe", recipe(), "--text", text_file).refusal
    assert [w for w in ("model.layers.1.mlp.up_proj", "row 3", "column 5", "selector") if w not in line] == []
    model = shell("measure", own_llama, "--text", text_file, "--json").document["model"]
    assert model["perplexity"] is None


def test_an_architecture_that_transformers_does_not_know(shell, own_llama, recipe, text_file):
    config = json.loads((own_llama / "config.json").read_text())
    config |= {"model_type": "nonsense", "architectures": ["NonsenseForCausalLM"]}
    (own_llama / "config.json").write_text(json.dumps(config))
    assert len(shell("layers", own_llama, "--json").document["layers"]) == 15
    said = shell("measure", own_llama, "--recipe", recipe(), "--text", text_file, "--json")
    model = said.document["model"]
    assert "NonsenseForCausalLM" in model["why_not"]
    assert model["kl"] is None
    assert model["bits_per_weight"] < 5
    assert all(layer["relative_error"] > 0 for layer in said.document["layers"])
    assert "no model measures" in said.err
    assert "NonsenseForCausalLM" in shell("measure", own_llama, "--text", text_file).refusal
    assert "NonsenseForCausalLM" in shell("measure", own_llama, "--recipe", recipe()).out


def test_a_checkpoint_with_missing_weights_is_not_run_on_random_ones(shell, own_llama, text_file):
    tensors = load_file(own_llama / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, own_llama / "model.safetensors", {"format": "pt"})
    line = shell("measure", own_llama, "--text", text_file).refusal
    assert "lacks model.layers.1.mlp.up_proj.weight" in line


def test_weights_alone_have_layers_and_say_why_nothing_runs(shell, llama_folder, recipe):
    file = llama_folder / "model.safetensors"
    assert "config.json" in shell("measure", file).refusal
    document = shell("measure", file, "--recipe", recipe(), "--json").document
    assert "config.json" in document["model"]["why_not"]
    assert len(document["layers"]) == 14


def test_a_full_disk_is_said_and_leaves_nothing(shell, llama_folder, recipe, monkeypatch):
    def full(file, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    words = ["compress", llama_folder, "--recipe", recipe(), "--out", "out"]
    monkeypatch.setattr(saving, "_write", full)
    assert "No space left on device" in shell(*words).refusal
    usage = shutil._ntuple_diskusage(total=10**9, used=10**9 - 100, free=100)
    monkeypatch.setattr(saving.shutil, "disk_usage", lambda _: usage)
    assert "100 free" in shell(*words).refusal
    assert [path.name for path in Path().iterdir()] == ["recipe.yaml"]


def test_an_unknown_format_and_a_folder_in_use(shell, llama_folder, recipe):
    words = ["compress", llama_folder, "--recipe", recipe(), "--out"]
    assert "'gguf:Q4_0'; known: safetensors" in shell(*words, "out", "--format", "gguf:Q4_0").refusal
    assert "not an empty folder" in shell(*words, ".").refusal


def test_too_little_memory_is_forecast(shell, llama_folder, recipe, text_file, monkeypatch):
    for place in (jobs, jobs.memory):
        monkeypatch.setattr(place, "available", lambda: 1000)
    words = ["measure", llama_folder, "--text", text_file]
    assert "of memory" in shell(*words, "--recipe", recipe()).refusal
    assert "0.0 MB are free" in shell(*words).refusal


def test_a_text_for_a_classifier(shell, tmp_path, text_file):
    from workbench.model.zoo.networks import TinyResNet

    save_file(TinyResNet().state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    config = {"architecture": "tiny-resnet", "task": "classification", "mean": 0.3, "deviation": 0.3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "--text is for language models" in shell("measure", ".", "--text", text_file).refusal


@pytest.mark.parametrize("shape", ["12", "0x1x1", "axbxc"])
def test_a_shape_that_is_none(shell, shape):
    assert "MxNxK" in shell("speed", "--shape", shape).refusal


def test_a_record_that_cannot_be_written_is_refused_before_anything_is_timed(shell, monkeypatch):
    monkeypatch.setattr("workbench.speed.measure", lambda *_, **__: pytest.fail("it was timed"))
    assert "nowhere/r.json: the record cannot" in shell("speed", "--record", "nowhere/r.json").refusal
    assert list(Path.cwd().iterdir()) == []


def test_an_unknown_kernel(shell):
    assert "near: cpu-torch" in shell("speed", "--kernel", "cpu-toch").refusal


def test_wrong_usage_is_status_two(shell, llama_folder):
    for words in (["measure"], ["layers", "a", "b"], ["measure", "a", "--tokens", "x"], ["audit", "a"]):
        assert shell(*words).status == 2, words
    assert shell("compress", llama_folder).status == 2


def test_an_error_that_nobody_foresaw_is_one_line(shell, llama_folder, monkeypatch):
    def broken(self):
        raise KeyError("some\nthing")

    monkeypatch.setattr(wb.Model, "records", broken)
    line = shell("layers", llama_folder).refusal
    assert "KeyError" in line
    assert "WORKBENCH_TRACEBACK=1" in line
    monkeypatch.setenv("WORKBENCH_TRACEBACK", "1")
    result = CliRunner().invoke(cli.app, ["layers", str(llama_folder)])
    assert isinstance(result.exception, KeyError)


def test_an_interrupt_is_one_line_and_status_130(shell, llama_folder, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(wb.Model, "records", interrupted)
    said = shell("layers", llama_folder)
    assert (said.status, said.out, said.err) == (130, "", "workbench: interrupted\n")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError("4 GB"), ["not enough memory", "4 GB", "fewer"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), ["not enough memory"]),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), ["a/b: Permission denied"]),
        (wb.Refused("what\nwhere"), ["what where"]),
    ],
)
def test_errors_become_one_sentence(error, words):
    line = sentence(error)
    assert "\n" not in line
    assert [word for word in words if word not in line] == []


# In a process of its own.


def test_a_process_keeps_stdout_for_the_document(tmp_path, llama_folder, text_file):
    (tmp_path / "r.yaml").write_text(RTN4)
    done = process("measure", llama_folder, "--recipe", "r.yaml", "--text", text_file, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"]["kl"] > 0
    assert len(done.stderr.splitlines()) <= 3, done.stderr  # the plan, and one line a reason


def test_a_process_that_fails_says_one_line(tmp_path, llama_folder):
    done = process("measure", llama_folder, "--recipe", "nothing.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert process("measure", cwd=tmp_path).returncode == 2


def test_help_and_version_load_no_library(tmp_path):
    before = os.times()
    done = process("--help", cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    after = os.times()
    # Of the processor: how busy the machine is does not count.
    seconds = sum(getattr(after, k) - getattr(before, k) for k in ("children_user", "children_system"))
    assert done.returncode == 0
    for verb in ("lab", "zoo", "methods", "layers", "measure", "compress", "spectra", "speed"):
        assert verb in done.stdout
    assert "audit" not in done.stdout, "a verb whose room is not built does not exist"
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "pandas", "numpy", "transformers", "yaml", "pydantic"}
    assert seconds < 5, "0.3 s where nothing is wrong"
    assert process("--version", cwd=tmp_path).stdout.startswith("workbench ")


TELLING = """
from pathlib import Path
from workbench import cli
from workbench.model.runner import Runner
logits = Runner.logits
def telling(*arguments, **keywords):
    Path("measuring").touch()
    return logits(*arguments, **keywords)
Runner.logits = telling
cli.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_ends_a_process_with_130(tmp_path, llama_folder, text_file):
    text = tmp_path / "long.txt"
    text.write_text(text_file.read_text() * 200)
    child = subprocess.Popen(
        [sys.executable, "-c", TELLING, "measure", llama_folder, "--text", text, "--tokens", "200000"],
        cwd=tmp_path,
        # One thread: several that wait for each other on a busy machine take minutes for what is at hand.
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # In the middle of the work: not before it, however slow the machine, nor after it, however fast.
        until = time.monotonic() + 240
        while not (tmp_path / "measuring").exists():
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < until, "it never began to measure"
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=240)
    finally:
        child.kill()
    assert (child.returncode, out, err) == (130, "", "workbench: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_stdout_that_is_full_is_said(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "workbench.cli", "methods"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["workbench: No space left on device"]
