"""The table of the bench's speed tab as HTML: time, and the two errors beside each other; what notes say, below."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from ..speed import kernels, to_records
from .numbers import number

if TYPE_CHECKING:
    import pandas as pd

ERRORS = (
    "kernel error: of the kernel's arithmetic, against the float64 product with the compressed weight; weight error: "
    "of that product, against the one with the original weight; both relative"
)
_RIGHT = " class='wb-right-aligned'"
_HEADS = ("kernel", "backend, packing", "time", "× baseline", "kernel error", "weight error")
_NUMBERS = 2  # columns from here on are numbers


def layer_table(frame: pd.DataFrame, caption: str) -> str:
    """A row for each kernel, columns as in `speed.COLUMNS`; what all of them say stands once, below."""
    records = to_records(frame)
    told = [_told(record) for record in records]
    common = [part for part in told[0] if all(part in parts for parts in told)] if len(told) > 1 else []
    head = "".join(
        f"<th{_RIGHT if place >= _NUMBERS else ''}>{name}</th>" for place, name in enumerate(_HEADS)
    )
    rows = "".join(
        _row(record, [part for part in parts if part not in common])
        for record, parts in zip(records, told, strict=True)
    )
    baseline = next((f"baseline: {row['baseline']}" for row in records if row["baseline"]), "")
    below = ". ".join(filter(None, ["; ".join(filter(None, [baseline, *common])), caption]))
    table = f"<table class='wb-speed-table'><tr>{head}</tr>{rows}</table>"
    return f"{table}<div class='wb-note'>{escape(below)}</div>"


def _row(record: dict, told: Sequence[str]) -> str:
    """One kernel: its numbers, and below them what there is to know of them."""
    words = (
        f"<b>{escape(str(record['kernel']))}</b>",
        escape(", ".join(filter(None, [_backend(str(record["kernel"])), _packing(record["packing"])]))),
    )
    figures = (
        _time(record["seconds"]),
        number(record["ratio"]),
        number(record["relative_error"], 2),
        number(record["weight_error"], 2),
    )
    cells = "".join(f"<td>{word}</td>" for word in words)
    cells += "".join(f"<td{_RIGHT}>{figure}</td>" for figure in figures)
    note = (
        f"<tr><td class='wb-note' colspan='{len(_HEADS)}'>{escape(' · '.join(told))}</td></tr>"
        if told
        else ""
    )
    return f"<tr>{cells}</tr>{note}"


def _told(record: dict) -> list[str]:
    """What there is to know of a row: the device, the resources, the parts of its note."""
    parts = [part for part in str(record["note"] or "").split("; ") if part]
    if record["registers"] is None:
        return list(filter(None, [record["device"], *parts]))
    spilled = f"{record['spills']} B spilled" if record["spills"] else "no spills"
    resources = f"{record['registers']} registers, {record['shared_bytes']} B shared, {spilled}"
    if record["where"] != "compiled only":
        return list(filter(None, [record["device"], resources, *parts]))
    # the note says the registers of each architecture; those of the newest are enough here
    why, _, _ = parts[0].partition(": compiled for ")
    more = [part for part in parts[1:] if not part.startswith("sm_")]
    return [why, f"{resources} ({_architecture(record['device'])})", *more]


def _architecture(device: str) -> str:
    """ "none (sm_90)" -> "sm_90"."""
    return device.partition("(")[2].rstrip(")")


def _backend(kernel: str) -> str:
    """What runs a kernel of this name."""
    if not kernel.startswith("cpu-"):
        return "CUDA" if kernel in kernels() else kernel.partition("-")[0]
    return next((name for name in ("torch", "numba") if kernel.startswith(f"cpu-{name}")), "C++")


def _packing(packing: str | None) -> str:
    return "" if packing in (None, "none") else str(packing)


def _time(seconds: float | None) -> str:
    return "–" if seconds is None else f"{number(1e3 * seconds)} ms"
