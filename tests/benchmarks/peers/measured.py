"""What the peers' scripts share: the same model, texts, windows and KL for each, and the line they print.

Knows nothing of Workbench, so that it runs in an environment that has the peer and transformers alone.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

DATA = Path(__file__).resolve().parents[3] / "data"
WINDOW = 512
CALIBRATION, EVALUATION = 8192, 4096  # tokens: the first ones of the two texts of tiny-llama
BITS, GROUP = 4, 64
# 4 bits a code; for each group a scale of 16 bits and a zero point of 4.
BITS_PER_WEIGHT = BITS + (16 + BITS) / GROUP


def arguments(about: str, **choices: tuple[str, ...]) -> argparse.Namespace:
    """The options of a script: --model, --threads, and one for each of `choices`, whose first is the default."""
    options = argparse.ArgumentParser(description=about.splitlines()[0])
    options.add_argument("--model", type=Path, default=DATA / "smollm2-135m", help="from make smollm2")
    options.add_argument("--threads", type=int, default=2)
    for name, values in choices.items():
        options.add_argument(f"--{name}", choices=values, default=values[0])
    chosen = options.parse_args()
    if not (chosen.model / "model.safetensors").is_file():
        options.error(f"there is no model in {chosen.model}: make smollm2 fetches it")
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    return chosen


def load(folder: Path) -> nn.Module:
    """The unchanged model in float32, as Workbench runs it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()


def windows(folder: Path, part: str, tokens: int) -> Tensor:
    """The first `tokens` tokens of a text ("calibration", "evaluation") as windows [n, WINDOW]."""
    from transformers import AutoTokenizer, utils

    utils.logging.set_verbosity_error()  # the text is longer than the model's context
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    ids = tokenizer((DATA / "tiny-llama" / f"{part}.txt").read_text("utf-8"))["input_ids"]
    return torch.tensor(ids[:tokens]).view(-1, WINDOW)


@torch.no_grad()
def kl(original: nn.Module, changed: nn.Module, folder: Path) -> float:
    """Mean KL divergence in nats from the original's prediction to the changed one's, over predicted positions."""
    total, places = 0.0, 0
    for window in windows(folder, "evaluation", EVALUATION):
        p, q = (model(window[None]).logits[0, :-1].float().log_softmax(-1) for model in (original, changed))
        total += float((p.exp() * (p - q)).sum())
        places += len(p)
    return total / places


@dataclass
class Clock:
    """Wall time, and the time of all threads, which other work on the machine hardly changes."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.seconds, self.cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu


def report(tool: str, package: str, clock: Clock, divergence: float, **more: object) -> None:
    """One JSON line on stdout."""
    line = {
        "tool": tool,
        "version": importlib.metadata.version(package),
        "seconds": round(clock.seconds, 1),
        "cpu_seconds": round(clock.cpu_seconds, 1),
        "kl": round(divergence, 5),
        "bits_per_weight": BITS_PER_WEIGHT,
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
        "threads": torch.get_num_threads(),
        **more,
    }
    print(json.dumps(line))
