"""The door of the speed lab: one product C[M,N] = A[M,K] B[K,N], every kernel that computes it, one table.

CPU kernels are timed against torch's fp32 product, CUDA kernels against cuBLAS where a GPU answers. Without
one they are compiled all the same: registers, shared memory and spills are known, the time is not and the row
says so. Kernels of few bits multiply with B^T rounded to a grid: their error is against the product with what
the codes stand for, and what the rounding itself cost is a column of its own.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import Refused, near
from . import cpu, cuda
from .kernel import Kernel, kernels, unreadable
from .on_gpu import ARCHITECTURES, compiled_rows, timed_rows
from .record import record, to_records
from .run import Found, Run, checked, part, time_on_cpu
from .table import COLUMNS, Row, Shape, new_row, parse_shape, read_shape, to_frame
from .time import Progress, reference_rows, wall_clock

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ARCHITECTURES", "COLUMNS", "measure", "parse_shape", "record", "to_records"]

PROBE = 256  # no side of the product that a CPU kernel is first tried and clocked on is longer


def measure(
    shape: Sequence[int] | str,
    kernel: str | Kernel = "*",
    rounds: int = 7,
    *,
    budget_s: float = 20.0,
    progress: Progress | None = None,
    found: Found | None = None,
) -> pd.DataFrame:
    """Check, compile and time the kernels of one product; a row for each, columns as in COLUMNS. On a GPU what they are
    compared with has rows, too, after those of its family.

    shape: (M, N, K) or "MxNxK" of C[M,N] = A[M,K] B[K,N]. kernel: globs over names, with commas between, or one
    Kernel (an edited source: `Kernel.parse(text)`). rounds: interleaved rounds; fewer, but not under three, where
    they would take more than about budget_s seconds, and a CPU kernel whose four products alone would is skipped.
    progress(done, total, what) is called before each kernel is compiled and between samples; what it raises stops the
    measurement. found(rows) is given rows as they become known, those of the CPU after every round of samples; a later
    row of a kernel replaces the one before. A kernel that does not compile or gives a wrong result is a row that says
    so. Refused: a bad shape, a glob that matches nothing, too little memory for what is to be run.
    """
    M, N, K = shape = read_shape(shape)
    if rounds < 1:
        raise Refused(f"{rounds} rounds cannot be timed; take 1 or more, 5 for quartiles that mean something")
    on_cpu, on_gpu = _select(kernel)
    device, why = cuda.find_device() if on_gpu else (None, "")
    if on_cpu or device:  # compiling needs no operands
        _forecast(M, N, K, len(on_cpu))
    rows: list[Row] = []
    if isinstance(kernel, str):  # files whose header is malformed, which a glob matches
        broken = {"shape": "x".join(map(str, shape)), "where": "skipped"}
        rows += [
            {"kernel": name, "note": str(why)} | broken for name, why in unreadable(wanted=kernel).items()
        ]
    if rows and found:
        found(rows)
    runs: dict[str, Any] = {}
    share = len(on_cpu) / ((len(on_cpu) + len(on_gpu)) or 1)
    if on_cpu:
        made, run = _on_cpu(shape, on_cpu, rounds, budget_s, part(progress, 0, share), found)
        rows, runs["cpu"] = rows + made, run.facts()
    if on_gpu:
        tell = part(progress, share, 1)
        if device:
            made, of_gpu = timed_rows(shape, on_gpu, device, rounds, budget_s, tell, found=found)
            rows, runs = rows + made, runs | of_gpu
        else:
            rows += compiled_rows(shape, on_gpu, why, tell, found)
    frame = to_frame(rows)
    frame.attrs["runs"] = runs  # every sample and what the machine was doing, for the record
    return frame


def _select(kernel: str | Kernel) -> tuple[list[cpu.Rung], list[Kernel]]:
    """The CPU and CUDA kernels whose names match one of the globs."""
    if isinstance(kernel, Kernel):
        return [], [kernel]
    of_cpu, of_gpu = cpu.rungs(), kernels()
    patterns = [part.strip() for part in kernel.split(",")]

    def wanted(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    on_cpu = [rung for name, rung in of_cpu.items() if wanted(name)]
    on_gpu = [one for name, one in of_gpu.items() if wanted(name)]
    broken = unreadable(wanted=kernel)
    if kernel in broken:
        raise broken[kernel]
    if not on_cpu and not on_gpu and not broken:
        raise Refused(f"no speed kernel matches {kernel!r}{near(kernel, [*of_cpu, *of_gpu])}")
    return on_cpu, on_gpu


def _forecast(M: int, N: int, K: int, kernels: int) -> None:
    """Refuse before the work starts what memory cannot hold: the operands of so many CPU kernels in copies that
    exceed the cache, the results, and the rows of the float64 reference."""
    operands = max(4 * (M * K + K * N), 3 * cpu.cache_bytes())
    # every kernel has copies of its own weight, but for those that share a packing
    need = operands * (3 + kernels // 2) + (10 + 4 * kernels) * M * N + 8 * reference_rows(M, N, K) * (N + K)
    free = cpu.free_bytes()
    if free is not None and need > free:
        raise Refused(f"{M}x{N}x{K} needs about {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")


def _on_cpu(
    shape: Shape,
    wanted: list[cpu.Rung],
    rounds: int,
    budget_s: float,
    progress: Progress | None,
    found: Found | None,
) -> tuple[list[Row], Run]:
    """Rows of the CPU kernels. The baseline always runs; it has a row if it was asked for."""
    every = cpu.rungs()
    notes = {rung.name: rung.note for rung in wanted}
    names = _probed(shape, wanted, budget_s, notes, part(progress, 0, 0.3))
    sets = cpu.operand_sets(*shape)
    makers = [(name, partial(every[name].make, sets)) for name in names]
    candidates, errors = checked(makers, sets.expected, notes, part(progress, 0.3, 0.4))
    if cpu.BASELINE not in errors:
        raise Refused(f"the baseline itself fails: {notes.get(cpu.BASELINE)}")

    def rows_of(run: Run) -> list[Row]:
        return [
            new_row(shape, rung.name, cpu.cpu_name(), rung.bits, rung.hash, notes[rung.name])
            | run.row(shape, rung.name, errors.get(rung.name), notes[rung.name])
            | {"packing": cpu.source(rung.cpp).packing if rung.cpp else "none"}
            for rung in wanted
        ]

    so_far = None if found is None else lambda run: found(rows_of(run))
    run = time_on_cpu(candidates, rounds, budget_s, part(progress, 0.4, 1), so_far)
    return rows_of(run), run


def _probed(
    shape: Shape,
    wanted: list[cpu.Rung],
    budget_s: float,
    notes: dict[str, str],
    progress: Progress | None,
) -> list[str]:
    """The kernels that can be timed, the baseline first; why not goes into notes. Each is tried on a small product:
    that compiles what compiles at its first call, and tells how long the real product will take."""
    M, N, K = shape
    every = cpu.rungs()
    probe = cpu.operand_sets(min(M, PROBE), min(N, PROBE), min(K, PROBE), most=1)
    share = M * N * K / (min(M, PROBE) * min(N, PROBE) * min(K, PROBE))
    names: list[str] = []
    tried = list(dict.fromkeys([every[cpu.BASELINE], *wanted]))
    for done, rung in enumerate(tried):
        if progress:
            progress(done, len(tried), f"compiling and trying {rung.name}, {done + 1} of {len(tried)}")
        try:
            candidate = rung.make(probe)
            candidate.run(0)
        except Refused as error:  # no compiler, or a shape that somebody else's kernel does not take
            notes[rung.name] = str(error)
            continue
        seconds = min(wall_clock(partial(candidate.run, 0)) for _ in range(3)) * share
        if 4 * seconds > budget_s and rung.name != cpu.BASELINE:
            notes[rung.name] = f"not timed: one product would take about {seconds:.2g} s"
        else:
            names.append(rung.name)
    return names
