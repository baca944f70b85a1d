"""Make `data/tiny-llama`: corpus, tokenizer, training, held-out texts, card.

    python -m workbench.model.zoo.train_llama

A 4.7 M parameter Llama (RMSNorm, RoPE, SwiGLU, grouped-query attention, tied head), about an hour on one core
that multiplies bfloat16 (two on one that does not). Training is checkpointed every 200 steps below `--work`
and goes on from there when started again. ff = 704 is not a multiple of 128 on purpose: the embedded model
always exercises the ragged last group.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from . import corpus

CONTEXT = 256
BATCH = 16
STEPS = 5000
PEAK_RATE = 2e-3
WARM_UP = 200
# Share of the training windows drawn from each domain: the glosses only widen the vocabulary.
MIXTURE = {"austen": 0.32, "web": 0.28, "jargon": 0.15, "devil": 0.05, "glosses": 0.20}
CONFIG = LlamaConfig(
    vocab_size=4096,
    hidden_size=256,
    intermediate_size=704,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=CONTEXT,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    tie_word_embeddings=True,
    bos_token_id=0,
    eos_token_id=0,
)


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with 4,096 entries; entry 0 is the end-of-text mark."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG.vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    mark = "<|endoftext|>"
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=mark, eos_token=mark, unk_token=mark, model_max_length=CONTEXT
    )


def rate(step: int) -> float:
    """Learning rate: linear warm-up, then half a cosine down to a tenth of the peak."""
    if step < WARM_UP:
        return PEAK_RATE * (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(1, STEPS - WARM_UP)
    return PEAK_RATE * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done)))


def sample(streams: dict[str, np.ndarray], random: np.random.Generator) -> torch.Tensor:
    """One batch of training windows [BATCH, CONTEXT + 1], drawn at random places of random domains."""
    names = random.choice(list(MIXTURE), size=BATCH, p=list(MIXTURE.values()))
    rows = []
    for name in names:
        start = random.integers(0, len(streams[name]) - CONTEXT - 1)
        rows.append(streams[name][start : start + CONTEXT + 1])
    return torch.from_numpy(np.stack(rows).astype(np.int64))


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, ids: np.ndarray) -> float:
    """exp of the mean next-token loss over non-overlapping windows of CONTEXT tokens, float32."""
    windows = torch.from_numpy(ids[: len(ids) // CONTEXT * CONTEXT].astype(np.int64)).view(-1, CONTEXT)
    total, count = 0.0, 0
    for batch in windows.split(16):
        logits = model(batch).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"
        )
        total, count = total + loss.item(), count + batch[:, 1:].numel()
    return math.exp(total / count)


def train(
    streams: dict[str, np.ndarray], tests: dict[str, np.ndarray], work: Path
) -> tuple[LlamaForCausalLM, list]:
    """Train to STEPS, from the last checkpoint in `work` if there is one; returns the model and its log."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95), fused=True)
    checkpoint, step, log = work / "tiny-llama.pt", 0, []
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        step, log = saved["step"], saved["log"]
    began = time.time()
    while step < STEPS:
        # The batch depends on the step alone, so a resumed run sees the same batches.
        batch = sample(streams, np.random.default_rng(step))
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if step % 200 == 0 or step == STEPS:
            scores = {name: round(perplexity(model, ids[: 64 * CONTEXT]), 2) for name, ids in tests.items()}
            log.append(
                {"step": step, "tokens": step * BATCH * CONTEXT, "loss": round(loss.item(), 4), **scores}
            )
            print(f"{time.time() - began:6.0f} s", log[-1], flush=True)
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "log": log,
            }
            torch.save(state, checkpoint.with_suffix(".part"))
            os.replace(checkpoint.with_suffix(".part"), checkpoint)
    return model, log


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--work", type=Path, default=Path(".train"), help="packages and checkpoints")
    options.add_argument("--out", type=Path, default=Path("data"), help="where the model and texts go")
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    parts = corpus.build(chosen.work / "debian")
    tokenizer = train_tokenizer([domain["train"] for domain in parts.values()])

    def encode(text: str) -> np.ndarray:
        return np.array(tokenizer.backend_tokenizer.encode(text).ids, dtype=np.uint16)

    streams = {name: encode(domain["train"]) for name, domain in parts.items()}
    tests = {name: encode(domain["test"]) for name, domain in parts.items() if "test" in domain}
    print({name: len(ids) for name, ids in streams.items()}, flush=True)
    model, log = train(streams, tests, chosen.work)
    publish(model, tokenizer, parts, tests, log, chosen.out)


def mixed(parts: dict[str, dict[str, str]], part: str, rounds: int = 5, size: int = 2000) -> str:
    """Passages of about `size` characters from each domain in turn, so that any beginning of it has them all."""
    texts = [domain[part] for domain in parts.values() if part in domain]
    passages = []
    for index in range(rounds):
        for text in texts:
            start = text.find("\n", index * len(text) // rounds) + 1
            stop = text.find("\n", min(start + size, len(text) - 2))
            passages.append(text[start:stop].strip("\n"))
    return "\n\n".join(passages) + "\n"


def publish(model, tokenizer, parts, tests, log, out: Path) -> None:
    """Write the model in fp16, its tokenizer, the held-out texts and what the card quotes."""
    folder, text = out / "tiny-llama", out / "text"
    text.mkdir(parents=True, exist_ok=True)
    for name, domain in parts.items():
        for part in ("test", "calibration"):
            if part in domain:
                (text / f"{name}.{part}.txt").write_text(domain[part], "utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.txt").write_text(mixed(parts, "test"), "utf-8")
    (folder / "calibration.txt").write_text(mixed(parts, "calibration"), "utf-8")
    # Scores are those of the published fp16 weights, not of the fp32 ones that were trained.
    half = model.half()
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = half.float()
    scores = {name: round(perplexity(model, ids), 2) for name, ids in tests.items()}
    record = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens_seen": STEPS * BATCH * CONTEXT,
        "test_perplexity": scores,
        "log": log,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(scores)


if __name__ == "__main__":
    main()
