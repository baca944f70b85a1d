"""Results in order, a few items ahead."""

from __future__ import annotations

import threading
import time

import pytest

from workbench.jobs import ahead


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers):
    def work(item: int) -> int:
        time.sleep(0.002 * (7 - item))  # the first takes longest
        return item * item

    assert list(ahead(work, range(7), workers)) == [(i, i * i) for i in range(7)]


def test_no_more_are_begun_than_there_are_workers():
    begun: list[int] = []
    results = ahead(lambda item: begun.append(item), range(20), 3)
    next(results)
    time.sleep(0.05)
    assert len(begun) <= 3


def test_one_worker_is_the_caller():
    threads = {name for _, name in ahead(lambda _: threading.current_thread().name, range(3), 1)}
    assert threads == {threading.current_thread().name}


def test_an_error_comes_with_its_item_and_the_rest_is_dropped():
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("one")
        return item

    results = ahead(work, range(50), 2)
    assert next(results) == (0, 0)
    with pytest.raises(ValueError, match="one"):
        list(results)
    time.sleep(0.02)
    assert len(begun) < 10
