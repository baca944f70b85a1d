"""Everything that a family of CUDA kernels is compared with: the vendor's libraries, and compilers' and others' kernels
where their packages are installed. What is not installed is a candidate that says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from . import by_gemlite, by_triton, vendor
from .time import Candidate

if TYPE_CHECKING:
    from .cuda import Sets


def baselines(sets: Sets) -> list[tuple[str, Callable[[], Candidate]]]:
    """(name, maker) of what a family meets in one run; the first is the baseline of its ratios. A maker raises Refused
    where its package is missing, with the line that installs it."""
    return [*vendor.baselines(sets), *by_triton.baselines(sets), *by_gemlite.baselines(sets)]
