"""`workbench speed`: the kernels of one matrix product, in a table that fits the terminal, or `--wide`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Refused
from .options import JSON, writable
from .report import Report, Table, Tell, cell, progress

if TYPE_CHECKING:
    import pandas as pd

    from ..methods import Method

Row = Mapping[str, Any]

# Short name -> (the column of the lab, what it is multiplied by, significant digits), in the order of the table
SHORT: dict[str, tuple[str, float, int]] = {
    "bits": ("bits", 1, 0),
    "packing": ("packing", 1, 0),
    "time_ms": ("seconds", 1e3, 3),
    "hot_ms": ("seconds_hot", 1e3, 3),
    "ratio": ("ratio", 1, 3),
    "verdict": ("verdict", 1, 0),
    "GFLOP/s": ("gflops", 1, 3),
    "GB/s": ("gbps", 1, 3),
    "of_read": ("of_bandwidth", 1, 2),
    "error": ("relative_error", 1, 2),
    "weight_error": ("weight_error", 1, 2),
    "regs": ("registers", 1, 0),
    "shared_KB": ("shared_bytes", 1 / 1024, 3),
    "spills": ("spills", 1, 0),
}
MEANT = {
    "time_ms": "of one product, median over the rounds, operands from memory",
    "hot_ms": "the same with the operands in the cache",
    "ratio": "how many times faster than the baseline; median of the ratios of each round",
    "verdict": "equal: no further off than the baseline is from itself, or quartiles about 1",
    "GB/s": "of the weights as stored, scales included, on the CPU; of all operands on a GPU",
    "of_read": "GB/s as a share of what one thread that only reads memory reached",
    "error": "relative, against the float64 product with the same (rounded) weights",
    "weight_error": "relative, of that product against the one with the weights before rounding",
    "regs": "registers per thread; spills: bytes per thread that found no room in them",
}
# What a narrow terminal does without, the first first
SPARE = (
    "packing",
    "weight_error",
    "shared_KB",
    "spills",
    "hot_ms",
    "GFLOP/s",
    "regs",
    "of_read",
    "bits",
    "verdict",
    "GB/s",
)
# Of a layer the packing and the error of its weights are asked for: the last to go
SPARE_OF_LAYER = (*SPARE[2:], *SPARE[:2])
SHAPE = "512x512x512"
# "no CUDA device here: compiled for sm_90, 31 registers, no time"
_COMPILED = re.compile(r"(?P<why>.*): compiled for sm_\w+, \d+ registers, no time")


def speed(
    kernel: Annotated[str, typer.Option(metavar="GLOB", help="which kernels")] = "*",
    shape: Annotated[
        str | None,
        typer.Option(metavar="MxNxK", help=f"of C[M,N] = A[M,K] B[K,N], random operands; default: {SHAPE}"),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(metavar="MODEL:NAME", help="a layer instead, compressed by --method and packed"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help='of --layer: rtn, or Python ("RTN(bits=4, group_size=64)")'),
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="of --layer: rows of inputs; default: 1")] = None,
    emulate: Annotated[
        bool, typer.Option("--emulate", help="of --layer: without a GPU, the CUDA kernels' errors on the CPU")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="keep the document here, as JSON")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="interleaved rounds, if the time allows")] = 7,
    threads: Annotated[
        int | None, typer.Option(min=1, help="of torch; most of our CPU kernels have one")
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="every column, whatever the terminal's width")] = False,
    as_json: JSON = False,
) -> Report:
    """Check, compile and time the kernels of one matrix product, or those that run one compressed layer."""
    from .. import speed
    from ..speed.roofline import limits_here

    of_layer = _asked(layer, method, shape, batch, emulate)
    if record is not None:
        writable(record, f"--record {record}: the record")
    if threads is not None:
        import torch

        # once, before the first product: a change between products costs torch more than half its speed
        torch.set_num_threads(threads)
    with progress("timing") as tell:
        if of_layer is None:
            frame = speed.measure(shape or SHAPE, kernel, rounds, progress=tell)
        else:
            frame = _of_layer(*of_layer, batch or 1, kernel, rounds, emulate, tell)
    document = speed.document(frame)
    if record is not None:
        speed.record(frame, record, limits_here())
    rows = document["kernels"]
    tables = [whole(rows)] if wide else narrow(rows, _width(), SPARE if of_layer is None else SPARE_OF_LAYER)
    made = Report(document, tables)
    if "layer" in document:
        made.say("{name} of {model} under {method}, batch {batch}".format(**document["layer"]))
    return made


def _asked(
    layer: str | None, method: str | None, shape: str | None, batch: int | None, emulate: bool
) -> tuple[str, str, Method] | None:
    """(model, layer, method) where a layer is to be run. Refused: options that do not go together."""
    if layer is None:
        stray = {"--method": method is not None, "--batch": batch is not None, "--emulate": emulate}
        if said := [name for name, given in stray.items() if given]:
            raise Refused(f"{said[0]} is of a layer: add --layer MODEL:NAME, or give --shape MxNxK alone")
        return None
    if shape is not None:
        raise Refused(
            "--layer has a shape of its own: leave --shape out; --batch says how many rows of inputs"
        )
    model, _, name = layer.rpartition(":")
    if not model or not name:
        raise Refused(
            f"--layer {layer} is not MODEL:NAME, such as tiny-llama:model.layers.2.mlp.down_proj; "
            "`workbench layers MODEL` has the names"
        )
    if method is None:
        raise Refused(
            '--layer needs --method, what it is compressed by: rtn, or "RTN(bits=4, group_size=64)"'
        )
    from ..methods import METHODS, parse_method

    return model, name, parse_method(method) if "(" in method else METHODS[method]()


def _of_layer(
    source: str, name: str, method: Method, batch: int, kernel: str, rounds: int, emulate: bool, tell: Tell
) -> pd.DataFrame:
    """The layer compressed and run by every kernel that reads its grid; `attrs` say which layer it was."""
    from ..engine.compose import compress
    from ..files.load import load
    from ..inspect import Session
    from ..speed import run_layer

    session = Session(load(source), layer=name, method=method)
    found, w = session.layer, session.error_map.w
    if skip := method.judge(found.shape).skip:
        raise Refused(f"{found.name}: {skip}")
    tell(0, 0, f"compressing {found.name}")
    statistics = session.statistics(found, method.needed) if method.needed else None
    compressed = compress(w, [method], statistics)
    frame = run_layer(compressed, batch, kernel, rounds, original=w, emulate=emulate, progress=tell)
    frame.attrs["layer"] = {
        "model": session.model.name, "name": found.name, "method": repr(method), "batch": batch
    }  # fmt: skip
    return frame


def whole(rows: Sequence[Row]) -> Table:
    """Every column that any of the rows (the lab's, as records) has something in."""
    from ..speed import COLUMNS

    columns = [name for name in COLUMNS if any(row[name] not in (None, "") for row in rows)]
    return Table("Kernels", rows, columns, "\n".join(f"{name}: {COLUMNS[name]}" for name in columns[1:]))


def narrow(rows: Sequence[Row], width: int | None = None, spare: Sequence[str] = SPARE) -> list[Table]:
    """A table for each baseline, and one of what was not timed, in at most `width` characters; what all of the rows
    have in common stands in the titles, and what a note says once, below. spare: what goes first where it is narrow."""
    timed = [row for row in rows if row["where"] == "measured"]
    made = []
    for baseline, device in dict.fromkeys((row["baseline"], row["device"]) for row in timed):
        own = [row for row in timed if (row["baseline"], row["device"]) == (baseline, device)]
        made.append(_timed(own, f"{own[0]['shape']} on {device}; ratio to {baseline}", width, spare))
    others = [row for row in rows if row["where"] != "measured"]
    return made + ([_untimed(others)] if others else [])


def _timed(rows: Sequence[Row], title: str, width: int | None, spare: Sequence[str]) -> Table:
    short = [_short(row) for row in rows]
    columns, left_out = _fitting(short, width, spare)
    notes = [_parts(row["note"]) for row in rows]
    common = [part for part in notes[0] if all(part in own for own in notes)] if len(rows) > 1 else []
    said = [f"{name}: {MEANT[name]}" for name in columns if name in MEANT]
    said += ["all: " + "; ".join(common)] if common else []
    said += _told(rows, [[part for part in own if part not in common] for own in notes])
    if left_out:
        said.append(f"not in {width} characters: {', '.join(left_out)} (--wide has every column)")
    return Table(title, short, columns, "\n".join(said))


def _untimed(rows: Sequence[Row]) -> Table:
    """What was compiled only, or not even that: what the compiler knows, and why there is no time."""
    reasons: list[str] = []
    notes: list[list[str]] = []
    made = []
    for row in rows:
        parts = _parts(row["note"])
        if parts and (match := _COMPILED.fullmatch(parts[0])):
            reasons.append(match["why"])
            # what it goes on to say is what the other architectures need: in --wide
            parts = [
                part.partition(": relative")[0] for part in parts if "emulated" in part.partition(":")[0]
            ]
        notes.append(parts)
        target = re.search(r"sm_\w+", row["device"] or "")
        short = ("bits", "regs", "shared_KB", "spills", "error", "weight_error")
        known = {name: _short(row)[name] for name in short}
        made.append({"kernel": row["kernel"], "for": target[0] if target else None} | known)
    columns = [name for name in made[0] if any(row[name] not in (None, "") for row in made)]
    why = "; ".join(dict.fromkeys(reasons))
    title = f"{rows[0]['shape']}, not timed" + (f": {why}" if why else "")
    return Table(title, made, columns, "\n".join(_told(rows, notes)))


def _told(rows: Sequence[Row], notes: Sequence[Sequence[str]]) -> list[str]:
    """A line for each thing that notes say, behind the names of those that say it."""
    found: dict[str, list[str]] = {}
    for row, parts in zip(rows, notes, strict=True):
        if parts:
            found.setdefault("; ".join(parts), []).append(row["kernel"])
    return [f"{', '.join(names)}: {text}" for text, names in found.items()]


def _short(row: Row) -> dict[str, Any]:
    """A row under its short names: numbers as many digits long as they mean something."""
    made: dict[str, Any] = {"kernel": row["kernel"]}
    for name, (column, factor, digits) in SHORT.items():
        value = row[column]
        made[name] = float(f"{value * factor:.{digits}g}") if digits and value is not None else value
    return made


def _fitting(
    rows: Sequence[Row], width: int | None, spare: Sequence[str] = SPARE
) -> tuple[list[str], list[str]]:
    """The columns that say something and fit, and those that do not."""
    known = [name for name in SHORT if any(row[name] not in (None, "") for row in rows)]
    sizes = {
        name: 3 + max(map(len, [*name.split("_"), *(cell(row[name]) for row in rows)]))
        for name in ("kernel", *known)
    }
    shown = ["kernel", *known]
    for name in spare:
        if width is None or 2 + sum(sizes[one] for one in shown) <= width:
            break
        shown = [one for one in shown if one != name]
    return shown, [name for name in known if name not in shown]


def _parts(note: str | None) -> list[str]:
    return [part for part in (note or "").split("; ") if part]


def _width() -> int | None:
    """Characters in a line of the terminal; None where the table goes elsewhere."""
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal else None
