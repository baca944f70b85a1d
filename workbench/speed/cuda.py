"""The candidates that run on an NVIDIA GPU, through CuPy: our kernels, and cuBLAS as their baseline."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Refused
from .cpu import fp32_tolerance
from .kernel import Kernel
from .nvrtc import Compiled, NoCompiler, compile_kernel
from .timing import Candidate

BASELINE = "cublas-fp32"
MOST_COPIES = 24


@dataclass(frozen=True)
class Device:
    """A GPU that answers: its name, architecture ("sm_90"), driver ("13.0") and bytes of second-level
    cache."""

    name: str
    arch: str
    driver: str
    cache_bytes: int


def find_device() -> tuple[Device | None, str]:
    """The GPU, or None and why there is none in a few words."""
    try:
        import cupy
    except ImportError:
        if shutil.which("nvidia-smi") or os.path.exists("/dev/nvidiactl"):
            return None, 'a GPU may be here, but CuPy is not (pip install "workbench[cuda13]")'
        return None, "no CUDA device here"
    runtime = cupy.cuda.runtime
    try:
        if runtime.getDeviceCount() == 0:
            return None, "no CUDA device here"
        properties = runtime.getDeviceProperties(cupy.cuda.Device().id)
        version = runtime.driverGetVersion()
    except runtime.CUDARuntimeError as error:
        return None, f"no CUDA device here ({error})"
    return Device(
        name=properties["name"].decode(),
        arch=f"sm_{properties['major']}{properties['minor']}",
        driver=f"{version // 1000}.{version % 1000 // 10}",
        cache_bytes=properties["l2CacheSize"],
    ), ""


def event_clock(work: Callable[[], object]) -> float:
    """Seconds between two events on the device, before and after `work`."""
    import cupy

    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    cupy.cuda.get_current_stream().synchronize()
    start.record()
    work()
    stop.record()
    stop.synchronize()
    return cupy.cuda.get_elapsed_time(start, stop) / 1e3


def operand_sets(M: int, N: int, K: int, device: Device, *, seed: int = 0) -> list[tuple[Any, Any]]:
    """Random operands on the device (normal, fp32) in as many copies as exceed three times its second-level
    cache."""
    import cupy

    random = cupy.random.default_rng(seed)
    a = random.standard_normal((M, K), dtype=cupy.float32)
    b = random.standard_normal((K, N), dtype=cupy.float32)
    copies = min(MOST_COPIES, -(-3 * device.cache_bytes // (a.nbytes + b.nbytes)))
    return [(a, b)] + [(a.copy(), b.copy()) for _ in range(copies - 1)]


def cublas(sets: list[tuple[Any, Any]]) -> Candidate:
    """cuBLAS in fp32. TF32 is off unless CUPY_TF32 is set, and then the check against float64 refuses it."""
    import cupy

    c = cupy.empty((sets[0][0].shape[0], sets[0][1].shape[1]), dtype=cupy.float32)
    return Candidate(
        name=BASELINE,
        run=lambda i: cupy.matmul(*sets[i % len(sets)], out=c),
        poison=lambda: c.fill(cupy.nan),
        output=lambda: c,
        tolerance=fp32_tolerance(sets),
    )


def candidate(
    kernel: Kernel, sets: list[tuple[Any, Any]], device: Device
) -> tuple[Candidate, Compiled | None]:
    """A kernel as a candidate, and what its compilation says (None if CuPy had to compile it)."""
    import cupy
    import numpy as np

    (M, K), N = sets[0][0].shape, sets[0][1].shape[1]
    grid, block, shared = kernel.launch(M, N, K)
    if int(device.arch[3:]) < int(kernel.architecture[3:].rstrip("af")):
        raise Refused(f"{kernel.name} needs {kernel.architecture} or newer; {device.name} is {device.arch}")
    function, compiled = _load(kernel, device)
    if shared > 48 << 10:
        function.max_dynamic_shared_size_bytes = shared  # more than 48 KB has to be asked for
    c = cupy.empty((M, N), dtype=cupy.float32)
    sizes = np.int32(M), np.int32(N), np.int32(K)

    def run(i: int) -> None:
        function(grid, block, (*sets[i % len(sets)], c, *sizes), shared_mem=shared)

    made = Candidate(kernel.name, run, lambda: c.fill(cupy.nan), lambda: c, fp32_tolerance(sets))
    return made, compiled


def _load(kernel: Kernel, device: Device) -> tuple[Any, Compiled | None]:
    import cupy

    try:
        # Our own compilation, because CuPy puts its own -arch after ours and so cannot make sm_90a code.
        arch = kernel.architecture if kernel.architecture.startswith(f"{device.arch}a") else device.arch
        compiled = compile_kernel(kernel.source, arch, name=Path(kernel.where).name)
        cubin = Path(_folder().name, f"{kernel.name}-{kernel.hash}-{arch}.cubin")
        cubin.write_bytes(compiled.cubin)
        return cupy.RawModule(path=str(cubin)).get_function(kernel.name), compiled
    except (NoCompiler, cupy.cuda.driver.CUDADriverError):
        # No NVRTC of ours, or one newer than the driver: CuPy then uses the NVRTC that it was built for.
        try:
            return cupy.RawModule(code=kernel.source, backend="nvrtc").get_function(kernel.name), None
        except cupy.cuda.compiler.CompileException as error:
            raise Refused(f"{kernel.name} does not compile for {device.arch}: {error}") from None


@functools.cache
def _folder() -> tempfile.TemporaryDirectory:
    """Holds the cubins until the process ends: CuPy reads the file again for each device."""
    return tempfile.TemporaryDirectory(prefix="workbench-speed-")
