"""The candidates that run on the CPU. A new one is one decorated function from operand sets to a
Candidate."""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .timing import Candidate

if TYPE_CHECKING:
    import numpy as np

    Sets = list[
        tuple[np.ndarray, np.ndarray]
    ]  # equal pairs A [M,K], B [K,N], fp32, each in memory of its own

BASELINE = "cpu-torch-fp32"


@dataclass(frozen=True)
class Rung:
    """One CPU kernel: `make` turns operand sets into a Candidate, `note` is what a reader of its row must
    know."""

    name: str
    bits: int
    idea: str
    note: str
    make: Callable[[Sets], Candidate]
    file: str = ""  # beside this one, where the arithmetic is; else it is in `make` itself

    @property
    def source(self) -> str:
        return Path(__file__).with_name(self.file).read_text() if self.file else inspect.getsource(self.make)

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that change with the source."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:12]


_RUNGS: dict[str, Rung] = {}


def rungs() -> dict[str, Rung]:
    """Every CPU kernel by name, the baseline first."""
    return dict(_RUNGS)


def rung(name: str, *, bits: int, idea: str, note: str = "", file: str = ""):
    def register(make: Callable[[Sets], Candidate]) -> Callable[[Sets], Candidate]:
        _RUNGS[name] = Rung(name, bits, idea, note, make, file)
        return make

    return register


@rung(BASELINE, bits=32, idea="What torch calls: the vendor's BLAS, all threads.")
def torch_fp32(sets: Sets) -> Candidate:
    return _torch(BASELINE, sets, "float32", fp32_tolerance(sets))


@rung(
    "cpu-torch-bf16",
    bits=16,
    idea="Half the bytes: pays where memory is the limit, and where the CPU has bfloat16 instructions.",
    note="operands and result rounded to bfloat16",
)
def torch_bf16(sets: Sets) -> Candidate:
    return _torch("cpu-torch-bf16", sets, "bfloat16", 1e-2)  # three roundings of 2^-9 at most: about 3e-3


@rung(
    "cpu-numba-tiled",
    bits=32,
    idea="Three loops in an order that runs along memory, cut so that a tile of B stays in the cache.",
    note="one thread",
    file="cpu_numba.py",
)
def numba_tiled(sets: Sets) -> Candidate:
    import numpy as np

    from .cpu_numba import tiled

    c = np.empty((sets[0][0].shape[0], sets[0][1].shape[1]), dtype=np.float32)
    return Candidate(
        name="cpu-numba-tiled",
        run=lambda i: tiled(*sets[i % len(sets)], c),
        poison=lambda: c.fill(np.nan),
        output=lambda: c,
        tolerance=fp32_tolerance(sets),
    )


def _torch(name: str, sets: Sets, dtype: str, tolerance: float) -> Candidate:
    import torch

    kind = getattr(torch, dtype)
    operands = [(torch.from_numpy(a).to(kind), torch.from_numpy(b).to(kind)) for a, b in sets]
    c = torch.empty(operands[0][0].shape[0], operands[0][1].shape[1], dtype=kind)
    return Candidate(
        name=name,
        run=lambda i: torch.mm(*operands[i % len(operands)], out=c),
        poison=lambda: c.fill_(float("nan")),
        output=lambda: c.float().numpy(),
        tolerance=tolerance,
    )


def fp32_tolerance(sets) -> float:
    """Relative error that fp32 sums of K products may have: 5e-6 up to K = 4096, then growing with sqrt(K) as
    the rounding errors of random operands do. TF32 (3e-4) does not pass."""
    K = sets[0][0].shape[1]
    return 5e-6 * max(1.0, K / 4096) ** 0.5


def operand_sets(M: int, N: int, K: int, *, most: int = 24, seed: int = 0) -> Sets:
    """Random operands A [M,K], B [K,N] (normal, fp32) in as many copies as together exceed three times the
    last cache, so that a product in a row of products finds its operands in memory, as a layer of a model
    does."""
    import numpy as np

    random = np.random.default_rng(seed)
    a = random.standard_normal((M, K), dtype=np.float32)
    b = random.standard_normal((K, N), dtype=np.float32)
    copies = min(most, -(-3 * cache_bytes() // (a.nbytes + b.nbytes)))
    return [(a, b)] + [(a.copy(), b.copy()) for _ in range(copies - 1)]


@functools.cache
def cache_bytes() -> int:
    """Bytes of the last-level cache, between 8 and 64 MB (a virtual machine may show its host's); 32 MB if
    unknown."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index3/size").read_text().strip()
        size = int(text.rstrip("K")) * 1024
    except (OSError, ValueError):
        size = 32 << 20
    return min(max(size, 8 << 20), 64 << 20)


@functools.cache
def cpu_name() -> str:
    """The CPU's model name, as its maker writes it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    if platform.system() == "Darwin":
        done = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        if done.stdout.strip():
            return done.stdout.strip()
    return platform.processor() or platform.machine() or "unknown CPU"


def busy() -> str:
    """What to say of a machine where other work leaves fewer cores than it has; "" where all are free. Waiting
    threads suffer most: a BLAS that splits a small product over its threads then waits whole time slices."""
    try:
        running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0]) - 1  # without ourselves
    except (OSError, ValueError, IndexError):
        return ""
    cores = len(os.sched_getaffinity(0))
    return f"other work keeps {min(running, cores)} of {cores} cores busy" if running > 0 else ""


def free_bytes() -> int | None:
    """Memory that can be taken without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
