"""Measure in a process of its own, so that a kernel which hangs, crashes or fills the memory costs the caller nothing.

A CUDA kernel that writes out of bounds leaves its process without a working GPU; one that loops for ever cannot be
stopped at all. So an edited kernel is timed here: its process is ended when it takes too long, or is cancelled.
"""

from __future__ import annotations

import json
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

if TYPE_CHECKING:
    import pandas as pd

# the package is found where it lies, installed or not
HOME = str(Path(__file__).parents[2])
START = f"import sys; sys.path.append({HOME!r}); from workbench.speed.apart import child; child()"
GRACE_S = 60.0  # for importing, compiling and checking, beside the budget of the timing


def measure_apart(
    shape: Sequence[int] | str,
    kernel: str | Kernel = "*",
    rounds: int = 7,
    *,
    budget_s: float = 20.0,
    timeout_s: float | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> pd.DataFrame:
    """As `measure`, in another process. What `progress` raises ends that process and is raised on. Refused, too: the
    process died, or took longer than `timeout_s` seconds (by default what the budget and compiling may take)."""
    request: dict[str, Any] = {"shape": shape if isinstance(shape, str) else list(shape), "rounds": rounds}
    request |= {"budget_s": budget_s}
    if isinstance(kernel, Kernel):
        request |= {"source": kernel.source, "where": kernel.where}
    else:
        request |= {"kernel": kernel}
    limit = timeout_s if timeout_s is not None else 4 * budget_s + GRACE_S
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            # -P: a json.py in the folder where a notebook runs must not hide the standard library's
            [sys.executable, "-P", "-c", START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
        )
        # the reader below blocks; this ends the process, and with it the reading, where nothing comes any more
        overdue = threading.Timer(limit, process.kill)
        began = time.monotonic()  # before the timer, so that its time is over when it has ended the process
        overdue.start()
        try:
            answer = _follow(process, request, progress)
        finally:
            overdue.cancel()
            process.kill()
            process.wait()
        if answer is None and time.monotonic() - began >= limit:
            raise Refused(f"the measurement took longer than {limit:g} s; its process was ended")
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


def _follow(process: subprocess.Popen[str], request: dict, progress: Callable[[int, int, str], None] | None):
    """The last line of the process, its answer; None if it ended without one."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(request))
        process.stdin.close()
    except BrokenPipeError:
        return None
    for line in process.stdout:
        told = json.loads(line)
        if "progress" not in told:
            return told
        if progress is not None:
            progress(*told["progress"])
    return None


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
        say(_measured(request, lambda *done: say({"progress": done})))
    except Refused as error:
        say({"refused": str(error)})


def _measured(request: dict[str, Any], progress: Callable[[int, int, str], None]) -> dict[str, Any]:
    from . import measure, to_records
    from .record import _plain_all

    kernel = request.get("kernel") or Kernel.parse(request["source"], where=request["where"])
    frame = measure(
        request["shape"], kernel, request["rounds"], budget_s=request["budget_s"], progress=progress
    )
    return {"rows": to_records(frame), "runs": _plain_all(frame.attrs.get("runs", {}))}
