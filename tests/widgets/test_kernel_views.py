"""The kernel lab's view and the bench's speed tab without a browser."""

from __future__ import annotations

import threading

import pandas as pd
import pytest

from workbench.errors import Refused
from workbench.inspect.kernel_lab import KernelLab
from workbench.speed import CompileError, Message, cuda, cxx, kernels, measure, nvrtc, sass
from workbench.speed.build import Build, build
from workbench.speed.fuzz import SCHEDULE_COLUMNS
from workbench.widgets import KernelEditor, KernelLabView, SpeedView
from workbench.widgets import speed as speed_module
from workbench.widgets.kernel_tables import mutant_table, resource_bars, schedule_table, timing_table


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(cuda, "find_device", lambda: (None, "no CUDA device here"))


@pytest.fixture
def compiler():
    try:
        nvrtc.find_nvrtc()
        sass.find_nvdisasm()
    except Refused as error:
        pytest.skip(str(error))


@pytest.fixture
def cpp():
    try:
        cxx.find_compiler()
    except Refused as error:
        pytest.skip(str(error))


@pytest.fixture
def view():
    return KernelLabView(KernelLab("fp32_tiled", small=(33, 40, 40)))


@pytest.fixture(scope="module")
def frame():
    return measure((4, 8, 8), "cpu-numba-*", rounds=3)


def wait_until(condition, seconds=30.0):
    stop = threading.Event()
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        stop.wait(0.005)
    raise AssertionError(f"not so after {seconds} s")


# The lab


@pytest.mark.usefixtures("compiler")
def test_it_opens_with_machine_code_and_resources(view):
    editor = view.editor
    assert editor.state == "ok"
    assert editor.source == editor.compiled == kernels()["fp32_tiled"].source
    assert len(editor.sass) == len(view.lab.build().listing.instructions)
    address, text, line, kind, wrapper, live = editor.sass[0]
    assert (address, wrapper) == (0, "")
    assert kind in editor.colors
    assert line > 0
    assert live > 0
    assert text
    assert "no spills" in view.resources.value
    assert "FFMA 32×" in view.resources.value
    assert not editor.edited


@pytest.mark.usefixtures("compiler")
def test_typing_compiles_and_an_error_comes_back_on_its_line(view):
    view.editor.source = view.editor.source.replace("sum +=", "nothing +=")
    assert view.lab.edited
    assert view.editor.edited
    assert view.editor.state == "error"
    message = next(one for one in view.editor.messages if one["severity"] == "error")
    assert "nothing" in view.editor.source.split("\n")[message["line"] - 1]
    assert view.editor.sass == []
    assert view.resources.value == ""
    view.editor._handle_custom_msg({"type": "reset"}, [])
    assert view.editor.state == "ok"
    assert not view.editor.edited
    assert view.editor.messages == []


@pytest.mark.usefixtures("compiler")
def test_controls_set_the_lab_and_a_bad_shape_is_said(view):
    view.arch.value = "sm_80"
    assert view.lab.arch == "sm_80"
    assert "sm_80" in view.editor.status
    view.shape.value = "64x64"
    assert "is not MxNxK" in view.said.value
    assert view.lab.shape == (1024, 1024, 1024)
    view.shape.value = "64x32x16"
    assert view.said.value == ""
    assert view.lab.shape == (64, 32, 16)
    assert "64x32x16" in view.editor.code
    view.kernel.value = "bf16_wgmma"
    assert view.lab.name == view.editor.name == "bf16_wgmma"
    assert view.arch.options == ("sm_90a",)


@pytest.mark.usefixtures("compiler", "cpp")
def test_schedules_follow_the_source(view):
    view.tabs.value = "schedules"
    assert "5 of 5 schedules passed" in view.result.value
    lost = "__syncthreads();  // both tiles are whole before anyone reads them"
    assert lost in view.editor.source
    view.editor.source = view.editor.source.replace(lost, "")
    assert "0 of 5 schedules passed" in view.result.value
    view.editor.source = view.editor.source.replace("sum +=", "nothing +=")
    assert "does not compile" in view.result.value
    view.editor._handle_custom_msg({"type": "reset"}, [])
    assert "5 of 5" in view.result.value
    asked = []
    view.lab.fuzzing = lambda seed: asked.append(seed) or iter([])
    view.tabs.value = "occupancy"
    view.tabs.value = "schedules"  # nothing has changed: the table is kept
    assert asked == []
    view.again.click()
    assert asked == [1]


@pytest.mark.usefixtures("compiler", "cpp")
def test_leaving_out_each_synchronisation_is_a_job(view):
    view.tabs.value = "schedules"
    view.hunt.click()
    assert view.hunt.disabled
    wait_until(lambda: not view.hunt.disabled)
    assert "2 of 2 synchronisations are needed" in view.found.value


@pytest.mark.usefixtures("compiler")
def test_measuring_is_a_job_that_can_be_cancelled(view, frame, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def slow(what, job, **_):
        begun.set()
        go_on.wait(20)
        job.step(1, 2, "timing")
        view.lab._frames[view.lab.shape, what] = frame
        return frame

    monkeypatch.setattr(view.lab, "measure", slow)
    view.tabs.value = "times"
    assert "nothing was timed" in view.result.value
    view.run.click()
    begun.wait(20)
    assert view.job.layout.display is None
    view.run.click()  # one at a time
    view.job.cancel.click()
    go_on.set()
    wait_until(lambda: not view.run.disabled)
    assert view.lab.measured is None
    view.run.click()
    wait_until(lambda: not view.run.disabled)
    assert "measured here" in view.result.value
    assert "cpu-numba-naive" in view.result.value


@pytest.mark.usefixtures("compiler")
def test_every_tab_shows_something_without_a_gpu(view):
    for name in ("instructions", "occupancy", "roofline", "ladder"):
        view.tabs.value = name
        assert view.plot.label, name
    view.tabs.value = "roofline"
    assert "Nothing was timed here yet" in view.plot.spec
    view.machine.value = "NVIDIA H200"
    assert "(model)" in view.plot.spec
    view.editor.dark = True
    assert '"#d0d0d0"' in view.plot.spec  # the ink of the dark theme


@pytest.mark.usefixtures("compiler")
def test_a_bar_leads_to_its_line(view, monkeypatch):
    sent = []
    monkeypatch.setattr(view.editor, "send", lambda content, buffers=None: sent.append(content))
    view.plot._heard(view.plot, {"type": "pick", "data": [34, "text"]}, [])
    assert sent == [{"type": "look", "line": 34}]


def test_without_a_compiler_the_way_to_one_stands_in_its_place(monkeypatch):
    def none():
        raise nvrtc.NoCompiler("no CUDA compiler here: pip install it")

    monkeypatch.setattr(nvrtc, "find_nvrtc", none)
    view = KernelLabView()
    assert view.editor.state == "none"
    assert "pip install" in view.editor.empty
    assert view.resources.value == ""
    view.tabs.value = "occupancy"
    assert "pip install" in view.plot.spec


def test_the_lab_shows_its_view():
    assert isinstance(KernelLab().widget(), KernelLabView)


def test_an_editor_shows_messages_without_a_line():
    editor = KernelEditor(lambda: None)
    error = CompileError("k.cu: the compiler crashed", (Message(None, None, "error", "crashed"),))
    editor.show(Build("x", "sm_80", error.messages, str(error)))
    assert editor.status == "k.cu: the compiler crashed"
    assert editor.messages[0]["line"] is None


# Tables


def test_a_spill_and_a_missing_instruction_are_marked():
    source = kernels()["fp32_tiled"].source
    try:
        built = build(
            "fp32_tiled", source.replace("requires: FFMA, LDS", "requires: HMMA"), "sm_80", (64, 64, 64)
        )
        sass.find_nvdisasm()
    except Refused as error:
        pytest.skip(str(error))
    if built.compiled is None:
        pytest.skip(built.note)
    built.compiled.functions["fp32_tiled"] = nvrtc.Resources(
        registers=90, shared_bytes=8192, spill_stores=128, spill_loads=64, stack_bytes=32
    )
    html = resource_bars(built, [], [])
    assert "128 B stored, 64 B loaded" in html
    assert "wb-over" in html
    assert "HMMA absent" in html


def test_tables_escape_what_a_source_may_contain():
    row = dict.fromkeys(SCHEDULE_COLUMNS) | {
        "schedule": "forward", "passed": False, "block": (0, 1, 0), "thread": (2, 0, 0), "at": "", "message": "a < b",
    }  # fmt: skip
    html = schedule_table(pd.DataFrame([row]), (1, 2, 3), 0)
    assert "block (0, 1, 0), thread (2, 0, 0)" in html
    assert "a &lt; b" in html
    mutants = pd.DataFrame(
        [{"line": 3, "text": "wait<0>();", "caught": False, "by": "", "message": "nothing"}]
    )
    assert "wait&lt;0&gt;" in mutant_table(mutants)
    assert "0 of 1" in mutant_table(mutants)
    assert "no synchronisation" in mutant_table(mutants.iloc[:0])


def test_times_have_quartiles_and_say_where_they_are_from(frame):
    html = timing_table(frame, "recorded on X, 2026")
    assert "recorded on X, 2026" in html
    assert " ms</td>" in html
    assert " to " in html
    device = frame["device"].iloc[0]
    assert html.count(device) == 1  # what all rows say is said once
    assert "nothing was timed" in timing_table(None, "")


# The bench's tab


def test_the_speed_view_shows_each_kernel_with_its_time(frame):
    view = SpeedView((4, 8, 8))
    view._show(frame)
    for kernel in frame["kernel"]:
        assert f"<b>{kernel}</b>" in view.result.value
    assert " ms</td>" in view.result.value
    assert "registers" in view.result.value


def test_another_shape_takes_down_what_was_measured(frame, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(speed_module, "measure_apart", lambda *_, **__: go_on.wait(20) and frame)
    view = SpeedView((4, 8, 8))
    view._show(frame)
    view.run.click()
    view.look((16, 704, 256))
    assert view.result.value == ""
    assert "16 x 704 x 256" in view.note.value
    go_on.set()  # the answer to the shape before comes late
    wait_until(lambda: not view.run.disabled)
    assert view.result.value == ""


def test_measure_runs_in_another_process_and_comes_back(frame, monkeypatch):
    asked = []
    monkeypatch.setattr(speed_module, "measure_apart", lambda shape, *_, **__: asked.append(shape) or frame)
    view = SpeedView((4, 8, 8))
    view.run.click()
    wait_until(lambda: not view.run.disabled)
    assert asked == [(4, 8, 8)]
    assert view.job not in view.children  # only while it runs
    assert "<table" in view.result.value


def test_a_measurement_that_is_refused_is_said_in_one_line(monkeypatch):
    def refuse(*_arguments, **_keywords):
        raise Refused("no <compiler> here")

    monkeypatch.setattr(speed_module, "measure_apart", refuse)
    view = SpeedView((4, 8, 8))
    view.run.click()
    wait_until(lambda: not view.run.disabled)
    assert "no &lt;compiler&gt; here" in view.note.value


def test_the_lab_opens_in_the_drawer_at_the_layers_shape_and_closes():
    view = SpeedView((16, 704, 256))
    assert view.drawer.layout.display == "none"
    view.open_lab.click()
    (lab,) = view.drawer.children
    assert lab.lab.shape == (16, 704, 256)
    assert view.drawer.layout.display is None
    view.open_lab.click()
    assert view.drawer.children == ()
    assert view.drawer.layout.display == "none"
