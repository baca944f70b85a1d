"""Recorded runs: what `workbench speed --record` wrote on another machine, or earlier, read and labelled as such."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from .roofline import Limits, data_sheet, recorded_limits
from .table import COLUMNS, to_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Recorded:
    """One file. `device` that its rows were measured on: the GPU where one is in it, else the CPU."""

    path: Path
    device: str
    date: str  # of the run, as it was written: ISO 8601
    document: dict[str, Any] = field(repr=False)

    @property
    def label(self) -> str:
        return f"recorded on {self.device}, {self.date[:10]}"

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as `measure` gave them; those that were measured say `recorded` instead, and where and when."""
        rows = []
        for row in self.document["kernels"]:
            known = {name: row.get(name) for name in COLUMNS}
            if known["where"] == "measured":
                known["where"] = "recorded"
                known["note"] = "; ".join(filter(None, [self.label, known["note"]]))
            rows.append(known)
        frame = to_frame(rows)
        frame.attrs["runs"] = self.document.get("runs", {})
        return frame

    @property
    def limits(self) -> Limits | None:
        """The machine's limits: those of the record, else the maker's of its GPU, else unknown."""
        if told := self.document.get("limits"):
            return recorded_limits(told)
        return data_sheet(self.device)


def folder() -> Path:
    """measurements/ in the checkout's data, the installed package's, or the folder that WORKBENCH_DATA names."""
    package = Path(__file__).resolve().parents[1]
    places = [Path(os.environ["WORKBENCH_DATA"])] if "WORKBENCH_DATA" in os.environ else []
    places += [package.parent / "data", package / "_data"]
    return next((place for place in places if place.is_dir()), places[-1]) / "measurements"


def read(path: str | Path) -> Recorded:
    """Refused where the file is not a record: no JSON, or without kernels, machine and date."""
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Refused(f"{path}: no record to read: {error.strerror}") from None
    except ValueError as error:
        raise Refused(f"{path}: no record: not JSON ({error})") from None
    needed = {"kernels": list, "machine": dict, "date": str}
    for name, kind in needed.items():
        if not isinstance(document, dict) or not isinstance(document.get(name), kind):
            raise Refused(f"{path}: no record of `workbench speed --record`: it has no {name!r}")
    if not all(
        isinstance(row, dict) and {"kernel", "shape", "where"} <= row.keys() for row in document["kernels"]
    ):
        raise Refused(f"{path}: a row of its kernels has no kernel, shape or where")
    machine = document["machine"]
    device = machine.get("device") or machine.get("cpu")
    return Recorded(path, str(device or "an unknown machine"), document["date"], document)


def recorded_runs(where: str | Path | None = None) -> list[Recorded]:
    """Every record of a folder, the newest first. A file that is none is refused, not passed over."""
    made = [read(path) for path in sorted(Path(where or folder()).glob("*.json"))]
    return sorted(made, key=lambda one: one.date, reverse=True)
