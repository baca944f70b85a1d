"""Measure in a process of its own, so that a kernel which hangs, crashes or fills the memory costs the caller nothing.

A CUDA kernel that writes out of bounds leaves its process without a working GPU; one that loops for ever cannot be
stopped at all. So an edited kernel is timed here: its process is ended when it takes too long, or is cancelled.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Refused
from .kernel import Kernel
from .time import Progress

if TYPE_CHECKING:
    import pandas as pd

# the package is found where it lies, installed or not
HOME = str(Path(__file__).parents[2])
START = f"import sys; sys.path.append({HOME!r}); from workbench.speed.apart import child; child()"
GRACE_S = (
    60.0  # of silence, for importing, compiling and checking one kernel, beside the budget of the timing
)
BEAT_S = 0.5  # between two calls of `progress` where the process says nothing, so that a cancel is heard


def measure_apart(
    shape: Sequence[int] | str,
    kernel: str | Kernel = "*",
    rounds: int = 7,
    *,
    budget_s: float = 20.0,
    timeout_s: float | None = None,
    progress: Progress | None = None,
    found: Callable[[pd.DataFrame], object] | None = None,
) -> pd.DataFrame:
    """As `measure`, in another process. `progress` is called twice a second or more often; what it raises ends that
    process and is raised on. `found` is given the table as it grows, so that what is known outlives a cancel and a
    refusal. Refused, too: the process died, or has said nothing for `timeout_s` seconds (by default what the budget and
    compiling one kernel may take)."""
    request: dict[str, Any] = {"shape": shape if isinstance(shape, str) else list(shape), "rounds": rounds}
    request |= {"budget_s": budget_s}
    if isinstance(kernel, Kernel):
        request |= {"source": kernel.source, "where": kernel.where}
    else:
        request |= {"kernel": kernel}
    silence = timeout_s if timeout_s is not None else 4 * budget_s + GRACE_S
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            # -P: a json.py in the folder where a notebook runs must not hide the standard library's
            [sys.executable, "-P", "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        )
        try:
            answer = _follow(process, request, silence, progress, found)
        finally:
            process.kill()
            process.wait()
        if answer is None:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["it said nothing"])[-1]
            raise Refused(f"the process that measures ended with status {process.returncode}: {last}")
    if "refused" in answer:
        raise Refused(answer["refused"])
    from .table import to_frame

    frame = to_frame(answer["rows"])
    frame.attrs["runs"] = answer["runs"]
    return frame


def _follow(
    process: subprocess.Popen[str],
    request: dict,
    silence: float,
    progress: Progress | None,
    found: Callable[[pd.DataFrame], object] | None,
) -> dict | None:
    """The last line of the process, its answer; None if it ended without one. Refused: `silence` seconds without a
    line."""
    from .table import to_frame

    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_talk, args=(process, request, lines), daemon=True).start()
    told: tuple[int, int, str] = (0, 1, "starting a process that measures")
    rows: dict[str, dict] = {}
    heard = time.monotonic()
    while True:
        if progress is not None:
            progress(*told)
        try:
            line = lines.get(timeout=min(BEAT_S, silence))
        except queue.Empty:
            if time.monotonic() - heard < silence:
                continue
            last = f", {told[2]}" if told[2] else ""
            raise Refused(
                f"the measurement said nothing for {silence:g} s{last}; its process was ended"
            ) from None
        if not line:
            return None
        heard, answer = time.monotonic(), json.loads(line)
        if "progress" in answer:
            done, total, what = answer["progress"]
            told = (done, total, what)
        elif "found" in answer:
            rows |= {row["kernel"]: row for row in answer["found"]}
            if found is not None:
                found(to_frame(list(rows.values())))
        else:
            return answer


def _talk(process: subprocess.Popen[str], request: dict, lines: queue.SimpleQueue[str]) -> None:
    """Write the request and put what the process says into `lines`, and "" behind it."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        for line in process.stdout:
            if line.endswith("\n"):  # else it was ended in the middle
                lines.put(line)
    except (OSError, ValueError):  # it has ended, or was ended
        pass
    lines.put("")


def child() -> None:
    """What runs there: one request on stdin; lines of progress and the answer on stdout."""
    import os

    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a kernel prints must not land in the JSON

    def say(told: dict[str, Any]) -> None:
        out.write(json.dumps(told, allow_nan=False) + "\n")
        out.flush()

    request = json.load(sys.stdin)
    try:
        say(_measured(request, say))
    except Refused as error:
        say({"refused": str(error)})


def _measured(request: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    from . import measure, to_records
    from .record import _plain_all
    from .table import to_frame

    kernel = request.get("kernel") or Kernel.parse(request["source"], where=request["where"])
    frame = measure(
        request["shape"],
        kernel,
        request["rounds"],
        budget_s=request["budget_s"],
        progress=lambda *done: say({"progress": done}),
        found=lambda rows: say({"found": to_records(to_frame(rows))}),
    )
    return {"rows": to_records(frame), "runs": _plain_all(frame.attrs.get("runs", {}))}
