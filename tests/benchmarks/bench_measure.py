"""`workbench measure` end to end on a Llama of 135 M parameters: seconds and the most memory at once.

Run: python tests/benchmarks/bench_measure.py [BLOCKS] [TOKENS]. The checkpoint is random (SmolLM-135M's shape: 30
blocks, 576 wide, 9 heads of which 3 for keys, 49,152 tokens, tied) with a byte-level tokenizer, which changes
neither the work nor the memory. The command runs in a process of its own, from its start to its exit.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = 'steps:\n  - {method: rtn, layers: "*", bits: 4, group_size: 64}\n'
TEXT = "A person opens a network and looks at what rounding does to it. "


def checkpoint(folder: Path, blocks: int) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=blocks,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    alphabet = {letter: i for i, letter in enumerate(["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(alphabet, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)


def main(blocks: int = 30, tokens: int = 4096) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own too: its memory is not the command's.
        code = f"import bench_measure; bench_measure.checkpoint(bench_measure.Path({name!r}) / 'model', {blocks})"
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)
        (folder / "recipe.yaml").write_text(RECIPE)
        (folder / "text.txt").write_text(TEXT * (tokens // len(TEXT) + 1))
        words = ["measure", "model", "--recipe", "recipe.yaml", "--text", "text.txt", "--tokens", str(tokens)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "workbench.cli", *words, "--json"],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    model, layers = json.loads(done.stdout)["model"], json.loads(done.stdout)["layers"]
    print(
        f"{len(layers)} layers, {model['data']}: kl {model['kl']:.3g}, {model['bits_per_weight']:.3f} bits a weight"
    )
    bound = "at most " if peak <= before * 1024 else ""  # the making of the checkpoint took more
    print(
        f"{seconds:.1f} s from start to exit, peak memory {bound}{peak / 1e9:.2f} GB, {os.cpu_count()} cores"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*(int(word) for word in sys.argv[1:])))
