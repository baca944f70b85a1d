"""A random language model and a random classifier, small enough to measure in milliseconds."""

import pytest
import torch
from torch import nn

import workbench as wb
from workbench.measure import Evaluation


class Words:
    """A tokenizer: one word, one token, its number."""

    def encode(self, text, **options):
        return [int(word) for word in text.split()]


class Next(nn.Module):
    """Logits of the next of 17 tokens from this one and the mean of those before."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(17, 24)
        self.up_proj = nn.Linear(24, 40)
        self.down_proj = nn.Linear(40, 24)
        self.lm_head = nn.Linear(24, 17, bias=False)

    def forward(self, ids):
        x = self.embed_tokens(ids) * 2
        seen = x.cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        return self.lm_head(x + self.down_proj(torch.relu(self.up_proj(x + seen))))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return wb.load(Next(), name="next", task="language", tokenizer=Words())


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return wb.load(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)), task="classification")


@pytest.fixture
def text():
    """Seven windows of nine tokens in batches of two: the last batch is smaller."""
    ids = torch.randint(0, 17, (7, 9), generator=torch.Generator().manual_seed(1))
    return Evaluation(ids, None, "random tokens", 2)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    inputs, labels = torch.randn(50, 6, generator=generator), torch.randint(0, 4, (50,), generator=generator)
    return Evaluation(inputs, labels, "random images", 16)
