"""Small random networks with the peculiarities of the large ones."""

import pytest
import torch
from torch import nn

import workbench as wb


@pytest.fixture(scope="session")
def llama():
    """A Llama of two blocks with grouped queries, in training mode, 32 context."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=61,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=32,
            tie_word_embeddings=False,
        )
    ).train()


@pytest.fixture(scope="session")
def gpt2():
    """A GPT-2 of two blocks: Conv1D weights [in, out], the head tied to the embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0}
    config = GPT2Config(vocab_size=61, n_embd=24, n_layer=2, n_head=4, n_positions=32, **ids)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="session")
def gpt2_folder(gpt2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpt2")
    gpt2.save_pretrained(folder)
    return folder


class ConvNet(nn.Module):
    """A residual stem and a head: convolutions 3 x 3 and 1 x 1, batch norm, dropout, linear."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.layer1 = nn.Sequential(nn.Sequential(nn.Conv2d(6, 6, 3, stride=2), nn.Conv2d(6, 8, 1)))
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(self.drop(self.depthwise(x).mean((2, 3))))


@pytest.fixture
def conv_net():
    torch.manual_seed(0)
    return ConvNet().train()


@pytest.fixture
def model():
    """Six layers of two blocks, named as in a Llama; nothing to run."""
    torch.manual_seed(0)
    blocks = [nn.ModuleDict({"q_proj": nn.Linear(8, 8), "down_proj": nn.Linear(16, 8)}) for _ in range(2)]
    parts = {
        "embed_tokens": nn.Embedding(10, 8),
        "layers": nn.ModuleList(blocks),
        "lm_head": nn.Linear(8, 10),
    }
    return wb.load(nn.ModuleDict(parts), name="toy")
