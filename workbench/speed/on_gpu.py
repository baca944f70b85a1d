"""Rows of CUDA kernels: a family and its baseline timed in one run where a GPU answers, compiled where none does.

A weight is packed for some kernels and plain for others, so a kernel brings its own operands; kernels with one packing
share them. All of a family are checked against float64 and timed in turn with the baseline, so their ratios are of one
run; what they are compared with has rows, too. A call of a few microseconds is launched from a CUDA graph, as a server
would, so that it is the kernel that is timed and not Python. Without a GPU registers, shared memory and spills are
known, the time is not, and the row says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import Refused
from ..jobs import ahead
from . import cuda
from .clocks import gpu_clocks
from .kernel import Kernel
from .nvrtc import Compiled, compile_kernel
from .ops import DTYPES, OPS
from .run import Found, Run, checked, part
from .table import Row, Shape, new_row
from .time import Candidate, Progress, time_interleaved

ARCHITECTURES = ("sm_80", "sm_90")  # what is compiled for where there is no GPU to ask: A100 and H100
COMPILERS = 2  # processes of the compiler at a time

MakeSets = Callable[[Kernel], cuda.Sets]


def timed_rows(
    shape: Shape,
    wanted: Sequence[Kernel],
    device: cuda.Device,
    rounds: int,
    budget_s: float,
    progress: Progress | None,
    *,
    make_sets: MakeSets | None = None,
    found: Found | None = None,
) -> tuple[list[Row], dict[str, Any]]:
    """Rows of the kernels, family by family, and the facts of each run by "gpu" and its baseline; `found` is given
    those of a family when it has ended. make_sets: operands of a kernel, random ones if nothing is said; what it
    refuses is a row that says why. A family that fails as a whole is refused if it is the only one, else it costs the
    others nothing."""
    make = make_sets or (lambda kernel: cuda.operand_sets(kernel, shape, device))
    rows: list[Row] = []
    runs: dict[str, Any] = {}
    families = cuda.families(wanted)
    for place, family in enumerate(families):
        tell = part(progress, place / len(families), (place + 1) / len(families))
        try:
            made, run = _family(shape, family, device, rounds, budget_s, tell, make)
        except Refused as error:
            if len(families) == 1:
                raise
            made = [new_row(shape, k.name, device.name, k.bits, k.hash, str(error)) for k in family]
        else:
            name = f"gpu {run.baseline}"
            runs[name if name not in runs else f"{name} ({family[0].ladder})"] = run.facts()
        rows += made
        if found:
            found(made)
    return rows, runs


def _family(
    shape: Shape,
    family: list[Kernel],
    device: cuda.Device,
    rounds: int,
    budget_s: float,
    progress: Progress | None,
    make_sets: MakeSets,
) -> tuple[list[Row], Run]:
    """Rows of the CUDA kernels of one family and of its baseline, all in one interleaved run."""
    sets_of = _shared(make_sets)
    compiled: dict[str, Compiled | None] = {}

    def make(kernel: Kernel) -> Candidate:
        candidate, compiled[kernel.name] = cuda.candidate(kernel, sets_of(kernel), device)
        return candidate

    notes = dict.fromkeys([kernel.name for kernel in family], "")
    sets = _first(family, sets_of)
    makers: list[tuple[str, Callable[[], Candidate]]] = cuda.baselines(sets)
    vendors = [name for name, _ in makers]
    baseline = vendors[0]
    makers += [(kernel.name, partial(make, kernel)) for kernel in family]
    candidates, errors = checked(makers, sets.expected, notes, part(progress, 0, 0.4))
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
        progress=part(progress, 0.4, 1),
        each_round=lambda: clocks.append(gpu_clocks()),
        capture=cuda.captured,
    )
    conditions = {
        "empty_s": cuda.empty_seconds(device),
        "cache_bytes": device.cache_bytes,
        "captured": [name for name, timing in timings.items() if timing.captured],
        "clocks": clocks,
    }
    run = Run({one.name: one for one in candidates}, timings, baseline, conditions, device.cache_bytes)
    rows = [
        new_row(shape, kernel.name, device.name, kernel.bits, kernel.hash, notes[kernel.name])
        | _resources(compiled.get(kernel.name), shape, kernel)
        | run.row(shape, kernel.name, errors.get(kernel.name), notes[kernel.name])
        | _rate(shape, run, kernel)
        | {"packing": kernel.packing}
        for kernel in family
    ]
    return rows + _vendors_rows(shape, vendors, device, run, errors, notes), run


def _vendors_rows(
    shape: Shape,
    vendors: Sequence[str],
    device: cuda.Device,
    run: Run,
    errors: dict[str, float],
    notes: dict[str, str],
) -> list[Row]:
    """Rows of what the kernels were compared with, timed or not. The record's versions say which library that is."""
    rows = []
    for name in vendors:
        bits = next(
            (dtype.bits for label, dtype in DTYPES.items() if label in name), 4 if "int4" in name else 32
        )
        note = notes.get(name, "")
        row = new_row(shape, name, device.name, bits, "", note)
        row |= run.row(shape, name, errors.get(name), note)
        rows.append(row | ({"gflops": None} if name == "copy" else {}))
    return rows


def _shared(make_sets: MakeSets) -> MakeSets:
    """The same operands for kernels of one packing. Of those after the first, which are the baseline's too, the dense
    weight in float64 is not kept: eight packings of a large layer would fill the host."""
    made: dict[tuple, cuda.Sets] = {}

    def sets_of(kernel: Kernel) -> cuda.Sets:
        key = kernel.op, tuple(kernel.operands.items()), kernel.packing
        if key not in made:
            sets = make_sets(kernel)
            if made and kernel.packing != "none":
                sets.problem = replace(sets.problem, dense={})
            made[key] = sets
        return made[key]

    return sets_of


def _first(family: list[Kernel], sets_of: MakeSets) -> cuda.Sets:
    """The operands of the first kernel that can have them. Refused, as the last one was, where none can."""
    for kernel in family[:-1]:
        try:
            return sets_of(kernel)
        except Refused:  # its row will say so
            continue
    return sets_of(family[-1])


def _rate(shape: Shape, run: Run, kernel: Kernel) -> Row:
    """Operations per second of what is no product, too."""
    timing = run.timings.get(kernel.name)
    return {"gflops": OPS[kernel.op].flops(*shape) / timing.seconds / 1e9} if timing else {}


def compiled_rows(
    shape: Shape, wanted: Sequence[Kernel], why: str, progress: Progress | None, found: Found | None = None
) -> list[Row]:
    """Rows of kernels that no GPU runs, in their order; `why` there is none. `found` is given each when it is known."""
    rows: list[Row] = []
    if progress and wanted:
        progress(0, len(wanted), f"compiling {wanted[0].name}, 1 of {len(wanted)}")
    for _, row in ahead(lambda one: compile_only(shape, one, why), wanted, COMPILERS):
        rows.append(row)
        if found:
            found([row])
        if progress and len(rows) < len(wanted):
            following = wanted[len(rows)].name
            progress(len(rows), len(wanted), f"compiling {following}, {len(rows) + 1} of {len(wanted)}")
    return rows


def compile_only(shape: Shape, kernel: Kernel, why: str) -> Row:
    """The row of a kernel where no GPU runs it: what the compiler knows, and a line that there is no time."""
    needed = int(kernel.architecture[3:].rstrip("af"))
    archs = [arch for arch in ARCHITECTURES if int(arch[3:]) >= needed and kernel.architecture[-1].isdigit()]
    row = new_row(shape, kernel.name, "none", kernel.bits, kernel.hash, "") | {"packing": kernel.packing}
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
