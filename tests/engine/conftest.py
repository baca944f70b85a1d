"""A small network with every peculiarity that a plan has to see, runnable and calibrated in milliseconds."""

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.methods import METHODS, Method


class Network(nn.Module):
    """Two blocks over embedded tokens; the head is tied to the embedding. 96 inputs are none of 64's multiples."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(20, 32)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"up_proj": nn.Linear(32, 96), "down_proj": nn.Linear(96, 32)}) for _ in range(2)
        )
        self.lm_head = nn.Linear(32, 20, bias=False)
        self.lm_head.weight = self.embed_tokens.weight

    def forward(self, ids):
        x = self.embed_tokens(ids)
        for block in self.layers:
            x = x + block["down_proj"](torch.relu(block["up_proj"](x)))
        return self.lm_head(x)


LINEAR = [f"layers.{i}.{name}" for i in (0, 1) for name in ("up_proj", "down_proj")]


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def model(module):
    return wb.load(module, name="toy", task="language")


@pytest.fixture
def calibrated():
    """A pruner that needs mean x^2 and counts its calls; registered for one test."""

    class Calibrated(Method):
        name = "calibrated"
        kind = "prune"
        needs = frozenset({"mean_square"})

        def compress(self, w, statistics=None):
            calls.append(statistics.mean_square)
            from workbench.grid import uncompressed

            return uncompressed(w).with_mask(w.abs() * statistics.mean_square.sqrt() > 0.01)

    calls = []
    Calibrated.calls = calls
    yield Calibrated
    METHODS._known.pop("calibrated", None)
