"""Job: progress, cancel, result or error, and who hears of it, where and how often."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from workbench.jobs import Cancelled, Job


def test_a_job_returns_what_its_work_returned():
    job = Job(lambda job: 42, "answer")
    assert job.state == "waiting"
    assert job.start().wait(60) == 42
    assert (job.state, job.result, job.error) == ("done", 42, None)
    assert job.outcome() == 42


def test_the_work_runs_in_another_thread_and_run_in_this_one():
    assert Job(lambda job: threading.current_thread()).start().wait(60) is not threading.current_thread()
    assert Job(lambda job: threading.current_thread()).run() is threading.current_thread()


def test_progress_is_what_the_work_said_last():
    def work(job):
        job.step(3, 10, "layer 3")
        return (job.done, job.total, job.text)

    assert Job(work).run() == (3, 10, "layer 3")


def test_cancel_stops_the_work_at_its_next_step():
    reached, go_on, steps = threading.Event(), threading.Event(), []

    def work(job):
        for i in range(100):
            job.step(i, 100)
            steps.append(i)
            reached.set()
            go_on.wait(60)

    job = Job(work, "long").start()
    assert reached.wait(60)
    assert not job.cancelling
    job.cancel()
    assert job.cancelling
    go_on.set()
    with pytest.raises(Cancelled):
        job.wait(60)
    assert job.state == "cancelled"
    assert steps == [0]


def test_work_that_keeps_its_finished_parts_is_cancelled_with_a_result():
    def work(job):
        kept = []
        try:
            for i in range(5):
                job.step(i, 5)
                kept.append(i)
                if i == 1:
                    job.cancel()
        except Cancelled:
            pass
        return kept

    job = Job(work)
    assert job.run() == [0, 1]
    assert job.state == "cancelled"


@pytest.mark.parametrize("cancel_at", [0, 3])
def test_work_that_looks_for_itself_or_is_stopped_at_its_first_step_is_cancelled_too(cancel_at):
    def work(job):
        try:
            for i in range(5):
                if i == cancel_at:
                    job.cancel()
                if job.cancelling and i:
                    return i
                job.step(i, 5)
        except Cancelled:
            return 0

    job = Job(work)
    assert job.run() == cancel_at
    assert job.state == "cancelled"


def test_a_cancel_that_comes_after_the_last_part_changes_nothing():
    def work(job):
        job.step(4, 5)
        job.cancel()
        job.done = 5
        return "all"

    job = Job(work)
    assert job.run() == "all"
    assert job.state == "done"


def test_an_error_is_kept_and_raised_by_who_asks():
    job = Job(lambda job: 1 / 0).start()
    with pytest.raises(ZeroDivisionError):
        job.wait(60)
    assert job.state == "failed"
    with pytest.raises(ZeroDivisionError):
        job.outcome()
    with pytest.raises(ZeroDivisionError):
        Job(lambda job: 1 / 0).run()


def test_waiting_too_short_says_so_and_leaves_the_job_alone():
    go_on = threading.Event()
    job = Job(lambda job: go_on.wait(60), "slow").start()
    with pytest.raises(TimeoutError, match="slow is still running"):
        job.wait(0.01)
    assert job.state == "running"
    go_on.set()
    assert job.wait(60) is True


@pytest.fixture
def clock(monkeypatch):
    """The jobs' clock, which goes on only where a test says so."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr("workbench.jobs.job.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_seconds_stop_at_the_end_and_the_rest_is_forecast(clock):
    forecasts = []

    def work(job):
        job.step(0, 4)
        forecasts.append(job.seconds_left)
        clock.now += 2
        job.step(1, 4)
        forecasts.append(job.seconds_left)

    job = Job(work)
    assert job.seconds == 0
    job.run()
    clock.now += 5
    assert job.seconds == 2
    assert forecasts == [None, 6]


def test_listeners_hear_at_most_20_times_a_second_and_always_of_the_end(clock):
    heard = []

    def work(job):
        began.wait(60)
        for step in range(64):
            clock.now += 1 / 64
            job.step(step, 64)
        job.done = 7

    began, job = threading.Event(), Job(work)
    job.listen(lambda job: heard.append((job.state, job.done)))
    job.start()
    began.set()  # only now, or the news of the start would come from this thread in the middle of the work
    job.wait(60)
    until(lambda: heard[-1][0] == "done")
    # Steps of 1/64 s: every fourth is at least 1/20 s after the one that was told before.
    assert heard == [("running", 0), *(("running", step) for step in range(3, 64, 4)), ("done", 7)]


@pytest.mark.parametrize(
    ("work", "state"), [(lambda job: 1 / 0, "failed"), (lambda job: job.step(0, 1), "cancelled")]
)
def test_a_bad_end_is_told_too(work, state):
    heard = []
    job = Job(work)
    job.listen(lambda job: heard.append(job.state))
    job.cancel()
    job.start()
    until(lambda: state in heard)
    assert heard[-1] == state


def test_on_a_loop_listeners_are_called_on_its_thread():
    async def main():
        heard, ended = [], asyncio.Event()

        def listen(job):
            heard.append((threading.current_thread(), job.state))
            if job.state == "done":
                ended.set()

        job = Job(lambda job: [job.step(i, 3) for i in range(3)])
        job.listen(listen)
        job.start()
        await asyncio.wait_for(ended.wait(), 60)
        return heard

    heard = asyncio.run(main())
    assert heard
    assert {thread for thread, _ in heard} == {threading.current_thread()}


def test_the_loop_stays_alive_while_the_work_runs():
    async def main():
        turns, go_on = 0, threading.Event()
        job = Job(lambda job: go_on.wait(60)).start()
        for _ in range(10):
            await asyncio.sleep(0.001)
            turns += job.state == "running"
        go_on.set()
        return turns

    assert asyncio.run(main()) == 10


def test_a_loop_that_has_ended_does_not_lose_the_end():
    heard, go_on = [], threading.Event()
    job = Job(lambda job: go_on.wait(60))
    job.listen(lambda job: heard.append(job.state))

    async def main():
        job.start()

    asyncio.run(main())
    go_on.set()
    job.wait(60)
    until(lambda: "done" in heard)


def until(met, seconds=60):
    """Wait for what another thread is about to do."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)
