"""A measurement in a process of its own: the same table, and a death, a hang or a cancel that costs nothing."""

from __future__ import annotations

import time

import pytest

from workbench.errors import Refused
from workbench.jobs import Cancelled
from workbench.speed import COLUMNS, Kernel, apart, kernels
from workbench.speed.apart import measure_apart


def test_the_table_is_that_of_measure():
    told = []
    names = "cpu-numba-reordered, cpu-torch-fp32"
    frame = measure_apart((4, 32, 32), names, 1, progress=lambda *done: told.append(done))
    assert list(frame.columns) == list(COLUMNS)
    assert frame["where"].tolist() == ["measured"] * 2
    assert "cpu" in frame.attrs["runs"]
    assert told
    assert all(done < total for done, total, _ in told)
    assert any(what.startswith("compiling and trying cpu-numba-reordered") for *_, what in told)


def test_a_file_beside_the_notebook_does_not_hide_a_module(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    monkeypatch.chdir(tmp_path)
    assert measure_apart((4, 32, 32), "cpu-torch-fp32", 1)["where"].tolist() == ["measured"]


def test_an_edited_source_arrives_whole_and_a_refusal_comes_back():
    kernel = kernels()["fp32_tiled"]
    edited = Kernel.parse(kernel.source.replace("TILE = 32", "TILE = 16"), where="edited.cu")
    frame = measure_apart((64, 64, 64), edited, 1)
    assert frame["source_hash"].tolist() == [edited.hash]
    with pytest.raises(Refused, match="no speed kernel matches"):
        measure_apart((4, 4, 4), "nothing-*", 1)


def test_a_process_that_dies_is_said_with_its_last_words(monkeypatch):
    monkeypatch.setattr(apart, "START", "import sys; sys.exit('out of memory on the device')")
    with pytest.raises(Refused, match="status 1: out of memory on the device"):
        measure_apart((4, 4, 4), "cpu-numba-*", 1)


def test_a_process_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(apart, "START", "import time; time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(Refused, match=r"said nothing for 0\.5 s, starting a process that measures"):
        measure_apart((4, 4, 4), "cpu-numba-*", 1, timeout_s=0.5)
    assert time.monotonic() - began < 10


def test_what_progress_raises_ends_the_process(monkeypatch):
    monkeypatch.setattr(
        apart, "START", """import time; print('{"progress": [0, 9, "x"]}', flush=True); time.sleep(60)"""
    )

    def cancel(*_done):
        raise Cancelled("measure")

    began = time.monotonic()
    with pytest.raises(Cancelled):
        measure_apart((4, 4, 4), "cpu-numba-*", 1, progress=cancel)
    assert time.monotonic() - began < 10


def talking(*lines: str, then: str = "time.sleep(60)") -> str:
    """A process that says these lines, a third of a second apart."""
    said = "".join(f"print({line!r}, flush=True); time.sleep(0.3); " for line in lines)
    return f"import time; {said}{then}"


ROW = '{"found": [{"kernel": "%s", "seconds": 0.5}]}'
PROGRESS = '{"progress": [%d, 9, "compiling k"]}'


def test_the_limit_counts_from_the_last_sign_of_life(monkeypatch):
    lines = [PROGRESS % i for i in range(9)]
    monkeypatch.setattr(apart, "START", talking(*lines, then='print(\'{"rows": [], "runs": {}}\')'))
    began = time.monotonic()
    assert not len(measure_apart((4, 4, 4), timeout_s=2.0))
    assert time.monotonic() - began > 2.0  # longer than the limit, but never silent for so long


def test_rows_arrive_one_by_one_and_outlive_a_process_that_hangs(monkeypatch):
    monkeypatch.setattr(apart, "START", talking(ROW % "a", ROW % "b", PROGRESS % 3, ROW % "a"))
    grown: list[list[str]] = []
    with pytest.raises(Refused, match=r"said nothing for 1 s, compiling k; its process was ended"):
        measure_apart((4, 4, 4), timeout_s=1.0, found=lambda frame: grown.append(frame["kernel"].tolist()))
    assert grown == [["a"], ["a", "b"], ["a", "b"]]


def test_a_cancel_is_heard_while_the_process_is_silent(monkeypatch):
    monkeypatch.setattr(apart, "START", "import time; time.sleep(60)")
    calls = []

    def cancel(*told):
        calls.append(told)
        if len(calls) == 3:
            raise Cancelled("measure")

    began = time.monotonic()
    with pytest.raises(Cancelled):
        measure_apart((4, 4, 4), progress=cancel)
    assert time.monotonic() - began < 10
