"""How much memory is free, so that work which cannot fit is refused before it starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ..errors import Refused


def available() -> int:
    """Bytes that can be taken without swapping: Linux's own estimate, elsewhere all of the machine's memory."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def require(needed: int, what: str, way_out: str) -> None:
    """Refuse where `needed` bytes are more than is free."""
    free = available()
    if needed > free:
        raise Refused(
            f"{what} takes about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free: {way_out}"
        )


def peak() -> int:
    """The most memory that this process has held so far, bytes."""
    import resource  # not on Windows, where this file is imported all the same

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
