"""What the tests of the speed room share: a compiler or a reason to skip, and CUDA kernels run on the CPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from workbench.speed import Kernel, cuda, nvrtc

HERE = Path(__file__).parent
GUARD = 4096  # NaN floats around each operand: a read beyond its end that is used makes the result NaN
SENTINEL = np.float32(-7e7)  # around the result: a write beyond its end replaces it

LAUNCH = """
#include "cuda_on_cpu.h"
#include "kernel.cu"
extern "C" int launch(const unsigned* g, const unsigned* b, int backward, const float* A, const float* B, float* C,
                      int M, int N, int K) {{
    return run_blocks({{g[0], g[1], g[2]}}, {{b[0], b[1], b[2]}}, backward, [&] {{ {name}(A, B, C, M, N, K); }});
}}
"""


@pytest.fixture
def compiler() -> str:
    """The NVRTC library; without it the test is skipped, and says what would let it run."""
    try:
        return nvrtc.find_nvrtc()
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


@pytest.fixture(scope="session")
def build() -> Callable:
    """build(kernel, folder) -> product(a, b, backward=False) -> c: a CUDA kernel, run on the CPU by cuda_on_cpu.h.
    Skips the test where there is no g++ on Linux."""
    if sys.platform != "linux" or not shutil.which("g++"):
        pytest.skip("no g++ on Linux here to build the CPU check of the CUDA kernels with")
    return _build


def _build(kernel: Kernel, folder: Path):
    (folder / "kernel.cu").write_text(kernel.source)
    (folder / "launch.cpp").write_text(LAUNCH.format(name=kernel.name))
    library = folder / f"{kernel.name}.so"
    command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", f"-I{HERE}", f"-I{folder}", "-o", library]
    done = subprocess.run([*command, folder / "launch.cpp"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    launch = ctypes.CDLL(str(library)).launch

    def product(a: np.ndarray, b: np.ndarray, *, backward: bool = False) -> np.ndarray:
        (M, K), N = a.shape, b.shape[1]
        grid, block, shared = kernel.launch(M, N, K)
        assert shared == 0, "dynamic shared memory is not modelled"
        guarded = [_guarded(a, np.nan), _guarded(b, np.nan), _guarded(np.full((M, N), np.nan), SENTINEL)]
        pointers = [ctypes.c_void_p(array[GUARD:].ctypes.data) for array in guarded]
        triple = ctypes.c_uint * 3
        assert launch(triple(*grid), triple(*block), int(backward), *pointers, M, N, K) == 0, (
            "barrier not met by all"
        )
        c = guarded[2]
        assert (np.concatenate([c[:GUARD], c[-GUARD:]]) == SENTINEL).all(), "wrote beyond C"
        return c[GUARD:-GUARD].reshape(M, N)

    return product


def _guarded(array: np.ndarray, guard: float) -> np.ndarray:
    around = np.full(GUARD, guard, dtype=np.float32)
    return np.concatenate([around, array.astype(np.float32).ravel(), around])
