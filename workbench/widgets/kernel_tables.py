"""The tables and bars of the kernel lab as HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import pandas as pd

from ..speed import to_records
from ..speed.build import Build
from ..speed.emulator import RACES
from ..speed.fuzz import raced
from ..speed.occupancy import Step
from .numbers import number

MOST_STEPS = 12  # marks on a bar: of more, only the last can be told apart


def resource_bars(built: Build, registers: Sequence[Step], shared: Sequence[Step]) -> str:
    """Registers and shared memory against the steps at which a block is lost; warps; spills; instructions asked for."""
    own = built.own
    if own is None:
        return ""
    resident, parts = built.occupancy, []
    budget = built.kernel.registers if built.kernel else None
    over = budget is not None and own.registers > budget
    words = f"<b>{own.registers}</b> registers" + ("" if budget is None else f", budget {budget}")
    words += " <b>exceeded</b>" if over else ""
    marks = [step.most / 256 for step in registers[-MOST_STEPS:]]
    parts.append(_bar(words, own.registers / 256, marks, over, _next("register", own.registers, registers)))
    if resident is not None:
        most = resident.multiprocessor.shared_per_block
        words = f"<b>{resident.shared_bytes / 1024:.4g}</b> KiB shared memory"
        marks = [step.most / most for step in shared[-MOST_STEPS:]]
        parts.append(
            _bar(
                words,
                resident.shared_bytes / most,
                marks,
                False,
                _next("byte", resident.shared_bytes, shared),
            )
        )
        words = f"<b>{resident.warps}</b> of {resident.multiprocessor.warps} warps resident"
        limit = f"{resident.blocks} blocks of {resident.threads} threads, limited by {', '.join(resident.limited_by)}"
        parts.append(_bar(words, resident.share, [], False, limit))
    if built.kernel is None:
        parts.append(
            f"<div class='wb-resource'><b>{own.shared_bytes / 1024:.4g}</b> KiB static shared memory</div>"
        )
    spilled = own.spill_stores + own.spill_loads
    kind = "wb-lab-bad" if spilled else "wb-lab-good"
    said = f"spills: {own.spill_stores} B stored, {own.spill_loads} B loaded" if spilled else "no spills"
    more = f"<br>stack {own.stack_bytes} B{_needed(built)}"
    parts.append(f"<div class='wb-resource'><span class='{kind}'>{said}</span>{more}</div>")
    return f"<div class='wb-resources'>{''.join(parts)}</div>"


def _bar(words: str, share: float, marks: Sequence[float], over: bool, title: str) -> str:
    steps = "".join(f"<u style='left:{100 * min(mark, 1):.2f}%'></u>" for mark in marks)
    kind = "wb-bar wb-over" if over else "wb-bar"
    return (
        f"<div class='wb-resource' title='{escape(title)}'>{words}<div class='{kind}'>"
        f"<i style='width:{100 * min(share, 1):.2f}%'></i>{steps}</div></div>"
    )


def _next(unit: str, value: int, steps: Sequence[Step]) -> str:
    """What the next step of a bar would cost."""
    for place, step in enumerate(steps):
        if value <= step.most:
            after = steps[place + 1].blocks if place + 1 < len(steps) else 0
            room = step.most - value
            return f"{room} more {unit}{'' if room == 1 else 's'} before the blocks fall from {step.blocks} to {after}"
    return ""


def _needed(built: Build) -> str:
    """The instructions that the header requires, present or absent."""
    if not built.kernel or not built.kernel.requires or built.listing is None:
        return ""
    chips = []
    for word in built.kernel.requires:
        count = built.listing.count(word)
        kind, said = ("wb-lab-good", f"{word} {count}×") if count else ("wb-lab-bad", f"{word} absent")
        chips.append(f"<span class='wb-chip-needed {kind}'>{escape(said)}</span>")
    return "<br>" + "".join(chips)


def schedule_table(frame: pd.DataFrame, shape: Sequence[int], seed: int) -> str:
    """Passed or not in each schedule, and where it broke; in the last row, whether threads race."""
    rows = []
    for row in frame.to_dict("records"):
        verdict = "not looked for"
        if row["passed"] is not None:
            kind, said = ("wb-lab-good", "passed") if row["passed"] else ("wb-lab-bad", "failed")
            verdict = f"<span class='{kind}'>{said}</span>"
        place = []
        if row["block"] is not None:
            place.append(f"block {tuple(row['block'])}, thread {tuple(row['thread'])}")
        if row["at"]:
            place.append(f"at {row['at']}")
        rows.append([escape(row["schedule"]), verdict, escape(", ".join(place)), escape(row["message"])])
    ordered, races = frame[frame["schedule"] != RACES], frame[frame["schedule"] == RACES]
    passed = ordered["passed"].tolist().count(True)
    said = {"none": ", no race", "yes": ", threads race"}
    race = said.get(raced(races.iloc[0].to_dict()), "") if len(races) else ""
    head = f"<p>{passed} of {len(ordered)} schedules passed{race} at {'×'.join(map(str, shape))}, seed {seed}</p>"
    return head + _table(["schedule", "", "where", "what"], rows)


def mutant_table(frame: pd.DataFrame) -> str:
    """Each synchronisation, and whether leaving it out was seen."""
    rows = []
    for row in frame.to_dict("records"):
        kind, said = ("wb-lab-good", f"seen by {row['by']}") if row["caught"] else ("wb-lab-bad", "not seen")
        rows.append(
            [str(row["line"]), f"<code>{escape(row['text'])}</code>", f"<span class='{kind}'>{said}</span>",
             escape(row["message"])]
        )  # fmt: skip
    if not rows:
        return "<p>this kernel has no synchronisation to leave out</p>"
    caught = frame["caught"].tolist().count(True)
    head = (
        f"<p>{caught} of {len(frame)} synchronisations are needed: else threads race or a schedule breaks</p>"
    )
    return head + _table(["line", "left out", "", "what was seen"], rows)


def timing_table(frame: pd.DataFrame | None, where: str) -> str:
    """What was timed, or what else is known of kernels that were not. What the notes of all that were
    timed say is said once, above."""
    if frame is None:
        return "<p>nothing was timed yet: press Measure</p>"
    records = to_records(frame)
    told = [[row["device"] or "", *(row["note"] or "").split("; ")] for row in records]
    of_timed = [parts for row, parts in zip(records, told, strict=True) if row["seconds"] is not None] or told
    common = [part for part in of_timed[0] if part and all(part in parts for parts in of_timed)]
    rows, notes = [], []
    for row, parts in zip(records, told, strict=True):
        seconds = "–" if row["seconds"] is None else f"{number(1e3 * row['seconds'])} ms"
        quartiles = "" if row["seconds_q25"] is None else _quartiles(row)
        rows.append(
            [f"<b>{escape(row['kernel'])}</b>", seconds, quartiles, number(row["ratio"]),
             escape(str(row["verdict"] or "")), number(row["gflops"]), number(row["relative_error"], 2),
             escape(row["where"] or "")]
        )  # fmt: skip
        notes.append(escape("; ".join(part for part in parts if part and part not in common)))
    baseline = next((row for row in frame["baseline"] if row), "baseline")
    heads = ["kernel", "time", "quartiles, ms", f"× {baseline}", "", "GFLOP/s", "error", ""]
    head = "; ".join([where, f"shape {frame['shape'].iloc[0]}", *common])
    return f"<p>{escape(head)}</p>" + _table(heads, rows, right=(1, 2, 3, 5, 6), notes=notes)


def _quartiles(row: dict) -> str:
    return f"{number(1e3 * row['seconds_q25'])} to {number(1e3 * row['seconds_q75'])}"


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), notes: Sequence[str] = ()
) -> str:
    """Cells are HTML; columns in `right` are numbers; a note stands under its row, over all columns."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=wb-number-cell' if place in right else ''}>{cell}</{tag}>"
            for place, cell in enumerate(row)
        )

    body = []
    for place, row in enumerate(rows):
        body.append(f"<tr>{cells('td', row)}</tr>")
        if place < len(notes) and notes[place]:
            body.append(f"<tr><td class='wb-lab-note' colspan='{len(heads)}'>{notes[place]}</td></tr>")
    head = cells("th", [escape(word) for word in heads])
    return f"<table class='wb-lab-table'><tr>{head}</tr>{''.join(body)}</table>"
