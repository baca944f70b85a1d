"""The embedded models and data: what lies in `data/`, and how to run it.

Made by `train_llama` and `train_images` beside this file; each folder has a card (README.md). One model is too
large for the repository: it is there once `make smollm2` has fetched it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...errors import Refused, near


@dataclass(frozen=True)
class Embedded:
    """One embedded model: its name, the task, one sentence, and where its evaluation data lie.

    `target` is the Makefile's target that fetches it, for a model that the repository does not carry.
    """

    name: str
    task: str
    summary: str
    evaluation: str
    target: str = ""

    @property
    def folder(self) -> Path:
        return data_folder() / self.name

    @property
    def here(self) -> bool:
        """Whether its weights are there."""
        return (self.folder / "model.safetensors").is_file()

    @property
    def nbytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.iterdir() if file.is_file())

    @property
    def record_file(self) -> Path:
        """Of the training; a model that was fetched has another, so that no generated table counts on it."""
        return self.folder / ("fetched.json" if self.target else "training.json")

    @property
    def record(self) -> dict[str, Any]:
        """What the training wrote down: parameters, scores on the test part, the log."""
        return json.loads(self.record_file.read_text("utf-8"))


SMOLLM2 = Embedded(
    "smollm2-135m",
    "language",
    "SmolLM2-135M-Instruct, a real language model: 30 blocks, outliers, grouped-query attention",
    "tiny-llama/evaluation.txt",
    target="smollm2",
)
MODELS = (
    Embedded(
        "tiny-llama",
        "language",
        "4.7 M parameter Llama (RMSNorm, RoPE, SwiGLU, GQA), trained on public-domain English and WordNet glosses",
        "tiny-llama/evaluation.txt",
    ),
    Embedded(
        "tiny-resnet",
        "classification",
        "0.27 M parameter residual network on Fashion-MNIST",
        "fashion-mnist/test.safetensors",
    ),
    Embedded(
        "tiny-vit",
        "classification",
        "0.54 M parameter vision transformer on Fashion-MNIST, fused q, k, v",
        "fashion-mnist/test.safetensors",
    ),
    Embedded(
        "tiny-mlp",
        "classification",
        "0.93 M parameter stack of linear layers (784-512-512-512-10) on Fashion-MNIST",
        "fashion-mnist/test.safetensors",
    ),
    Embedded(
        "tiny-mlp-b",
        "classification",
        "tiny-mlp trained from another seed",
        "fashion-mnist/test.safetensors",
    ),
    Embedded(
        "tiny-mlp-c",
        "classification",
        "tiny-mlp trained from a third seed",
        "fashion-mnist/test.safetensors",
    ),
    Embedded(
        "tiny-resnet-b",
        "classification",
        "tiny-resnet trained from another seed",
        "fashion-mnist/test.safetensors",
    ),
    SMOLLM2,
)


@cache
def data_folder() -> Path:
    """`data/` of the checkout, of the installed package, or of the variable WORKBENCH_DATA."""
    package = Path(__file__).resolve().parents[2]
    places = [Path(os.environ["WORKBENCH_DATA"])] if "WORKBENCH_DATA" in os.environ else []
    places += [package.parent / "data", package / "_data"]
    for place in places:
        if (place / "tiny-llama").is_dir():
            return place
    raise Refused(f"the embedded models are in none of {', '.join(map(str, places))}: set WORKBENCH_DATA")


def embedded(name: str) -> Embedded:
    """The embedded model of that name. Refused, with near names, where there is none, or where it was not fetched."""
    for entry in MODELS:
        if entry.name == name:
            if entry.target and not entry.here:
                raise Refused(f"{name} is not in {entry.folder.parent}: make {entry.target} fetches it")
            return entry
    raise Refused(f"no embedded model is called {name!r}{near(name, [entry.name for entry in MODELS])}")


def is_embedded(name: str) -> bool:
    return any(entry.name == name for entry in MODELS)
