"""How much memory is free, so that work which cannot fit is refused before it starts."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from ..errors import Refused


def available() -> int:
    """Bytes that can be taken without swapping: Linux's own estimate, or what a container's limit leaves where that is
    less; elsewhere all of the machine's memory."""
    return min([_of_machine(), *_of_groups(Path("/sys/fs/cgroup"))])


def _of_machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# Control groups, version 2 and 1: where they are, and the names of limit, use, and pages of files that nobody uses.
_VERSIONS = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def _of_groups(root: Path, own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What the limits of this process's control groups leave, from its own up to the root. Pages of files that nobody
    uses can be had back at once, so they count as free. Nothing where there are no such groups."""
    left: list[int] = []
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return left
    for _, controllers, path in lines:
        if controllers not in _VERSIONS:
            continue
        folder, limit, used, unused = _VERSIONS[controllers]
        group = root / folder / path.lstrip("/")
        for each in (group, *group.parents):
            try:
                most = int((each / limit).read_text())
                kept = dict(line.split() for line in (each / "memory.stat").read_text().splitlines())
                left.append(max(0, most - int((each / used).read_text()) + int(kept.get(unused, 0))))
            except (OSError, ValueError):  # not there, or "max"
                continue
            if each == root:
                break
    return left


def require(needed: int, what: str, way_out: str) -> None:
    """Refuse where `needed` bytes are more than is free."""
    free = available()
    if needed > free:
        raise Refused(
            f"{what} takes about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free: {way_out}"
        )


def trim() -> None:
    """Give freed memory back to the system. glibc keeps freed matrices of many threads in its arenas, which adds up to
    as much again for each block of a large network; other allocators do it by themselves."""
    import ctypes

    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # musl
            ctypes.CDLL(None).malloc_trim(0)


def peak() -> int:
    """The most memory that this process has held so far, bytes."""
    import resource  # not on Windows, where this file is imported all the same

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
