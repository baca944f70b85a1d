"""Progress below a notebook's cell: shown when the work is long, gone when it ends, absent everywhere else."""

from __future__ import annotations

import sys
import threading
import time
import types

import pytest

from workbench.jobs import Job, cell, in_cell


class Page:
    """What a notebook would show: the texts of its one line."""

    def __init__(self):
        self.texts: list[str] = []

    def display(self, what, display_id):
        assert display_id
        self.texts.append(what.data)
        return types.SimpleNamespace(update=lambda other: self.texts.append(other.data))


@pytest.fixture
def page(monkeypatch):
    """A kernel whose cell runs here, and work that is long at once."""
    IPython = pytest.importorskip("IPython")
    shown = Page()
    monkeypatch.setattr(IPython, "get_ipython", lambda: types.SimpleNamespace(kernel=object()))
    monkeypatch.setattr("IPython.display.display", shown.display)
    monkeypatch.setattr(cell, "QUIET", 0.0)
    monkeypatch.setattr(cell, "RATE", 0.0)
    monkeypatch.setattr("workbench.jobs.job.RATE", 1e9)
    return shown


@in_cell("counting")
def count(to: int, job: Job | None = None) -> int:
    for i in range(to):
        if job is not None:
            job.step(i, to, f"<{i}>")
    return to


def test_a_cell_shows_the_progress_and_takes_it_away(page):
    assert count(3) == 3
    told = [text for text in page.texts if "&lt;" in text]
    assert len(told) == 3
    assert 'value="0.333"' in told[1]
    assert "counting · &lt;1&gt;" in told[1]
    assert page.texts[-1] == ""


def test_the_line_is_taken_away_after_an_error_too(page):
    @in_cell("failing")
    def fail(job: Job | None = None) -> None:
        job.step(0, 1, "begun")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert page.texts[-1] == ""


def test_a_long_first_part_is_shown_too(page, monkeypatch):
    monkeypatch.setattr(cell, "QUIET", 0.05)

    @in_cell("one part")
    def work(job: Job | None = None) -> None:
        job.step(0, 1, "the only one")
        until = time.monotonic() + 60
        while not page.texts and time.monotonic() < until:
            time.sleep(0.01)

    work()
    assert "one part · the only one" in page.texts[0]
    assert page.texts[-1] == ""


def test_a_wrong_call_is_told_in_the_words_of_the_function(page):
    with pytest.raises(TypeError, match=r"count\(\) missing 1 required positional argument: 'to'"):
        count()


def test_short_work_shows_nothing(page, monkeypatch):
    monkeypatch.setattr(cell, "QUIET", 60.0)
    count(3)
    assert page.texts == []


@pytest.mark.parametrize("by_name", [True, False])
def test_a_job_that_was_given_is_kept(page, by_name):
    job = Job(lambda _job: None)
    assert count(2, **{"job": job}) == 2 if by_name else count(2, job) == 2
    assert (job.done, job.total) == (1, 2)
    assert page.texts == []


def test_other_threads_and_plain_python_are_left_alone(page, monkeypatch):
    thread = threading.Thread(target=count, args=(3,))
    thread.start()
    thread.join()
    assert page.texts == []
    monkeypatch.delitem(sys.modules, "IPython")
    assert not cell.interactive()
    assert count(3) == 3
