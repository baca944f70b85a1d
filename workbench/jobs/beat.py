"""Beats: how a long loop deep inside a pure function tells how far it is, and is stopped.

    with heard(lambda done, total, values: ...):
        method.compress(w, statistics)     # which calls beat(step, steps, loss=...) in its loop

The listener belongs to the thread (a context variable), so that a method needs no argument for it; without one a
beat costs nothing. A listener that raises `Cancelled` stops the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[int, int, Mapping[str, float]], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def beat(done: int, total: int, **values: float) -> None:
    """Tell whoever listens in this thread: `done` of `total` steps, and numbers worth a curve (loss=0.1)."""
    listener = _listener.get()
    if listener is not None:
        listener(done, total, values)


@contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """While open, the beats of this thread go to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
