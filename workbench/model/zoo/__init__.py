"""The embedded models and data: what lies in `data/`, and how to run it.

Made by `train_llama` and `train_images` beside this file; each folder has a card (README.md).
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
    """One embedded model: its name, the task, one sentence, and where its evaluation data lie."""

    name: str
    task: str
    summary: str
    evaluation: str

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
    def record(self) -> dict[str, Any]:
        """What the training wrote down: parameters, scores on the test part, the log."""
        return json.loads((self.folder / "training.json").read_text("utf-8"))


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
    """The embedded model of that name. Refused, with near names, where there is none."""
    for entry in MODELS:
        if entry.name == name:
            return entry
    raise Refused(f"no embedded model is called {name!r}{near(name, [entry.name for entry in MODELS])}")


def is_embedded(name: str) -> bool:
    return any(entry.name == name for entry in MODELS)
