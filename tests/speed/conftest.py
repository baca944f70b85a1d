"""What the tests of the speed room share: a compiler or a reason to skip, and no GPU where none is meant."""

from __future__ import annotations

import pytest

from workbench.speed import cuda, cxx, nvrtc


@pytest.fixture
def compiler() -> str:
    """The NVRTC library; without it the test is skipped, and says what would let it run."""
    try:
        return nvrtc.find_nvrtc()
    except nvrtc.NoCompiler as error:
        pytest.skip(str(error))


@pytest.fixture
def cpp() -> str:
    """A C++ compiler, or the test is skipped."""
    try:
        return cxx.find_compiler().identity
    except nvrtc.NoCompiler as error:
        pytest.skip(str(error))


@pytest.fixture
def gpu() -> cuda.Device:
    device, why = cuda.find_device()
    if device is None:
        pytest.skip(why)
    return device


@pytest.fixture
def no_gpu(monkeypatch) -> None:
    """The same answer on every machine: no GPU."""
    monkeypatch.setattr(cuda, "find_device", lambda: (None, "no CUDA device here"))
