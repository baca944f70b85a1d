"""The door of the speed lab: one product C[M,N] = A[M,K] B[K,N], every kernel that computes it, one table.

CPU kernels are timed against torch's fp32 product, CUDA kernels against cuBLAS where a GPU answers. Without
one they are compiled all the same: registers, shared memory and spills are known, the time is not and the row
says so. Kernels of few bits multiply with B^T rounded to a grid: their error is against the product with what
the codes stand for, and what the rounding itself cost is a column of its own.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Refused, near
from ..jobs import ahead
from . import cpu, cuda
from .clocks import gpu_clocks
from .kernel import Kernel, kernels
from .nvrtc import Compiled, compile_kernel
from .record import record, to_records
from .run import Run, checked, time_on_cpu
from .table import COLUMNS, Row, Shape, new_row, parse_shape, read_shape, to_frame
from .time import Candidate, Progress, reference_rows, time_interleaved, wall_clock

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ARCHITECTURES", "COLUMNS", "measure", "parse_shape", "record", "to_records"]

ARCHITECTURES = ("sm_80", "sm_90")  # what is compiled for where there is no GPU to ask: A100 and H100
COMPILERS = 2  # processes of the compiler at a time
PROBE = 256  # no side of the product that a CPU kernel is first tried and clocked on is longer


def measure(
    shape: Sequence[int] | str,
    kernel: str | Kernel = "*",
    rounds: int = 7,
    *,
    budget_s: float = 20.0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Check, compile and time the kernels of one product; a row for each, columns as in COLUMNS.

    shape: (M, N, K) or "MxNxK" of C[M,N] = A[M,K] B[K,N]. kernel: globs over names, with commas between, or one
    Kernel (an edited source: `Kernel.parse(text)`). rounds: interleaved rounds; fewer, but not under three, where
    they would take more than about budget_s seconds, and a CPU kernel whose four products alone would is skipped.
    progress(done, total, what) is called between samples; what it raises stops the measurement. A kernel that
    does not compile or gives a wrong result is a row that says so. Refused: a bad shape, a glob that matches
    nothing, too little memory.
    """
    M, N, K = shape = read_shape(shape)
    if rounds < 1:
        raise Refused(f"{rounds} rounds cannot be timed; take 1 or more, 5 for quartiles that mean something")
    on_cpu, on_gpu = _select(kernel)
    _forecast(M, N, K, len(on_cpu))
    rows: list[Row] = []
    runs: dict[str, Any] = {}
    if on_cpu:
        made, run = _on_cpu(shape, on_cpu, rounds, budget_s, progress)
        rows, runs["cpu"] = made, run.facts()
    if on_gpu:
        device, why = cuda.find_device()
        if device:
            families = cuda.families(on_gpu)
            for family in families:
                try:
                    made, run = _on_gpu(shape, family, device, rounds, budget_s, progress)
                    rows, runs[f"gpu {run.baseline}"] = rows + made, run.facts()
                except Refused as error:  # of others nothing is lost
                    if len(families) == 1:
                        raise
                    rows += [new_row(shape, k.name, device.name, k.bits, k.hash, str(error)) for k in family]
        else:
            compiling = ahead(lambda one: _compile_only(shape, one, why), on_gpu, COMPILERS)
            for done, (one, row) in enumerate(compiling):
                if progress:
                    progress(done, len(on_gpu), f"compiling {one.name}")
                rows.append(row)
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
    if not on_cpu and not on_gpu:
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
    shape: Shape, wanted: list[cpu.Rung], rounds: int, budget_s: float, progress: Progress | None
) -> tuple[list[Row], Run]:
    """Rows of the CPU kernels. The baseline always runs; it has a row if it was asked for."""
    M, N, K = shape
    every = cpu.rungs()
    # The probe compiles what compiles at the first call, and tells how long the real product will take.
    probe = cpu.operand_sets(min(M, PROBE), min(N, PROBE), min(K, PROBE), most=1)
    share = M * N * K / (min(M, PROBE) * min(N, PROBE) * min(K, PROBE))
    names, notes = [], {rung.name: rung.note for rung in wanted}
    for rung in dict.fromkeys([every[cpu.BASELINE], *wanted]):
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

    sets = cpu.operand_sets(M, N, K)
    makers = [(name, partial(every[name].make, sets)) for name in names]
    candidates, errors = checked(makers, sets.expected, notes)
    if cpu.BASELINE not in errors:
        raise Refused(f"the baseline itself fails: {notes.get(cpu.BASELINE)}")
    run = time_on_cpu(candidates, rounds, budget_s, progress)
    rows = [
        new_row(shape, rung.name, cpu.cpu_name(), rung.bits, rung.hash, notes[rung.name])
        | run.row(shape, rung.name, errors.get(rung.name), notes[rung.name])
        for rung in wanted
    ]
    return rows, run


def _on_gpu(
    shape: Shape,
    wanted: list[Kernel],
    device: cuda.Device,
    rounds: int,
    budget_s: float,
    progress: Progress | None,
) -> tuple[list[Row], Run]:
    """Rows of the CUDA kernels of one family and of its baseline, all in one interleaved run."""
    sets = cuda.operand_sets(wanted[0], shape, device)
    compiled: dict[str, Compiled | None] = {}

    def maker(kernel: Kernel):
        def make() -> Candidate:
            candidate, compiled[kernel.name] = cuda.candidate(kernel, sets, device)
            return candidate

        return make

    notes = dict.fromkeys([kernel.name for kernel in wanted], "")
    makers: list[tuple[str, Callable[[], Candidate]]] = cuda.baselines(sets)
    baseline = makers[0][0]
    makers += [(kernel.name, maker(kernel)) for kernel in wanted]
    candidates, errors = checked(makers, sets.expected, notes)
    if baseline not in errors:
        raise Refused(f"the baseline itself fails (is CUPY_TF32 set?): {notes[baseline]}")
    clocks: list[dict[str, Any]] = []
    cached = [one.hot() for one in candidates if 0 < one.nbytes <= device.cache_bytes]
    timings = time_interleaved(
        [*candidates, candidates[0].again(), *cached],
        baseline=baseline,
        rounds=rounds,
        budget_s=budget_s,
        clock=cuda.event_clock,
        progress=progress,
        each_round=lambda: clocks.append(gpu_clocks()),
    )
    conditions = {"empty_s": cuda.empty_seconds(device), "clocks": clocks}
    run = Run({one.name: one for one in candidates}, timings, baseline, conditions)
    rows = [
        new_row(shape, kernel.name, device.name, kernel.bits, kernel.hash, notes[kernel.name])
        | _resources(compiled.get(kernel.name), shape, kernel)
        | run.row(shape, kernel.name, errors.get(kernel.name), notes[kernel.name])
        | _rate(sets, run, kernel.name)
        for kernel in wanted
    ]
    return rows, run


def _rate(sets: cuda.Sets, run: Run, name: str) -> Row:
    """Operations per second of what is no product, too."""
    timing = run.timings.get(name)
    return {"gflops": sets.problem.flops / timing.seconds / 1e9} if timing else {}


def _compile_only(shape: Shape, kernel: Kernel, why: str) -> Row:
    """The row of a kernel where no GPU runs it: what the compiler knows, and a line that there is no time."""
    needed = int(kernel.architecture[3:].rstrip("af"))
    archs = [arch for arch in ARCHITECTURES if int(arch[3:]) >= needed and kernel.architecture[-1].isdigit()]
    row = new_row(shape, kernel.name, "none", kernel.bits, kernel.hash, "")
    try:
        kernel.launch(*shape)  # a shape that no GPU could start is said here too
        built = [
            compile_kernel(kernel.source, arch, name=Path(kernel.where).name)
            for arch in archs or [kernel.architecture]
        ]
    except Refused as error:
        return row | {"note": f"{why}; {error}"}
    newest = built[-1]
    others = "".join(f"; {one.arch}: {one.registers} registers" for one in built[:-1])
    return (
        row
        | _resources(newest, shape, kernel)
        | {
            "device": f"none ({newest.arch})",
            "where": "compiled only",
            "note": f"{why}: compiled for {newest.arch}, {newest.registers} registers, no time{others}",
        }
    )


def _resources(compiled: Compiled | None, shape: Shape, kernel: Kernel) -> Row:
    if compiled is None:
        return {}
    own = compiled.functions[kernel.name]
    return {
        "registers": own.registers,
        "shared_bytes": own.shared_bytes + kernel.launch(*shape)[2],
        "spills": own.spill_stores,
    }
