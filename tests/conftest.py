"""What all tests share: where the checkout is, a fresh kernel for code, seeds, and the order in which they run."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# No test asks a model hub for anything; a test that forgets this fails at once instead of waiting for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Property tests: the same examples in every run, and none fails because the machine is busy. Other examples are
# looked for with --hypothesis-profile=explore.
STEADY = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("steady", STEADY)
settings.register_profile("explore", STEADY, derandomize=False, max_examples=1000)
settings.load_profile("steady")


def pytest_sessionstart() -> None:
    # Set where tests run without a terminal, and taken for one: the shell's lines would be full of escape sequences.
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "PY_COLORS", "TTY_COMPATIBLE"):
        os.environ.pop(name, None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed the generators that tests, and libraries behind them, draw from: a test has the same data in every run,
    whichever tests ran before it. A hook, because it comes before the fixtures of every scope."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (the one that libraries draw from)
    if torch := sys.modules.get("torch"):  # where it is not imported yet it begins with a seed of its own
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def fresh_kernel() -> Callable[..., str]:
    """fresh_kernel(code) runs code in a kernel of its own and returns what it printed; its error is raised."""

    def run(code: str, timeout: float = 240) -> str:
        from jupyter_client.manager import start_new_kernel

        printed: list[str] = []

        def hear(message) -> None:
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                printed.append(message["content"]["text"])

        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        manager, client = start_new_kernel(kernel_name="python3", startup_timeout=240, env=environment)
        try:
            reply = client.execute_interactive(code, timeout=timeout, output_hook=hear, allow_stdin=False)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
        content = reply["content"]
        assert content["status"] == "ok", f"{content['ename']}: {content['evalue']}"
        return "".join(printed)

    def in_thread(code: str, timeout: float = 240) -> str:
        # playwright keeps an event loop running in the tests' thread; jupyter_client wants its own.
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(run, code, timeout).result()

    return in_thread


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The browser last: the quick tests speak first, and playwright's event loop, which lives as long as the
    # browser, is in nobody's way.
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., Path]:
    """make_llama(folder, **configuration): a random Llama with a byte-level tokenizer, as a checkpoint folder."""

    def make(folder: Path, seed: int = 0, dtype: str = "float32", **changes) -> Path:
        import torch
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        sizes = {
            "vocab_size": 257,
            "hidden_size": 64,
            "intermediate_size": 176,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "tie_word_embeddings": True,
        }
        torch.manual_seed(seed)
        # Larger weights than a start of training has: else every prediction is uniform and nothing changes it.
        model = LlamaForCausalLM(LlamaConfig(**(sizes | {"initializer_range": 0.2} | changes)))
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        alphabet = ["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
        tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def llama_folder(make_llama, tmp_path_factory) -> Path:
    """One random Llama that no test may change."""
    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def text_file(tmp_path_factory) -> Path:
    """1,200 tokens of a byte-level tokenizer."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("A person opens a network and looks at what rounding does. " * 40, "utf-8")
    return path
