"""Row chunks on all cores: compiled loops release the interpreter lock, so plain threads share the work.

A pool of our own instead of numba's parallel loops: those may not be entered from two Python threads at once,
and the bench has a slider's thread and a job's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

CHUNK = 256  # rows; a chunk of 4,096 columns in float32 is 4 MB


@cache
def pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="workbench-rows")


def cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1


def over_rows(work: Callable[[int, int], Any], rows: int, chunk: int = CHUNK, align: int = 8) -> list[Any]:
    """[work(start, stop), ...] over [0, rows) in order, on all cores; starts are multiples of `align`."""
    chunk = max(align, min(chunk, -(-rows // cores())))
    chunk += -chunk % align
    starts = range(0, rows, chunk)
    if len(starts) <= 1:
        return [work(0, rows)] if rows else []
    return list(pool().map(lambda start: work(start, min(start + chunk, rows)), starts))
