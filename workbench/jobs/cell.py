"""Long work in a notebook's cell tells how far it is, below the cell, without being asked to."""

from __future__ import annotations

import functools
import html
import inspect
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from .job import Job

P = ParamSpec("P")
R = TypeVar("R")

QUIET = 1.0  # seconds of work that are not worth a line
RATE = 0.2  # seconds between two texts


def in_cell(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For a function with the parameter `job`: where nobody gave one and the function was called from a notebook's
    cell, it works under a job whose progress stands below the cell until it ends. Interrupting the kernel stops it."""

    def decorate(work: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(work)

        @functools.wraps(work)
        def told(*arguments: P.args, **keywords: P.kwargs) -> R:
            if not interactive():
                return work(*arguments, **keywords)
            try:
                given = signature.bind(*arguments, **keywords)
            except TypeError:
                return work(*arguments, **keywords)  # which says it in the function's own name
            if given.arguments.get("job") is not None:
                return work(*arguments, **keywords)
            with _line(name) as job:
                given.arguments["job"] = job
                return work(*given.args, **given.kwargs)

        return told

    return decorate


def interactive() -> bool:
    """Whether this is the main thread of a notebook's kernel, which a cell runs in."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") and threading.current_thread() is threading.main_thread()


@contextmanager
def _line(name: str) -> Iterator[Job]:
    """A running job that is shown; the line is gone when the work has ended."""
    page = sys.modules["IPython"].display  # of the kernel that runs this; this room needs no notebook
    job, lock, handle, last = Job(lambda _job: None, name), threading.Lock(), None, 0.0

    def show(changed: Job) -> None:
        nonlocal handle, last
        with lock:
            if changed.ended or changed.seconds < QUIET or time.monotonic() - last < RATE:
                return
            last = time.monotonic()
            if handle is None:
                handle = page.display(page.HTML(_said(changed)), display_id=True)
            else:
                handle.update(page.HTML(_said(changed)))

    job.state, job.started = "running", time.monotonic()
    job.listen(show)
    # A first part may be long, and tell nothing before its end.
    first = threading.Timer(1.1 * QUIET, show, (job,))
    first.daemon = True
    first.start()
    try:
        yield job
    finally:
        first.cancel()
        with lock:
            job.ended = time.monotonic()
            if handle is not None:
                handle.update(page.HTML(""))


def _said(job: Job) -> str:
    """Bar, what is worked on, seconds left."""
    left = job.seconds_left
    words = [job.name, job.text] + ([f"{left:.0f} s left"] if left is not None and left >= 1 else [])
    bar = f'<progress max="1" value="{job.done / job.total if job.total else 0:.3f}"></progress> '
    return bar + html.escape(" · ".join(word for word in words if word))
