"""A checkpoint that memory does not hold: python tests/benchmarks/bench_large.py [--blocks 24] [--width 2048]

Writes a random Llama (bfloat16, one shard a block) into a temporary folder, applies RTN with the activation-weighted
search block by block, each finished layer saved, and prints what the process held at most beside the checkpoint's size.
It means something under a limit: `systemd-run --scope -p MemoryMax=2G -p MemorySwapMax=0 python ...`. Not a test: the
numbers are the machine's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

import workbench as wb
from workbench.jobs import available, peak

VOCABULARY = 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=512)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "large"
        size = write(folder, options.blocks, options.width)
        before = peak()
        free = available()
        model = wb.load(folder)
        batches = list(torch.randint(0, VOCABULARY, (options.tokens // 256, 256)).split(1))
        begun = time.perf_counter()
        wb.apply(
            model,
            wb.Recipe([wb.RTN(bits=4, scale_search="activation")]),
            calibration=batches,
            keep=Path(place) / "kept",
        )
        kept = sum(file.stat().st_size for file in (Path(place) / "kept").iterdir())
        print(
            f"checkpoint {size / 1e9:.2f} GB ({4 * model.parameters / 1e9:.2f} GB in float32), "
            f"{free / 1e9:.2f} GB free; peak of the process {peak() / 1e9:.2f} GB, {before / 1e9:.2f} of it before; "
            f"kept layers {kept / 1e9:.2f} GB; {time.perf_counter() - begun:.0f} s for {options.tokens} tokens"
        )


def write(folder: Path, blocks: int, width: int) -> int:
    """A random Llama, a shard at a time; its bytes."""
    folder.mkdir()
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=blocks,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, max_position_embeddings=512,
        architectures=["LlamaForCausalLM"], dtype="bfloat16",
    )  # fmt: skip
    config.save_pretrained(folder)
    shapes = {f"self_attn.{n}_proj": (width, width) for n in "qkvo"}
    shapes |= {
        "mlp.gate_proj": (4 * width, width),
        "mlp.up_proj": (4 * width, width),
        "mlp.down_proj": (width, 4 * width),
    }
    ends = {
        "model.embed_tokens.weight": (VOCABULARY, width),
        "lm_head.weight": (VOCABULARY, width),
        "model.norm.weight": (width,),
    }
    index: dict[str, str] = {}
    total = 0
    for number in range(-1, blocks):
        prefix = f"model.layers.{number}."
        names = (
            ends
            if number < 0
            else {f"{prefix}{n}.weight": s for n, s in shapes.items()}
            | {f"{prefix}{n}.weight": (width,) for n in ("input_layernorm", "post_attention_layernorm")}
        )
        tensors = {
            n: torch.ones(s) if len(s) == 1 else torch.randn(s) * s[1] ** -0.5 for n, s in names.items()
        }
        shard = {n: t.bfloat16() for n, t in tensors.items()}
        file = f"model-{number + 2:05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(shard, file)
        total += sum(t.nbytes for t in shard.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text, "utf-8")
    return total


if __name__ == "__main__":
    main()
