"""What there is to know of this CPU: its name, cache, free memory, instructions, clock, and who else uses it."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path

from ...errors import Refused, near

ISA = "WORKBENCH_ISA"  # environment variable that chooses a path for tests

# What each path is compiled with, and the instructions that it must find here (LLVM's names)
FLAGS = {
    "portable": (),
    "avx2": ("-mavx2", "-mfma", "-mf16c"),
    "avx512": (
        *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma", "-mf16c"),
        "-mprefer-vector-width=512",
    ),
}
NEEDS = {
    "portable": (),
    "avx2": ("avx2", "fma", "f16c"),
    "avx512": ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "fma", "f16c"),
}


def isa() -> str:
    """The widest path that this CPU runs: "avx512" (with VNNI), "avx2" or "portable"; $WORKBENCH_ISA chooses
    another. Refused: a path that does not exist, or that this CPU cannot run."""
    able = paths()
    named = os.environ.get(ISA)
    if not named:
        return able[-1]
    if named not in FLAGS:
        raise Refused(f"{ISA}: there is no path {named!r}{near(named, FLAGS)}")
    if named not in able:
        raise Refused(f"{ISA}: this CPU ({cpu_name()}) does not run {named}; it runs {', '.join(able)}")
    return named


@functools.cache
def paths() -> tuple[str, ...]:
    """The paths that this CPU runs, the widest last."""
    features = _features()
    return tuple(name for name, needs in NEEDS.items() if all(features.get(need) for need in needs))


def _features() -> dict[str, bool]:
    from llvmlite import binding  # asks the processor itself, and whether the system keeps its registers

    return dict(binding.get_host_cpu_features())


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


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy() -> str:
    """What to say of a machine where other work leaves fewer cores than it has; "" where all are free. Waiting
    threads suffer most: a BLAS that splits a small product over its threads then waits whole time slices."""
    try:
        running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0]) - 1  # without ourselves
    except (OSError, ValueError, IndexError):
        return ""
    return f"other work keeps {min(running, cores())} of {cores()} cores busy" if running > 0 else ""


def clock_mhz() -> float | None:
    """The clock of the first core that this process may use, MHz, now; None where the system does not say. A
    virtual machine mostly says one number for ever."""
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    try:
        return int(Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq").read_text()) / 1e3
    except (OSError, ValueError):
        pass
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("cpu MHz"):
                return float(line.split(":")[1])
    except (OSError, ValueError):
        pass
    return None


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
