"""The readable rungs: loops in Python, compiled by numba. The arithmetic is in `numba_loops`."""

from __future__ import annotations

from ..time import Candidate
from .candidates import fp32_candidate
from .operands import Operands
from .rungs import rung


def _numba(name: str, loops: str, sets: Operands) -> Candidate:
    from . import numba_loops

    function = getattr(numba_loops, loops)
    return fp32_candidate(name, sets, lambda a, b, c: function(a, b, c))


@rung(
    "cpu-numba-naive",
    bits=32,
    idea="The definition in Python, compiled: for every element of C, one sum over K.",
    note="one thread",
    file="numba_loops.py",
    gain="none: as cpu-naive, in another language",
)
def numba_naive(sets: Operands) -> Candidate:
    return _numba("cpu-numba-naive", "naive", sets)


@rung(
    "cpu-numba-reordered",
    bits=32,
    idea="The loop over columns innermost, so that B and C are read along memory.",
    note="one thread",
    file="numba_loops.py",
    gain="10 to 20x over naive: whole cache lines are read, and vectors are filled",
)
def numba_reordered(sets: Operands) -> Candidate:
    return _numba("cpu-numba-reordered", "reordered", sets)


@rung(
    "cpu-numba-tiled",
    bits=32,
    idea="Three loops in an order that runs along memory, cut so that a tile of B stays in the cache.",
    note="one thread",
    file="numba_loops.py",
    gain="0.5 to 2x over reordered: B is read once where it exceeds the cache, for shorter loops",
)
def numba_tiled(sets: Operands) -> Candidate:
    return _numba("cpu-numba-tiled", "tiled", sets)
