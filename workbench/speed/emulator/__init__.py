"""CUDA kernels on the CPU: the same source, checked for what it computes and how it synchronises, without a GPU.

Each thread is a fiber that runs until it has to wait. Five schedules, deterministic by seed, decide who goes on:
an order of threads that a GPU may choose, too, so a kernel that one of them breaks is broken. Shared memory and
results begin as NaN; asynchronous copies land as late or as early as they may; operands lie between pages that
nobody may touch, as far as a 32-bit index reaches, and arrays of shared memory between bytes that nobody may change.
A sixth run, RACES, asks no order at all: whether any two threads touch the same byte of shared memory, one of them
writing, with nothing between that makes one wait for the other. So a lost barrier is reported with both threads, even
where every schedule happens to be right; the price is a launch that takes three to twenty times as long.
The kernel runs in a process of its own with a time limit; what it prints is dropped. There are no times in this: how
fast a GPU would be, the emulator does not know.

It does not see: an index that leaves its row and stays in its matrix, or leaves its array of shared memory for another
one or only reads there (NaN), unless the result shows it; a missing fence between ordinary and asynchronous access
(mbarrier_init_fence, fence_async_shared do nothing here); bits of a descriptor or an instruction that only the
hardware reads; the order in which tensor cores add; races in global memory. A flag in shared memory that others poll is
a race to it, as CUDA has it without an atomic. Clusters, inline PTX and `__shared__` in templates are not
modelled. A barrier deleted in the source is told apart by line, so there is one to a line.

from workbench.speed import emulator, kernels
emulator.run(kernels()["fp32_tiled"], (33, 65, 70), "greedy").relative_error
emulator.run(kernels()["fp32_tiled"], (33, 65, 70), emulator.RACES).message
[one for one in emulator.fuzz(kernels()["fp32_tiled"], (33, 65, 70)) if not one.passed]
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ...errors import Refused, near
from ..kernel import Kernel
from ..ops import DTYPES, OPS, Problem, Shape, pitched, problem
from ..table import read_shape
from .places import line_of
from .source import Mutant, build, mutants
from .worker import WORKER

__all__ = ["RACES", "SCHEDULES", "Emulated", "Mutant", "Violation", "build", "fuzz", "mutants", "run"]

SCHEDULES = {
    "forward": "threads in turn, each to its next wait; copies land when they are waited for",
    "reverse": "threads in turn from the last; copies land at once",
    "random": "any thread that can go on, copies land when they like; by seed",
    "greedy": "the first warps run as far ahead as they can; copies land late",
    "greedy-reverse": "the last warps run as far ahead as they can; copies land at once, bulk copies newest first",
}
RACES = "races"  # no order of threads, but a look at whether every order would do
MOST_BYTES = 1 << 30  # of operands: a shape for a GPU would run for hours here


@dataclass(frozen=True)
class Violation:
    """What a thread did that it may not do. `line`: the last synchronisation that it came to, 0: none yet. Of a race
    the text names the element, the other thread, and the line of each access where it is known."""

    kind: str
    text: str
    block: tuple[int, int, int]
    thread: tuple[int, int, int]
    line: int

    def __str__(self) -> str:
        if self.kind in ("crash", "arguments"):
            return f"{self.kind}: {self.text}"
        place = (
            f" (last synchronisation: line {self.line})"
            if self.line and f"line {self.line}" not in self.text
            else ""
        )
        return f"{self.kind}: block {self.block}, thread {self.thread}: {self.text}{place}"


@dataclass(frozen=True)
class Emulated:
    """One launch. `outputs` are the results, decoded to float64 (NaN where nothing was written); the relative
    error is ||c - r|| / ||r|| against the float64 reference, the largest of several results."""

    kernel: str
    shape: Shape
    schedule: str
    seed: int
    outputs: dict[str, np.ndarray] = field(repr=False)
    relative_error: float
    tolerance: float
    violations: tuple[Violation, ...]
    seconds: float  # on the CPU; says nothing of a GPU

    @property
    def output(self) -> np.ndarray:
        return next(iter(self.outputs.values()))

    @property
    def passed(self) -> bool:
        return not self.violations and self.relative_error <= self.tolerance  # NaN is not

    @property
    def message(self) -> str:
        """One line: what went wrong, or the error."""
        if self.violations:
            return str(self.violations[0])
        unwritten = sum(int(np.isnan(array).sum()) for array in self.outputs.values())
        if unwritten:
            return f"{unwritten} elements of the result are NaN: never written, or made of what was never written"
        if not self.passed:
            return f"wrong: relative error {self.relative_error:.2g}, allowed {self.tolerance:.2g}"
        return f"relative error {self.relative_error:.2g}"


def run(
    kernel: Kernel,
    shape: Sequence[int] | str,
    schedule: str = "forward",
    seed: int = 0,
    *,
    given: Problem | None = None,
    without: Mutant | None = None,
    timeout_s: float = 20.0,
) -> Emulated:
    """Launch a kernel on the CPU at shape (M, N, K) or "MxNxK" with random operands (by `seed`), or with those of
    `given`, such as a compressed layer (`ops.layer`). `schedule`: one of SCHEDULES, or RACES. `without` leaves out the
    synchronisation of one line. A wrong result or a violation is an answer, not an exception. CompileError: it is no
    C++; NoCompiler: none here; Refused: a shape or a schedule that cannot be."""
    if schedule not in (*SCHEDULES, RACES):
        raise Refused(f"no schedule is called {schedule!r}{near(schedule, (*SCHEDULES, RACES))}")
    M, N, K = read_shape(shape)
    grid, block, shared = kernel.launch(M, N, K)
    plain = OPS[kernel.op].shapes(M, N, K).values()
    if (total := 8 * sum(math.prod(one) for one in plain)) > MOST_BYTES:  # in float64, for the reference
        raise Refused(
            f"{kernel.name}: {M}x{N}x{K} is {total / 1e9:.1f} GB of operands; the emulator takes small shapes"
        )
    given, expected = _problem(kernel, (M, N, K), seed) if given is None else (given, given.expected())
    operands, arrays = _layout(kernel, given)
    request = {
        "library": str(build(kernel, races=schedule == RACES)),
        "operands": operands,
        "shape": [M, N, K],
        "grid": grid,
        "block": block,
        "shared": shared,
        "schedule": 0 if schedule == RACES else list(SCHEDULES).index(schedule),
        "seed": seed,
        "without": [without.line] if without else [],
        "limit_ms": int(1e3 * timeout_s),
        "precise": 0,
    }
    outputs, answer = _exchange(kernel, request, arrays)
    if answer["text"].startswith("somebody"):  # seen when the block had ended; once more, to see who it was
        outputs, answer = _exchange(kernel, {**request, "precise": 1}, arrays)
    violations = ()
    if answer["kind"]:
        violations = (
            Violation(
                answer["kind"],
                _placed(answer, request["library"], kernel),
                tuple(answer["block"]),
                tuple(answer["thread"]),
                answer["line"],
            ),
        )
    error = float(np.max([_error(outputs[name], expected[name]) for name in kernel.outputs]))  # NaN if one is
    return Emulated(
        kernel=kernel.name,
        shape=(M, N, K),
        schedule=schedule,
        seed=seed,
        outputs=outputs,
        relative_error=float("nan") if violations else error,
        tolerance=kernel.tolerance,
        violations=violations,
        seconds=answer["seconds"],
    )


def fuzz(
    kernel: Kernel,
    shape: Sequence[int] | str,
    seed: int = 0,
    *,
    without: Mutant | None = None,
    timeout_s: float = 20.0,
) -> list[Emulated]:
    """The kernel in all five schedules; timeout_s for each."""
    return [
        run(kernel, shape, schedule, seed, without=without, timeout_s=timeout_s) for schedule in SCHEDULES
    ]


def _placed(answer: dict, library: str, kernel: Kernel) -> str:
    """The text of a violation with its lines where it has places for them: {0}, {1}."""
    if answer["kind"] != "race":
        return answer["text"]
    lines = [line_of(place, library, f"{kernel.name}.cu.cpp") for place in answer["places"]]
    return answer["text"].format(*(f" in line {line}" if line else "" for line in lines))


def _problem(kernel: Kernel, shape: Shape, seed: int) -> tuple[Problem, dict[str, np.ndarray]]:
    return _made(kernel.op, tuple(kernel.operands.items()), shape, kernel.packing, seed)


@functools.lru_cache(maxsize=32)  # five schedules and all mutants ask for the same
def _made(op: str, operands: tuple[tuple[str, str], ...], shape: Shape, packing: str, seed: int):
    given = problem(op, dict(operands), shape, packing=packing, seed=seed)
    return given, given.expected()


def _layout(kernel: Kernel, given: Problem) -> tuple[list[dict], list[np.ndarray]]:
    """What the child has to know of each operand, and the bytes of each; results begin poisoned, or as zeros."""
    boxes = {box.operand: box for box in kernel.maps}
    operands, arrays, offset = [], [], 0
    for name, dtype in kernel.operands.items():
        output = name in given.outputs
        if output:
            array = np.zeros(given.outputs[name], DTYPES[dtype].storage)
        else:
            array = pitched(given.inputs[name], kernel.pitch)
        said = {
            "name": name,
            "offset": offset,
            "bytes": array.nbytes,
            "element": array.itemsize,
            "output": int(output),
            "keep": int(name in kernel.zeroed),
        }
        if box := boxes.get(name):
            rows, columns = given.inputs[name].shape
            said |= {"rows": rows, "columns": columns, "pitch": array.strides[0]}
            said |= {"box_rows": box.rows, "box_columns": box.columns}
        operands.append(said)
        arrays.append(np.ascontiguousarray(array))
        offset += -(-array.nbytes // 64) * 64
    return operands, arrays


def _exchange(kernel: Kernel, request: dict, arrays: list[np.ndarray]) -> tuple[dict[str, np.ndarray], dict]:
    """Operands into a file, the launch, results out of it."""
    folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # memory, where that is to be had
    with tempfile.NamedTemporaryFile(prefix="workbench-", dir=folder) as file:
        for said, array in zip(request["operands"], arrays, strict=True):
            file.seek(said["offset"])
            file.write(array.tobytes())
        file.truncate(max(file.tell(), 1))
        file.flush()
        answer = WORKER.ask({**request, "data": file.name})
        outputs = {}
        for (name, dtype), said, array in zip(
            kernel.operands.items(), request["operands"], arrays, strict=True
        ):
            if said["output"]:
                file.seek(said["offset"])
                stored = np.frombuffer(file.read(array.nbytes), array.dtype).reshape(array.shape)
                outputs[name] = DTYPES[dtype].decode(stored)
    return outputs, answer


def _error(c: np.ndarray, r: np.ndarray) -> float:
    """||c - r|| / ||r||; NaN where c has one."""
    size = float(np.linalg.norm(r))
    return float(np.linalg.norm(c - r)) / (size or 1.0)
