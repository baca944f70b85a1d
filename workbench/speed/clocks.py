"""What the clocks are at: read, written down, never set. A number without its clock cannot be compared later."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

from .cpu import machine

# nvidia-smi's name -> ours
GPU = {
    "clocks.sm": "sm_mhz",
    "clocks.mem": "memory_mhz",
    "power.draw": "power_w",
    "temperature.gpu": "temperature_c",
    "clocks_throttle_reasons.active": "throttle",
}


def cpu_clocks() -> dict[str, Any]:
    """{"cpu_mhz": now, or None where the system does not say}."""
    return {"cpu_mhz": machine.clock_mhz()}


def gpu_clocks() -> dict[str, Any]:
    """Clocks, power, temperature and the reasons for throttling (a bit mask) of the first GPU; {} where nvidia-smi
    does not answer."""
    if not shutil.which("nvidia-smi"):
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU)}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return {}
    return read_clocks(done.stdout)


def read_clocks(text: str) -> dict[str, Any]:
    """One line of nvidia-smi's, such as "1980, 2619, 701.2, 54, 0x0000000000000000"."""
    made: dict[str, Any] = {}
    for name, said in zip(GPU.values(), text.strip().split(","), strict=False):
        try:
            made[name] = int(said, 16) if name == "throttle" else float(said)
        except ValueError:  # "[N/A]"
            made[name] = None
    return made
