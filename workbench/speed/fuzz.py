"""The emulator's answers as tables: a kernel in every schedule and looked through for races, and without each of its
synchronisations in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Refused
from . import emulator
from .compiling import CompileError
from .kernel import Kernel
from .ops import Shape, problem

if TYPE_CHECKING:
    import pandas as pd

LIMIT_S = 10.0  # an emulated launch that takes longer hangs
CHECKS = (*emulator.SCHEDULES, emulator.RACES)  # the rows of `schedules`
SCHEDULE_COLUMNS = {
    "schedule": "who runs first (workbench.speed.emulator.SCHEDULES says more), or races: no access without a barrier",
    "passed": "right, and nothing forbidden was done; None: not looked at",
    "relative_error": "||c - r|| / ||r|| against float64; missing where it was not finished",
    "block": "of the thread that did what it may not do",
    "thread": "the same",
    "line": "the last synchronisation that it came to; 0: none",
    "at": "place in the result that is worst: the first that is NaN, else the one that is furthest off",
    "message": "what went wrong, or the error",
    "seconds": "on this CPU; says nothing of a GPU",
}
MUTANT_COLUMNS = {
    "line": "of the synchronisation that was left out",
    "text": "that line",
    "caught": "a schedule or the look for races saw that it is missing",
    "by": "the first schedule that did, or races: no schedule, but a thread does not wait for another",
    "message": "which two threads race, where that is what it is; else what the schedule saw",
}


def schedules(kernel: Kernel, shape: Shape, seed: int = 0) -> Iterator[pd.DataFrame]:
    """A row for each of CHECKS, the five schedules and the look for races, columns as in SCHEDULE_COLUMNS; the table as
    it grows. CompileError and Refused as in `emulator.run`."""
    rows: list[dict] = []
    hung = ""
    for schedule in CHECKS:
        if hung:  # another one would take as long
            row = _not_run(schedule, f"not run: {hung} took longer than {LIMIT_S:g} s", passed=False)
        elif isinstance(found := _run(kernel, shape, schedule, seed), CompileError):
            row = _not_run(
                schedule, f"not looked for: the compiler does not watch shared memory ({found})", passed=None
            )
        else:
            row = _schedule_row(kernel, found)
            hung = schedule if any(one.kind == "time limit" for one in found.violations) else ""
        rows.append(row)
        yield _table(rows, SCHEDULE_COLUMNS)


def raced(row: Mapping[str, Any]) -> str:
    """What the row of RACES says: "yes", "none", "not looked for", or "not told" where the kernel fails otherwise."""
    if row["passed"] is None:
        return "not looked for"
    if row["passed"]:
        return "none"
    return "yes" if str(row["message"]).startswith("race: ") else "not told: it fails"


def _not_run(schedule: str, message: str, *, passed: bool | None) -> dict:
    return dict.fromkeys(SCHEDULE_COLUMNS) | {
        "at": "",
        "schedule": schedule,
        "passed": passed,
        "message": message,
    }


def mutants(
    kernel: Kernel, shape: Shape, seed: int = 0, *, step: Callable[[int, int, str], None] | None = None
) -> pd.DataFrame:
    """Each synchronisation left out once: is it seen? Columns as in MUTANT_COLUMNS. `step(done, total,
    what)` is called before each launch; what it raises ends the work. Refused: the whole kernel fails already, so
    every mutant would."""
    rows, every = [], emulator.mutants(kernel)
    for schedule in CHECKS:
        if step is not None:
            step(0, len(every), f"the whole kernel, {schedule}")
        whole = _run(kernel, shape, schedule, seed)
        if isinstance(whole, emulator.Emulated) and not whole.passed:
            raise Refused(
                f"{kernel.name} fails as it stands: {schedule}: {whole.message}; what leaving out a line does can be "
                "seen once it is right"
            )
    for place, mutant in enumerate(every):
        by, message = "", "nothing: no schedule tells it from the whole kernel, and no thread races"
        for schedule in CHECKS:
            if by and schedule != emulator.RACES:
                continue
            if step is not None:
                step(place, len(every), f"without line {mutant.line}, {schedule}")
            found = _run(kernel, shape, schedule, seed, mutant)
            if isinstance(found, CompileError) or found.passed:
                continue
            if not by or any(one.kind == "race" for one in found.violations):
                by, message = by or schedule, found.message
            if (
                found.violations
            ):  # a wrong result alone does not say whose fault it is; the look for races may
                break
        rows.append(
            {"line": mutant.line, "text": mutant.text, "caught": bool(by), "by": by, "message": message}
        )
    return _table(rows, MUTANT_COLUMNS)


def _run(
    kernel: Kernel, shape: Shape, schedule: str, seed: int, without: emulator.Mutant | None = None
) -> emulator.Emulated | CompileError:
    """A launch. A compiler that does not know the calls for the look at races is an answer; what does not compile for
    a schedule is an exception."""
    try:
        return emulator.run(kernel, shape, schedule, seed, without=without, timeout_s=LIMIT_S)
    except CompileError as error:
        if schedule != emulator.RACES:
            raise
        return error


def _table(rows: list[dict], columns: dict[str, str]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame(rows, columns=list(columns))
    frame.attrs["columns"] = columns
    return frame


def _schedule_row(kernel: Kernel, found: emulator.Emulated) -> dict:
    first = found.violations[0] if found.violations else None
    return {
        "schedule": found.schedule,
        "passed": found.passed,
        "relative_error": found.relative_error,
        "block": first.block if first else None,
        "thread": first.thread if first else None,
        "line": first.line if first else 0,
        "at": "" if found.passed or first else _worst(kernel, found),
        "message": f"{first.kind}: {first.text}" if first else found.message,
        "seconds": found.seconds,
    }


def _worst(kernel: Kernel, found: emulator.Emulated) -> str:
    """ "C[0, 5]": the first place of a result that is NaN, else the one that is furthest from the reference."""
    given = problem(kernel.op, kernel.operands, found.shape, packing=kernel.packing, seed=found.seed)
    expected = given.expected()
    for name, values in found.outputs.items():
        off = np.abs(values - expected[name])
        wrong = np.isnan(off)
        if wrong.any() or off.max() > kernel.tolerance * np.abs(expected[name]).max():
            place = np.argmax(wrong) if wrong.any() else np.argmax(off)
            return f"{name}[{', '.join(str(int(i)) for i in np.unravel_index(place, off.shape))}]"
    return ""
