"""Ahead: results in order, computed a few items ahead on several threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Result]]:
    """(item, function(item)) in order. At most `workers` items are in work or waiting to be taken, so memory is that of
    so many results; with one worker everything runs in the caller's thread. What is not begun when the caller stops is
    dropped."""
    if workers <= 1:
        for item in items:
            yield item, function(item)
        return
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ahead")
    try:
        for item in items:
            waiting.append((item, pool.submit(function, item)))
            if len(waiting) >= workers:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
