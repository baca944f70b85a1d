"""What all tests share: where the checkout is, a fresh kernel for code, and the order in which they run."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# No test asks a model hub for anything; a test that forgets this fails at once instead of waiting for a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


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

        manager, client = start_new_kernel(kernel_name="python3", env=os.environ | {"PYTHONPATH": str(ROOT)})
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
