"""Make `data/tiny-resnet`, `data/tiny-vit` and `data/tiny-mlp` on Fashion-MNIST, and the images shipped with them.

    python -m workbench.model.zoo.train_images tiny-resnet
    python -m workbench.model.zoo.train_images tiny-vit
    python -m workbench.model.zoo.train_images tiny-mlp --seed 1      # makes data/tiny-mlp-b

The first two take about three quarters of an hour each on one core that multiplies bfloat16, an MLP two minutes. Seeds
1 and 2 make the siblings -b and -c: the same recipe from another start, for matching and merging. Every epoch is a
checkpoint below `--work`, and a second start goes on from there. The images come from Debian's package
dataset-fashion-mnist (MIT licence).
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from .corpus import fetch
from .networks import NETWORKS

MEAN, DEVIATION = 0.2860, 0.3530  # of the training images, on the scale 0 to 1
BATCH = 128
RECIPES = {
    "tiny-resnet": {"epochs": 24, "peak": 0.1, "decay": 5e-4, "optimizer": "sgd", "bfloat16": True},
    # Its products are too small for bfloat16 to pay: float32 was a third faster.
    "tiny-vit": {"epochs": 14, "peak": 1.5e-3, "decay": 0.05, "optimizer": "adamw", "bfloat16": False},
    # Large steps and decay: they bring the seeds into one basin after matching, which Adam did less.
    "tiny-mlp": {"epochs": 16, "peak": 0.1, "decay": 1e-3, "optimizer": "sgd", "bfloat16": False},
}
UNMOVED = ("tiny-mlp",)  # no shifts and flips: linear layers know each pixel by its place
SIBLINGS = ("", "-b", "-c")  # names by seed
TEST_SHIPPED, CALIBRATION_SHIPPED = 2000, 512


def read_images(root: Path, part: str) -> tuple[Tensor, Tensor]:
    """(images uint8 [n, 1, 28, 28], labels int64 [n]) of `train` or `t10k`, from the gzipped idx files."""
    folder = root / "usr/share/datasets/fashion-mnist"
    pixels = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    images = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return torch.from_numpy(images.copy()), torch.from_numpy(
        np.frombuffer(labels, np.uint8, offset=8).astype(np.int64)
    )


def normalise(images: Tensor) -> Tensor:
    return (images.float() / 255 - MEAN) / DEVIATION


def augment(images: Tensor, random: torch.Generator) -> Tensor:
    """Random horizontal flip and a shift of up to two pixels."""
    flip = torch.rand(len(images), generator=random) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    padded = F.pad(images, (2, 2, 2, 2))
    dy, dx = torch.randint(0, 5, (2, len(images)), generator=random)
    rows = (dy[:, None] + torch.arange(28))[:, None, :, None]
    columns = (dx[:, None] + torch.arange(28))[:, None, None, :]
    return padded[torch.arange(len(images))[:, None, None, None], 0, rows, columns]


@torch.no_grad()
def accuracy(model: torch.nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of right answers, float32, in evaluation mode."""
    model.eval()
    hits = sum(
        (model(normalise(x)).argmax(1) == y).sum().item()
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    return hits / len(labels)


def make_optimizer(model: torch.nn.Module, recipe: dict) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": recipe["decay"]},
        {"params": [p for p in model.parameters() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe["optimizer"] == "sgd":
        return torch.optim.SGD(groups, lr=recipe["peak"], momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=recipe["peak"], betas=(0.9, 0.98), fused=True)


def train(name: str, seed: int, data: dict[str, tuple[Tensor, Tensor]], work: Path):
    """Train one network by its recipe, one checkpoint an epoch; returns the model and its log."""
    recipe = RECIPES[name]
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    optimizer = make_optimizer(model, recipe)
    images, labels = data["train"]
    steps, warm_up = recipe["epochs"] * (len(images) // BATCH), 2 * (len(images) // BATCH)
    checkpoint, first, log = work / f"{name}-{seed}.pt", 0, []
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, log = saved["epoch"], saved["log"]
    began, loss = time.time(), torch.tensor(0.0)
    for epoch in range(first, recipe["epochs"]):
        random = torch.Generator().manual_seed(1000 * seed + epoch)
        order = torch.randperm(len(images), generator=random)
        model.train()
        for index, chosen in enumerate(order[: len(order) // BATCH * BATCH].split(BATCH)):
            step = epoch * (len(images) // BATCH) + index
            share = step / warm_up if step < warm_up else 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = recipe["peak"] * share
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe["bfloat16"]):
                shown = images[chosen] if name in UNMOVED else augment(images[chosen], random)
                logits = model(normalise(shown))
            loss = F.cross_entropy(logits.float(), labels[chosen], label_smoothing=0.1)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        score = accuracy(model, *data["test"])
        log.append({"epoch": epoch + 1, "loss": round(loss.item(), 4), "test_accuracy": score})
        print(f"{time.time() - began:6.0f} s", log[-1], flush=True)
        state = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "epoch": epoch + 1,
            "log": log,
        }
        torch.save(state, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)
    return model, log


def publish(name: str, seed: int, model: torch.nn.Module, log: list, data: dict, out: Path) -> None:
    """Write the network in fp16 (counters kept), its configuration and what the card quotes."""
    folder = out / (name + SIBLINGS[seed])
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    images, labels = data["test"]
    config = {"architecture": name, "task": "classification", "mean": MEAN, "deviation": DEVIATION}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    record = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "test_accuracy_10000": accuracy(model, images, labels),
        "test_accuracy_shipped_2000": accuracy(model, images[:TEST_SHIPPED], labels[:TEST_SHIPPED]),
        "log": log,
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(record["test_accuracy_10000"], record["test_accuracy_shipped_2000"])


def publish_images(data: dict, out: Path) -> None:
    """The first 2,000 test images and 512 training images (for calibration), as uint8 in safetensors."""
    folder = out / "fashion-mnist"
    folder.mkdir(parents=True, exist_ok=True)
    for part, source, count in (
        ("test", "test", TEST_SHIPPED),
        ("calibration", "train", CALIBRATION_SHIPPED),
    ):
        images, labels = data[source]
        save_file(
            {"images": images[:count].contiguous(), "labels": labels[:count].to(torch.uint8)},
            folder / f"{part}.safetensors",
        )


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("name", choices=sorted(NETWORKS))
    options.add_argument("--seed", type=int, default=0, choices=range(len(SIBLINGS)))
    options.add_argument("--work", type=Path, default=Path(".train"), help="package and checkpoints")
    options.add_argument("--out", type=Path, default=Path("data"))
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    root = fetch("dataset-fashion-mnist", chosen.work / "debian")
    data = {"train": read_images(root, "train"), "test": read_images(root, "t10k")}
    model, log = train(chosen.name, chosen.seed, data, chosen.work)
    publish(chosen.name, chosen.seed, model, log, data, chosen.out)
    publish_images(data, chosen.out)


if __name__ == "__main__":
    main()
