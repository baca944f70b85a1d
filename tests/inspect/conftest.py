"""A random Llama under a text that it has not seen, and a matrix that is ragged in every respect."""

import pytest
import torch

import workbench as wb


@pytest.fixture(scope="session")
def llama(llama_folder):
    return wb.load(llama_folder)


@pytest.fixture(scope="session")
def data(llama, text_file):
    """1,024 tokens in 16 windows: every prediction of a random network counts, few are enough."""
    return wb.evaluation(llama, text_file, tokens=1024)


@pytest.fixture
def w():
    """[45, 70]: neither side is a multiple of the cells of 2, 4 or 8 weights; three zeros for relative errors."""
    made = torch.randn(45, 70, generator=torch.Generator().manual_seed(1)) * 0.05
    made[0, 0] = made[44, 69] = made[20, 31] = 0
    return made


@pytest.fixture(scope="module")
def large():
    """[3000, 2100]: more weights than a tile is reduced from exactly, ragged cells, one outlier."""
    made = torch.randn(3000, 2100, generator=torch.Generator().manual_seed(2)) * 0.02
    made[1234, 567] = 1.0
    return made
