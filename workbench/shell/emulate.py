"""`workbench emulate`: CUDA kernels on the CPU, in five schedules and looked through for races; no GPU, no times."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Refused, near
from .options import JSON
from .report import Report, Table, progress

if TYPE_CHECKING:
    from ..speed import Kernel
    from ..speed.ops import Shape


def emulate(
    kernel: Annotated[
        str,
        typer.Argument(metavar="KERNEL", help="a name, a glob, or a file: my_kernel.cu", show_default=False),
    ],
    shape: Annotated[
        str | None,
        typer.Option(metavar="MxNxK", help="small; default: more than a tile each way, divided by none"),
    ] = None,
    seed: Annotated[int, typer.Option(help="of the operands, and of who goes first")] = 0,
    leave_out: Annotated[
        bool, typer.Option("--leave-out", help="each synchronisation once instead: is it needed?")
    ] = False,
    as_json: JSON = False,
) -> Report:
    """Run CUDA kernels on the CPU: right in every order of threads, and no race in shared memory?"""
    from ..inspect.kernel_lab import SHAPES
    from ..speed.table import read_shape

    wanted = _wanted(kernel)
    rows: list[dict[str, Any]] = []
    with progress("emulating") as tell:
        for done, one in enumerate(wanted):
            small = shape or next(small for part, (_, small) in SHAPES.items() if part in one.op)
            for row in _rows(one, read_shape(small), seed, leave_out):
                tell(done, len(wanted), one.name)
                rows.append({"kernel": one.name, "shape": "x".join(map(str, read_shape(small))), **row})
    if leave_out:
        return Report({"synchronisations": rows}, [_left_out(rows)])
    return Report({"schedules": rows}, [_schedules(rows)])


def _wanted(kernel: str) -> list[Kernel]:
    """The kernel in a file, or those whose names match. Refused where there is none."""
    from ..speed import Kernel, kernels

    if kernel.endswith(".cu"):
        return [Kernel.read(Path(kernel))]
    every = kernels()
    found = [one for name, one in every.items() if fnmatch.fnmatchcase(name, kernel)]
    if not found:
        raise Refused(f"no CUDA kernel matches {kernel!r}{near(kernel, every)}; a file is called *.cu")
    return found


def _rows(kernel: Kernel, shape: Shape, seed: int, leave_out: bool) -> Iterator[dict[str, Any]]:
    from ..speed import fuzz

    if leave_out:
        yield from fuzz.mutants(kernel, shape, seed).to_dict("records")
        return
    before = 0
    for frame in fuzz.schedules(kernel, shape, seed):
        yield from frame.to_dict("records")[before:]
        before = len(frame)


def _schedules(rows: list[dict[str, Any]]) -> Table:
    """A row for each kernel; what is wrong, below."""
    from ..speed import fuzz
    from ..speed.emulator import RACES

    made, said = [], []
    for name in dict.fromkeys(row["kernel"] for row in rows):
        own = [row for row in rows if row["kernel"] == name]
        ordered = [row for row in own if row["schedule"] != RACES]
        race = next(row for row in own if row["schedule"] == RACES)
        passed = sum(bool(row["passed"]) for row in ordered)
        races = fuzz.raced(race)
        made.append(
            {
                "kernel": name,
                "shape": own[0]["shape"],
                "right in": f"{passed} of {len(ordered)}",
                "races": races,
            }
        )
        said += [
            f"{name}, {row['schedule']}: {_where(row)}{row['message']}" for row in own if not row["passed"]
        ]
    return Table("Kernels in every schedule", made, ["kernel", "shape", "right in", "races"], "\n".join(said))


def _where(row: dict[str, Any]) -> str:
    if row["block"] is not None:
        return f"block {tuple(row['block'])}, thread {tuple(row['thread'])}: "
    return f"at {row['at']}: " if row["at"] else ""


def _left_out(rows: list[dict[str, Any]]) -> Table:
    """A row for each synchronisation; what is seen without it, below."""
    said = [f"{row['kernel']}, line {row['line']}: {row['message']}" for row in rows]
    return Table("Each synchronisation left out", rows, ["kernel", "line", "caught", "by"], "\n".join(said))
