"""Latest wins: requests that arrive faster than they can be answered replace each other.

A slider sends a request a pixel; the answer wanted is that to the last. `Latest` keeps one worker thread and one
waiting request. `compute` may be a generator: each value it yields is shown (a preview, then the exact answer),
and it is dropped between values as soon as a newer request is there.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

from .job import deliver

_NOTHING = object()


class Latest:
    """`request(x)` runs `compute(x)` in a thread and `show(answer)` on the caller's loop, unless x is outdated.

    An exception goes to `fail(error)`. Without a running event loop (a script, a test) a request is answered
    before it returns.
    """

    def __init__(
        self,
        compute: Callable[[Any], Any],
        show: Callable[[Any], None],
        fail: Callable[[Exception], None] | None = None,
        name: str = "latest",
    ):
        self.compute, self.show, self.fail, self.name = compute, show, fail, name
        self._lock = threading.Lock()
        self._waiting: Any = _NOTHING
        self._busy = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def request(self, value: Any) -> None:
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            if self._loop is None:
                self._answer(value)
                return
        with self._lock:
            self._waiting = value
            if self._busy:
                return
            self._busy = True
        threading.Thread(target=self._work, name=f"workbench-{self.name}", daemon=True).start()

    @property
    def outdated(self) -> bool:
        """Whether a newer request is waiting; a long computation may look and stop."""
        return self._waiting is not _NOTHING

    def _work(self) -> None:
        while True:
            with self._lock:
                value, self._waiting = self._waiting, _NOTHING
                if value is _NOTHING:
                    self._busy = False
                    return
            try:
                self._answer(value)
            except Exception as error:
                # Nobody took it: it is reported as any thread's would be, and the next request is answered.
                details = (type(error), error, error.__traceback__, threading.current_thread())
                threading.excepthook(threading.ExceptHookArgs(details))

    def _answer(self, value: Any) -> None:
        try:
            answer = self.compute(value)
            if not inspect.isgenerator(answer):
                self._show(answer)
                return
            for part in answer:
                if self.outdated:
                    answer.close()
                    return
                self._show(part)
        except Exception as error:
            if self.fail is None:
                raise
            deliver(self._loop, self.fail, error)

    def _show(self, answer: Any) -> None:
        if not self.outdated:
            deliver(self._loop, self.show, answer)
