"""The path through CuPy, with a stand-in for CuPy made of NumPy: which kernel is launched how, against what.

What only a GPU can tell (that the code loads, its results, its times) is left to the tests marked `gpu`.
"""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from workbench.errors import Refused
from workbench.speed import cuda, kernels, measure


class Event:
    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass


class RawModule:
    """Computes with NumPy what the kernels compute; `launches` holds (name, grid, block, shared bytes)."""

    launches: list[tuple] = []
    wrong = False

    def __init__(self, *, path: str):
        with open(path, "rb") as cubin:
            assert cubin.read(4) == b"\x7fELF"

    def get_function(self, name: str):
        def launch(grid, block, arguments, *, shared_mem: int) -> None:
            a, b, c, M, N, K = arguments
            assert (a.shape, b.shape, c.shape) == ((M, K), (K, N), (M, N))
            # A Python int would be passed as 64 bits.
            assert all(isinstance(size, np.int32) for size in (M, N, K))
            self.launches.append((name, grid, block, shared_mem))
            np.matmul(a, b, out=c)
            c *= 1 + self.wrong

        return launch


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy with one device, an H100 by its properties."""
    runtime = SimpleNamespace(
        CUDARuntimeError=RuntimeError,
        getDeviceCount=lambda: 1,
        getDeviceProperties=lambda _: {"name": b"Stand-in", "major": 9, "minor": 0, "l2CacheSize": 1000},
        driverGetVersion=lambda: 13010,
    )
    fake = SimpleNamespace(
        cuda=SimpleNamespace(
            runtime=runtime,
            driver=SimpleNamespace(CUDADriverError=RuntimeError),
            memory=SimpleNamespace(OutOfMemoryError=MemoryError),
            Device=lambda: SimpleNamespace(id=0),
            Event=Event,
            get_current_stream=lambda: SimpleNamespace(synchronize=lambda: None),
            get_elapsed_time=lambda start, stop: 1e3 * (stop.at - start.at),
        ),
        RawModule=RawModule,
        random=np.random,
        **{name: getattr(np, name) for name in ("float32", "nan", "empty", "matmul", "asarray")},
    )
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(RawModule, "launches", [])
    return fake


@pytest.mark.usefixtures("cupy")
def test_the_device_is_described():
    device, _ = cuda.find_device()
    assert device == cuda.Device("Stand-in", "sm_90", "13.1", 1000)


def test_no_device_is_said_and_not_raised(cupy):
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    assert cuda.find_device() == (None, "no CUDA device here")

    def fail() -> int:
        raise RuntimeError("driver too old")

    cupy.cuda.runtime.getDeviceCount = fail
    assert cuda.find_device() == (None, "no CUDA device here (driver too old)")


def test_without_cupy_a_gpu_is_still_mentioned(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.setattr(cuda.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert "workbench[cuda13]" in cuda.find_device()[1]


@pytest.mark.usefixtures("cupy", "compiler")
def test_each_kernel_runs_its_own_launch_against_cublas():
    frame = measure("33x65x70", "fp32_*", rounds=3)
    assert list(frame.kernel) == ["fp32_naive", "fp32_tiled"]
    assert set(frame["where"]) == {"measured"}
    assert set(frame.baseline) == {"cublas-fp32"}
    assert set(frame.device) == {"Stand-in"}
    assert list(frame.shared_bytes) == [0, 8192]
    wanted = {(kernel.name, *kernel.launch(33, 65, 70)) for kernel in kernels().values()}
    assert set(RawModule.launches) == wanted


@pytest.mark.usefixtures("cupy", "compiler")
def test_a_wrong_kernel_is_a_row_without_a_time(monkeypatch):
    monkeypatch.setattr(RawModule, "wrong", True)
    frame = measure("8x8x8", "fp32_naive", rounds=1)
    assert frame["where"][0] == "skipped"
    assert "wrong, relative error 1 " in frame.note[0]


def test_a_baseline_in_tf32_is_refused(cupy):
    def tf32(a, b, *, out) -> None:
        np.matmul(a * np.float32(1 + 3e-4), b, out=out)

    cupy.matmul = tf32
    with pytest.raises(Refused, match="CUPY_TF32"):
        measure("8x8x8", "fp32_naive", rounds=1)


def test_a_product_that_does_not_fit_the_device_is_refused(cupy):
    def full(seed: int):
        raise MemoryError("out of memory allocating 3 bytes")

    cupy.random = SimpleNamespace(default_rng=full)
    with pytest.raises(Refused, match="8x8x8 does not fit Stand-in"):
        measure("8x8x8", "fp32_naive")
