"""The line of a source that a place in its library was compiled from, as the linker's own tool knows it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

LINE = 1 << 31  # races.h: a place with this bit is a line


def line_of(place: int, library: str | Path, source: str) -> int:
    """Line (from 1) of the file called `source` that `place` belongs to: a line itself, or an offset in the library.
    0: not known, because binutils are not installed or the place is in another file."""
    if place & LINE:
        return place & ~LINE
    tool = shutil.which("addr2line") or shutil.which("llvm-addr2line")
    if not place or tool is None:
        return 0
    try:
        done = subprocess.run(
            # -i: the functions that were inlined there, innermost first
            [tool, "-i", "-e", str(library), hex(place)],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    for frame in done.stdout.splitlines():
        file, _, line = frame.split(" (")[0].rpartition(":")
        if Path(file).name == source and line.isdigit():
            return int(line)
    return 0
