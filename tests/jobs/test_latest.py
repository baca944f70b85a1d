"""Latest: of requests that arrive faster than the answers, the newest wins."""

from __future__ import annotations

import asyncio
import threading

import pytest

from workbench.jobs import Latest


def test_without_a_loop_a_request_is_answered_before_it_returns():
    shown = []
    latest = Latest(lambda x: 2 * x, shown.append)
    latest.request(1)
    latest.request(2)
    assert shown == [2, 4]


def test_without_a_loop_all_parts_of_an_answer_are_shown():
    shown = []
    Latest(lambda x: iter_parts(x), shown.append).request("a")
    assert shown == ["a preview", "a exact"]


def test_without_a_loop_an_error_goes_to_fail_or_is_raised():
    failed = []
    Latest(lambda x: 1 / x, print, failed.append).request(0)
    assert isinstance(failed[0], ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        Latest(lambda x: 1 / x, print).request(0)


def iter_parts(x):
    yield f"{x} preview"
    yield f"{x} exact"


def on_a_loop(main):
    return asyncio.run(asyncio.wait_for(main(), 120))


async def settle(shown, count):
    while len(shown) < count:
        await asyncio.sleep(0.002)
    await asyncio.sleep(0.02)  # would a wrong one follow?


def test_the_newest_request_wins_and_those_between_are_never_computed():
    async def main():
        begun, go_on, computed, shown = threading.Event(), threading.Event(), [], []

        def compute(x):
            computed.append(x)
            begun.set()
            go_on.wait(60)
            return x

        latest = Latest(compute, shown.append)
        latest.request(0)
        assert begun.wait(60)
        assert not latest.outdated
        for x in (1, 2, 3):
            latest.request(x)
        assert latest.outdated
        go_on.set()
        await settle(shown, 1)
        return computed, shown

    assert on_a_loop(main) == ([0, 3], [3])


def test_later_parts_of_an_outdated_answer_are_dropped_and_the_generator_is_closed():
    async def main():
        previewed, go_on, shown, closed, computed = threading.Event(), threading.Event(), [], [], []

        def compute(x):
            try:
                yield f"{x} preview"
                if x == "old":
                    previewed.set()
                    go_on.wait(60)
                yield f"{x} exact"
                computed.append(x)
                yield f"{x} more"
            finally:
                closed.append(x)

        latest = Latest(compute, shown.append)
        latest.request("old")
        assert previewed.wait(60)
        latest.request("new")
        go_on.set()
        await settle(shown, 4)
        assert computed == ["new"]  # the old one was not even computed to its end
        return shown, closed

    shown, closed = on_a_loop(main)
    assert shown == ["old preview", "new preview", "new exact", "new more"]
    assert closed == ["old", "new"]


def test_answers_and_errors_are_told_on_the_loops_thread_and_computed_elsewhere():
    async def main():
        here, threads, told = threading.current_thread(), [], []

        def compute(x):
            threads.append(threading.current_thread())
            return 1 / x

        def tell(answer):
            told.append((threading.current_thread(), answer))

        latest = Latest(compute, tell, tell)
        latest.request(2)
        await settle(told, 1)
        latest.request(0)
        await settle(told, 2)
        assert here not in threads
        assert {thread for thread, _ in told} == {here}
        return [answer for _, answer in told]

    half, error = on_a_loop(main)
    assert half == 0.5
    assert isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize("fail", [None, lambda error: 1 / 0])
def test_an_error_that_nobody_takes_does_not_stop_the_next_answer(monkeypatch, fail):
    reported = []
    monkeypatch.setattr(threading, "excepthook", lambda hook: reported.append(hook.exc_type))

    async def main():
        def handle(loop, context):
            reported.append(type(context["exception"]))

        asyncio.get_running_loop().set_exception_handler(handle)
        shown = []
        latest = Latest(lambda x: 1 / x, shown.append, fail)
        latest.request(0)
        while not reported:
            await asyncio.sleep(0.002)
        latest.request(4)
        await settle(shown, 1)
        return shown

    assert on_a_loop(main) == [0.25]
    assert reported == [ZeroDivisionError]
