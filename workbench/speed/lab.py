"""The door of the speed lab: one product C[M,N] = A[M,K] B[K,N], every kernel that computes it, one table.

CPU kernels are timed against torch's fp32 product, CUDA kernels against cuBLAS where a GPU answers. Without
one they are compiled all the same: registers, shared memory and spills are known, the time is not and the row
says so.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Refused, near
from . import cpu, cuda
from .kernel import Kernel, kernels
from .nvrtc import Compiled, compile_kernel
from .record import record, to_records
from .timing import (
    Candidate,
    Progress,
    Timing,
    check,
    reference,
    reference_rows,
    time_interleaved,
    wall_clock,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ARCHITECTURES", "COLUMNS", "measure", "parse_shape", "record", "to_records"]

ARCHITECTURES = ("sm_80", "sm_90")  # what is compiled for where there is no GPU to ask: A100 and H100
PROBE = 256  # no side of the product that a CPU kernel is first tried and clocked on is longer

COLUMNS = {
    "kernel": "name; CPU kernels begin with cpu-",
    "device": "what it ran on, or the architecture it was compiled for",
    "bits": "bits of one operand element",
    "shape": "MxNxK of C[M,N] = A[M,K] B[K,N]",
    "seconds": "s per product, median over the rounds",
    "baseline": "the kernel that ratio compares with, timed in the same run",
    "ratio": "how many times faster than the baseline; median of the ratios of each round",
    "gflops": "10^9 operations per second, 2 M N K operations per product",
    "relative_error": "||c - r|| / ||r|| against the float64 product",
    "seconds_q25": "s, lower quartile",
    "seconds_q75": "s, upper quartile",
    "ratio_q25": "lower quartile of the rounds' ratios",
    "ratio_q75": "upper quartile of the rounds' ratios",
    "rounds": "interleaved rounds",
    "registers": "per thread (CUDA)",
    "shared_bytes": "bytes of shared memory per block (CUDA)",
    "spills": "bytes per thread written to memory for want of registers (CUDA)",
    "where": "measured: here, now; compiled only: no time; skipped: neither, the note says why",
    "source_hash": "changes with the kernel's source",
    "note": "what a reader of the row must know",
}
WHOLE = ("bits", "rounds", "registers", "shared_bytes", "spills")
REAL = (
    "seconds",
    "ratio",
    "gflops",
    "relative_error",
    "seconds_q25",
    "seconds_q75",
    "ratio_q25",
    "ratio_q75",
)

Shape = tuple[int, int, int]
Row = dict[str, Any]


def parse_shape(text: str) -> Shape:
    """ "4096x1x4096" -> (4096, 1, 4096): M, N, K of C[M,N] = A[M,K] B[K,N]. Refused for anything else."""
    match = re.fullmatch(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*[xX×]\s*(\d+)\s*", text)
    if not match or not all(int(size) for size in match.groups()):
        raise Refused(
            f"shape {text!r} is not MxNxK, three whole numbers from 1 on, such as 4096x1x4096 "
            "(C[M,N] = A[M,K] B[K,N])"
        )
    M, N, K = (int(size) for size in match.groups())
    return M, N, K


def measure(
    shape: Sequence[int] | str,
    kernel: str | Kernel = "*",
    rounds: int = 7,
    *,
    budget_s: float = 20.0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Check, compile and time the kernels of one product; a row for each, columns as in COLUMNS.

    shape: (M, N, K) or "MxNxK" of C[M,N] = A[M,K] B[K,N]. kernel: a glob over names, or one Kernel (an edited
    source: `Kernel.parse(text)`). rounds: interleaved rounds; fewer, but not under three, where they would
    take more than about budget_s seconds, and a CPU kernel whose four products alone would is skipped.
    progress(done, total, what) is called between samples; what it raises stops the measurement. A kernel that
    does not compile or gives a wrong result is a row that says so. Refused: a bad shape, a glob that matches
    nothing, too little memory.
    """
    M, N, K = shape = _shape(shape)
    if rounds < 1:
        raise Refused(f"{rounds} rounds cannot be timed; take 1 or more, 5 for quartiles that mean something")
    on_cpu, on_gpu = _select(kernel)
    _forecast(M, N, K)
    rows: list[Row] = []
    if on_cpu:
        rows += _on_cpu(shape, on_cpu, rounds, budget_s, progress)
    if on_gpu:
        device, why = cuda.find_device()
        if device:
            rows += _on_gpu(shape, on_gpu, device, rounds, budget_s, progress)
        else:
            rows += [_compile_only(shape, one, why) for one in on_gpu]
    return _frame(rows)


def _shape(shape: Sequence[int] | str) -> Shape:
    return parse_shape(shape if isinstance(shape, str) else "x".join(str(size) for size in shape))


def _select(kernel: str | Kernel) -> tuple[list[cpu.Rung], list[Kernel]]:
    """The CPU and CUDA kernels whose names match the glob."""
    if isinstance(kernel, Kernel):
        return [], [kernel]
    of_cpu, of_gpu = cpu.rungs(), kernels()
    on_cpu = [rung for name, rung in of_cpu.items() if fnmatch.fnmatchcase(name, kernel)]
    on_gpu = [one for name, one in of_gpu.items() if fnmatch.fnmatchcase(name, kernel)]
    if not on_cpu and not on_gpu:
        raise Refused(f"no speed kernel matches {kernel!r}{near(kernel, [*of_cpu, *of_gpu])}")
    return on_cpu, on_gpu


def _forecast(M: int, N: int, K: int) -> None:
    """Refuse before the work starts what memory cannot hold: fp32 and bf16 operands in copies that exceed the
    cache, the results, and the rows of the float64 reference."""
    operands = max(4 * (M * K + K * N), 3 * cpu.cache_bytes())
    need = operands + operands // 2 + 14 * M * N + 8 * reference_rows(M, N, K) * (N + K)
    free = cpu.free_bytes()
    if free is not None and need > free:
        raise Refused(f"{M}x{N}x{K} needs about {need / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")


def _on_cpu(
    shape: Shape, wanted: list[cpu.Rung], rounds: int, budget_s: float, progress: Progress | None
) -> list[Row]:
    """Rows of the CPU kernels. The baseline always runs; it has a row if it was asked for."""
    import numpy as np

    M, N, K = shape
    every = cpu.rungs()
    # The probe compiles what compiles at the first call, and tells how long the real product will take.
    probe = cpu.operand_sets(min(M, PROBE), min(N, PROBE), min(K, PROBE), most=1)
    share = M * N * K / (min(M, PROBE) * min(N, PROBE) * min(K, PROBE))
    names, notes = [], {rung.name: rung.note for rung in wanted}
    for rung in dict.fromkeys([every[cpu.BASELINE], *wanted]):
        candidate = rung.make(probe)
        candidate.run(0)
        seconds = min(wall_clock(partial(candidate.run, 0)) for _ in range(3)) * share
        if 4 * seconds > budget_s and rung.name != cpu.BASELINE:
            notes[rung.name] = f"not timed: one product would take about {seconds:.2g} s"
        else:
            names.append(rung.name)

    sets = cpu.operand_sets(M, N, K)
    candidates, errors = _check([(name, every[name].make) for name in names], sets, np, notes)
    if cpu.BASELINE not in errors:
        raise Refused(f"the baseline itself fails: {notes.get(cpu.BASELINE)}")
    busy = cpu.busy()
    timings = time_interleaved(
        candidates, baseline=cpu.BASELINE, rounds=rounds, budget_s=budget_s, progress=progress
    )
    return [
        _row(shape, rung.name, cpu.cpu_name(), rung.bits, rung.hash, notes[rung.name])
        | _timed(
            shape, timings.get(rung.name), errors.get(rung.name), _join(notes[rung.name], busy), cpu.BASELINE
        )
        for rung in wanted
    ]


def _check(makers, sets, xp, notes: dict[str, str]) -> tuple[list[Candidate], dict[str, float]]:
    """The candidates that are right, and their relative errors; what is wrong with others goes into notes."""
    expected = reference(*sets[0], xp=xp)
    candidates, errors = [], {}
    for name, make in makers:
        try:
            candidate = make(sets)
            errors[name] = check(candidate, expected)
            candidates.append(candidate)
        except Refused as error:
            notes[name] = str(error)
    return candidates, errors


def _on_gpu(
    shape: Shape,
    wanted: list[Kernel],
    device: cuda.Device,
    rounds: int,
    budget_s: float,
    progress: Progress | None,
) -> list[Row]:
    """Rows of cuBLAS and of the CUDA kernels, all in one interleaved run."""
    import cupy

    try:
        sets = cuda.operand_sets(*shape, device)
    except cupy.cuda.memory.OutOfMemoryError as error:
        raise Refused(f"{'x'.join(map(str, shape))} does not fit {device.name}: {error}") from None
    compiled: dict[str, Compiled | None] = {}

    def maker(kernel: Kernel):
        def make(sets):
            candidate, compiled[kernel.name] = cuda.candidate(kernel, sets, device)
            return candidate

        return make

    notes = dict.fromkeys([kernel.name for kernel in wanted], "")
    makers = [(cuda.BASELINE, cuda.cublas), *((kernel.name, maker(kernel)) for kernel in wanted)]
    candidates, errors = _check(makers, sets, cupy, notes)
    if cuda.BASELINE not in errors:
        raise Refused(f"the baseline itself fails (is CUPY_TF32 set?): {notes[cuda.BASELINE]}")
    timings = time_interleaved(
        candidates,
        baseline=cuda.BASELINE,
        rounds=rounds,
        budget_s=budget_s,
        clock=cuda.event_clock,
        progress=progress,
    )
    return [
        _row(shape, kernel.name, device.name, kernel.bits, kernel.hash, notes[kernel.name])
        | _resources(compiled.get(kernel.name), shape, kernel)
        | _timed(shape, timings.get(kernel.name), errors.get(kernel.name), notes[kernel.name], cuda.BASELINE)
        for kernel in wanted
    ]


def _compile_only(shape: Shape, kernel: Kernel, why: str) -> Row:
    """The row of a kernel where no GPU runs it: what the compiler knows, and a line that there is no time."""
    needed = int(kernel.architecture[3:].rstrip("af"))
    archs = [arch for arch in ARCHITECTURES if int(arch[3:]) >= needed and kernel.architecture[-1].isdigit()]
    row = _row(shape, kernel.name, "none", kernel.bits, kernel.hash, "")
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


def _row(shape: Shape, kernel: str, device: str, bits: int, source_hash: str, note: str) -> Row:
    return {
        "kernel": kernel,
        "device": device,
        "bits": bits,
        "shape": "x".join(str(size) for size in shape),
        "where": "skipped",
        "source_hash": source_hash,
        "note": note,
    }


def _resources(compiled: Compiled | None, shape: Shape, kernel: Kernel) -> Row:
    if compiled is None:
        return {}
    own = compiled.functions[kernel.name]
    return {
        "registers": own.registers,
        "shared_bytes": own.shared_bytes + kernel.launch(*shape)[2],
        "spills": own.spill_stores,
    }


def _timed(shape: Shape, timing: Timing | None, error: float | None, note: str, baseline: str) -> Row:
    """The measured part of a row; nothing if the kernel was not timed."""
    if timing is None:
        return {"baseline": baseline}
    if timing.noisy:
        spread = 100 * (timing.seconds_q75 - timing.seconds_q25) / timing.seconds
        note = _join(note, f"noisy: the quartiles lie {spread:.0f} % of the median apart")
    M, N, K = shape
    return {
        "baseline": timing.baseline,
        "seconds": timing.seconds,
        "seconds_q25": timing.seconds_q25,
        "seconds_q75": timing.seconds_q75,
        "ratio": timing.ratio,
        "ratio_q25": timing.ratio_q25,
        "ratio_q75": timing.ratio_q75,
        "rounds": timing.rounds,
        "gflops": 2e-9 * M * N * K / timing.seconds,
        "relative_error": error,
        "where": "measured",
        "note": note,
    }


def _join(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def _frame(rows: list[Row]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows], columns=list(COLUMNS))
    for name in COLUMNS:
        if name in WHOLE:
            frame[name] = frame[name].astype("Int64")
        elif name in REAL:
            frame[name] = frame[name].astype(float)
        else:
            frame[name] = frame[name].fillna("").astype(str)
    return frame
