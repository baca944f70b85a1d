"""A ladder: kernels that each add one idea to the one before, what each was predicted to win, and what it won."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..errors import Refused, near
from . import cpu
from .kernel import Gain, Kernel, kernels

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {
    "kernel": "name",
    "rung": "place on the ladder, from 1",
    "percent": "of the baseline's speed in the same run, 100 / its time over the kernel's; missing: not timed",
    "percent_q25": "lower quartile over the rounds",
    "percent_q75": "upper quartile over the rounds",
    "over": "the kernel that the gain is over; empty: none was predicted",
    "predicted_low": "times faster than that kernel, written down before it was measured",
    "predicted_high": "the same, at most",
    "gain": "times faster than that kernel, as measured; missing: one of the two was not timed",
    "idea": "of the kernel",
    "where": "measured, recorded, or why there is no time",
    "baseline": "what percent is of",
}
CPU = {  # the ladders whose rungs are not .cu files
    "cpu": ("cpu-naive", "cpu-reordered", "cpu-register-tiled", "cpu-threaded"),
    "cpu-numba": ("cpu-numba-naive", "cpu-numba-reordered", "cpu-numba-tiled"),
    # one width each: their predictions are over torch's product, which they begin with
    "cpu-w8": ("cpu-torch-fp32", "cpu-torch-int8", "cpu-w8-dequant", "cpu-w8-dot", "cpu-w8a8-dot"),
    "cpu-w4": ("cpu-torch-fp32", "cpu-torch-int4", "cpu-w4-dequant", "cpu-w4-dot", "cpu-w4-lut"),
    "cpu-nf4": ("cpu-torch-fp32", "cpu-nf4-dequant", "cpu-nf4-dot"),
    "cpu-w3": ("cpu-torch-fp32", "cpu-w3-dequant", "cpu-w3-dot", "cpu-w3-lut"),
    "cpu-w2": ("cpu-torch-fp32", "cpu-w2-dequant", "cpu-w2-dot", "cpu-w2-lut"),
    "cpu-w1": ("cpu-torch-fp32", "cpu-w1-dot", "cpu-w1-lut"),
}


def ladders() -> dict[str, list[str]]:
    """Ladder -> its kernels, the first rung first; those of the CPU come last."""
    found: dict[str, list[Kernel]] = {}
    for kernel in kernels().values():
        found.setdefault(kernel.ladder, []).append(kernel)
    made = {
        name: [one.name for one in sorted(rungs, key=lambda one: (one.rung, one.name))]
        for name, rungs in found.items()
    }
    known = cpu.rungs()
    return made | {name: [one for one in rungs if one in known] for name, rungs in CPU.items()}


def ladder_table(frame: pd.DataFrame, ladder: str) -> pd.DataFrame:
    """The rungs of a ladder with what `frame`, a measured or recorded table of one shape, says of them; columns as
    in COLUMNS. Refused: no such ladder."""
    import pandas as pd

    known = ladders()
    if ladder not in known:
        raise Refused(f"there is no ladder {ladder!r}{near(ladder, known)}")
    timed = {row["kernel"]: row for row in frame.to_dict("records")}
    of_gpu = kernels()
    rows = [_row(place, name, timed, of_gpu) for place, name in enumerate(known[ladder], start=1)]
    made = pd.DataFrame(rows, columns=list(COLUMNS))
    made.attrs["columns"] = COLUMNS
    return made


def _row(place: int, name: str, timed: dict[str, dict], of_gpu: dict[str, Kernel]) -> dict:
    idea, gain = _told(name, of_gpu)
    row = timed.get(name, {})
    before = timed.get(gain.over, {}) if gain else {}
    seconds, of_before = row.get("seconds"), before.get("seconds")
    return {
        "kernel": name,
        "rung": place,
        "percent": _times(100, row.get("ratio")),
        "percent_q25": _times(100, row.get("ratio_q25")),
        "percent_q75": _times(100, row.get("ratio_q75")),
        "over": gain.over if gain else "",
        "predicted_low": gain.low if gain else None,
        "predicted_high": gain.high if gain else None,
        "gain": _times(1 / seconds, of_before) if seconds is not None and seconds == seconds else None,
        "idea": idea,
        "where": row.get("where") or "not in this table",
        "baseline": row.get("baseline") or "",
    }


def _told(name: str, of_gpu: dict[str, Kernel]) -> tuple[str, Gain | None]:
    """(idea, predicted gain) of a kernel."""
    if name in of_gpu:
        return of_gpu[name].idea, of_gpu[name].gain
    rung = cpu.rungs()[name]
    return rung.idea, read_gain(rung.gain, name)


def read_gain(text: str, name: str) -> Gain | None:
    """The prediction of a CPU kernel from its words, such as "10 to 20x over naive: why"; None where they hold none.
    It names its predecessor without what all names of the ladder begin with, or without "cpu-"."""
    match = re.match(r"(\d+(?:\.\d+)?)(?: to (\d+(?:\.\d+)?))?x over ([a-z0-9-]+)(?:[:;]\s*(.*))?", text)
    if not match:
        return None
    low = float(match[1])
    family = next((ladder for ladder, rungs in CPU.items() if name in rungs), "cpu")
    over = f"{family}-{match[3]}"
    over = over if over in CPU.get(family, ()) else f"cpu-{match[3]}"
    return Gain(low, float(match[2] or low), over, match[4] or "")


def _times(factor: float, value: float | None) -> float | None:
    return factor * value if value is not None and value == value else None
