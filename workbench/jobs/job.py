"""A Job is a piece of long work off the main thread: progress, cancel, result. It knows nothing of models.

`work(job)` runs in one worker thread and calls `job.step(done, total, text)` between its parts; that raises
Cancelled once `cancel()` was called, so the answer to Cancel takes at most one part. Listeners hear of changes
on the event loop of the thread that started the job (a notebook's), at most `RATE` times a second, and at once
of the end; without a running loop they are called from the worker.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

State = Literal["waiting", "running", "done", "cancelled", "failed"]
RATE = 20.0  # notifications a second at most


class Cancelled(Exception):
    """Raised inside the work by `step` after `cancel`; the work may catch it to keep what is finished."""


class Job:
    """One run of `work(job)`; `result` holds what it returned, `error` what it raised."""

    def __init__(self, work: Callable[[Job], Any], name: str = "job"):
        self.name, self._work = name, work
        self.state: State = "waiting"
        self.done, self.total, self.text = 0, 0, ""
        self.curves: dict[str, list[float]] = {}
        self.result: Any = None
        self.error: BaseException | None = None
        self.started = self.ended = 0.0
        self._cancel = threading.Event()
        self._stopped = False  # whether a step has raised Cancelled
        self._finished = threading.Event()
        self._listeners: list[Callable[[Job], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = 0.0

    def listen(self, listener: Callable[[Job], None]) -> None:
        self._listeners.append(listener)

    def start(self) -> Job:
        """Begin in a worker thread and return at once."""
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self.state, self.started = "running", time.monotonic()
        threading.Thread(target=self._run, name=f"workbench-{self.name}", daemon=True).start()
        self._tell(at_once=True)
        return self

    def run(self) -> Any:
        """Do the work here and now, in this thread; returns its result or raises its error."""
        self.state, self.started = "running", time.monotonic()
        self._run()
        return self.outcome()

    def cancel(self) -> None:
        """Ask the work to stop at its next step."""
        self._cancel.set()

    @property
    def cancelling(self) -> bool:
        return self._cancel.is_set()

    def step(self, done: int, total: int, text: str = "") -> None:
        """Called by the work between its parts; raises Cancelled if it was asked to stop."""
        if self._cancel.is_set():
            self._stopped = True
            raise Cancelled(self.name)
        self.done, self.total, self.text = done, total, text
        self._tell()

    def beat(self, text: str, values: Mapping[str, float]) -> None:
        """A step inside a part: a line of text and numbers, which grow into `curves` until another part begins."""
        part = text.partition(":")[0]
        if part != self.text.partition(":")[0]:
            self.curves = {}
        self.step(self.done, self.total, text)
        for name, value in values.items():
            self.curves.setdefault(name, []).append(value)

    def wait(self, timeout: float | None = None) -> Any:
        """Block until the end and return the result; an interrupt from the keyboard cancels the job."""
        try:
            self._finished.wait(timeout)
        except KeyboardInterrupt:
            self.cancel()
            self._finished.wait()
            raise
        if not self._finished.is_set():
            raise TimeoutError(f"{self.name} is still running after {timeout} s")
        return self.outcome()

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result

    @property
    def seconds(self) -> float:
        """Since the start, or the whole run once it has ended."""
        return (self.ended or time.monotonic()) - self.started if self.started else 0.0

    @property
    def seconds_left(self) -> float | None:
        """A forecast from the parts done so far; None before the first."""
        if not self.done or not self.total:
            return None
        return self.seconds / self.done * (self.total - self.done)

    def _run(self) -> None:
        try:
            self.result = self._work(self)
            # Work that keeps its finished parts returns after a Cancel: it is still a cancelled job.
            early = self._cancel.is_set() and self.done < self.total
            self.state = "cancelled" if self._stopped or early else "done"
        except Cancelled as stop:
            self.state, self.error = "cancelled", stop
        except BaseException as error:  # the thread must end in a state that somebody can read
            self.state, self.error = "failed", error
        self.ended = time.monotonic()
        self._finished.set()
        self._tell(at_once=True)

    def _tell(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if not at_once and now - self._told < 1 / RATE:
            return
        self._told = now
        for listener in self._listeners:
            deliver(self._loop, listener, self)


def deliver(loop: asyncio.AbstractEventLoop | None, call: Callable[..., None], *arguments: Any) -> None:
    """Call on `loop`'s thread, or right here where no loop is running any more."""
    if loop is not None and loop.is_running():
        loop.call_soon_threadsafe(call, *arguments)
    else:
        call(*arguments)
