"""The kernel lab's view and the bench's speed tab without a browser."""

from __future__ import annotations

import re
import threading
from html import unescape

import pandas as pd
import pytest

from workbench.engine import Recipe, Step, Variant
from workbench.errors import Refused
from workbench.files.load import load
from workbench.inspect import Answer, Session
from workbench.inspect.kernel_lab import KernelLab
from workbench.methods.quantize.rtn import RTN
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


def wait_until(condition, seconds=120.0):
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
        go_on.wait(60)
        job.step(1, 2, "timing")
        view.lab._frames[view.lab.shape, what] = frame
        return frame

    monkeypatch.setattr(view.lab, "measure", slow)
    view.tabs.value = "times"
    assert "nothing was timed" in view.result.value
    view.run.click()
    begun.wait(60)
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
    assert "kernel error" in view.result.value


def test_another_shape_takes_down_what_was_measured(frame, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(speed_module, "measure_apart", lambda *_, **__: go_on.wait(60) and frame)
    view = SpeedView((4, 8, 8))
    view._show(frame)
    view.every.click()
    view.look((16, 704, 256))
    assert view.result.value == ""
    assert "704 × 256, batch 16" in view.note.value
    go_on.set()  # the answer to the shape before comes late
    wait_until(lambda: not view.every.disabled)
    assert view.result.value == ""


def test_measure_runs_in_another_process_and_comes_back(frame, monkeypatch):
    asked = []
    monkeypatch.setattr(speed_module, "measure_apart", lambda shape, *_, **__: asked.append(shape) or frame)
    view = SpeedView((4, 8, 8))
    view.every.click()
    wait_until(lambda: not view.every.disabled)
    assert asked == [(4, 8, 8)]
    assert view.job not in view.children  # only while it runs
    assert "<table" in view.result.value


def test_a_measurement_that_is_refused_is_said_in_one_line(monkeypatch):
    def refuse(*_arguments, **_keywords):
        raise Refused("no <compiler> here")

    monkeypatch.setattr(speed_module, "measure_apart", refuse)
    view = SpeedView((4, 8, 8))
    view.every.click()
    wait_until(lambda: not view.every.disabled)
    assert "no &lt;compiler&gt; here" in view.note.value


def test_rows_appear_as_they_come_and_stay_where_it_fails_and_the_next_run_takes_the_error_down(
    frame, monkeypatch
):
    go_on, first = threading.Event(), frame.iloc[:1]

    def measure(*_, progress, found, **__):
        found(first)
        progress(1, 2, "compiling the next")
        go_on.wait(60)
        raise Refused("the measurement said nothing for 84 s")

    monkeypatch.setattr(speed_module, "measure_apart", measure)
    view = SpeedView((4, 8, 8))
    view.every.click()
    wait_until(lambda: "<table" in view.result.value)
    assert view.every.disabled
    assert f"<b>{first['kernel'].iloc[0]}</b>" in view.result.value
    go_on.set()
    wait_until(lambda: not view.every.disabled)
    assert "said nothing for 84 s" in view.note.value
    assert f"<b>{first['kernel'].iloc[0]}</b>" in view.result.value
    monkeypatch.setattr(speed_module, "measure_apart", lambda *_, **__: frame)
    view.every.click()
    assert "said nothing" not in view.note.value
    wait_until(lambda: not view.every.disabled)


def test_without_a_gpu_only_the_kernels_of_the_cpu_are_measured(frame, monkeypatch):
    asked = []
    monkeypatch.setattr(
        speed_module, "measure_apart", lambda _shape, names, *_, **__: asked.append(names) or frame
    )
    view = SpeedView((4, 8, 8))
    view.every.click()
    wait_until(lambda: not view.every.disabled)
    monkeypatch.setattr(cuda, "find_device", lambda: (object(), ""))
    view.every.click()
    wait_until(lambda: not view.every.disabled)
    assert asked == ["cpu-*", "*"]


# A compressed layer in it


@pytest.fixture
def session():
    return Session(
        load("tiny-llama"), layer="model.layers.2.mlp.down_proj", method=RTN(bits=4, group_size=64)
    )


@pytest.fixture
def of_layer(session):
    view = SpeedView((16, *session.layer.shape), session)
    view.take(next(session.live()))
    return view


def test_the_compressed_weight_of_the_bench_is_what_runs(of_layer, session, frame, monkeypatch):
    asked = []

    def run(compressed, batch, names, *_, original, emulate, **__):
        asked.append((compressed, batch, names, original, emulate))
        return frame

    monkeypatch.setattr(speed_module, "run_layer", run)
    assert "rtn" in of_layer.note.value.lower()
    assert "256 × 704, batch 16" in of_layer.note.value
    of_layer.batch.value = 8
    of_layer.run.click()
    wait_until(lambda: not of_layer.run.disabled)
    of_layer.compile.click()
    wait_until(lambda: not of_layer.compile.disabled)
    compressed, batch, names, original, emulate = asked[0]
    assert compressed is session.error_map.compressed
    assert original is session.error_map.w
    assert (batch, names, emulate) == (8, "cpu-*", False)
    assert "w4_mma" in asked[1][2].split(",")
    assert asked[1][4]  # no GPU: the error is the emulator's


@pytest.mark.usefixtures("cpp")
def test_the_two_errors_of_a_layer_stand_side_by_side(of_layer):
    of_layer.batch.value = 1
    of_layer.run.click()
    wait_until(lambda: not of_layer.run.disabled)
    table = of_layer.result.value
    heads = re.findall(r"<th[^>]*>(.*?)</th>", table)
    assert heads == ["kernel", "backend, packing", "time", "× baseline", "kernel error", "weight error"]
    assert "baseline: cpu-torch-fp32" in table
    (row,) = re.findall(r"<tr><td><b>cpu-w4-lut</b>.*?</tr>", table)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert cells[1] == "C++, planes"
    assert cells[2].endswith(" ms")
    assert 0 < float(cells[4]) < 0.02 < float(cells[5]) < 0.2  # the kernel's is far below the weights'


def test_the_kernel_for_the_grid_is_named_and_opened(of_layer):
    of_layer.batch.value = 8
    assert "CUDA kernel for this grid: <b>w4_mma</b>, packing w4-fragments-64" in of_layer.note.value
    of_layer.open_lab.click()
    (view,) = of_layer.drawer.children
    assert (view.lab.name, view.lab.shape) == ("w4_mma", (8, 256, 704))
    assert view.lab.kernel.packing == "w4-fragments-64"
    assert "GROUP = 64" in view.editor.source
    made: dict = {}
    exec(view.lab.code().rpartition("\n")[0], made)
    assert made["lab"].source == view.lab.source  # the code that is copied has the layer's groups, too


def test_a_grid_without_a_kernel_is_said_with_what_would_fit(of_layer, session):
    session.method = RTN(format="e4m3", group_size=64)
    of_layer.take(next(session.live()))
    assert "No kernel reads this grid: a table of 256 values" in of_layer.note.value
    assert "what would fit: whole numbers of 1 to 8 bits" in of_layer.note.value


def test_another_method_takes_the_table_of_the_last_weight_down(of_layer, session, frame):
    of_layer._shows_layer = True
    of_layer._show(frame)
    of_layer.take(next(session.live()))  # the same method once more
    assert "<table" in of_layer.result.value
    session.method = RTN(bits=3, group_size=64)
    of_layer.take(next(session.live()))
    assert of_layer.result.value == ""


def test_the_weight_of_the_variant_can_be_chosen_where_it_has_one(of_layer, session):
    assert of_layer.choice.layout.display == "none"
    name = session.layer.name
    compressed = RTN(bits=2, group_size=64).compress(session.error_map.w)
    session.history.add(
        Variant(session.model, Recipe([Step(RTN(bits=2, group_size=64), name)]), {name: compressed})
    )
    of_layer.offer()
    assert of_layer.choice.layout.display is None
    of_layer.choice.value = "variant"
    assert of_layer.weight.compressed is compressed
    assert "<b>w2_split_k</b>" in of_layer.note.value
    session.history.go(0)
    of_layer.offer()
    assert of_layer.choice.value == "method"


OWN = """extern "C" __global__ void mine(const float* A, const float* B, float* C, int M, int N, int K) {
    const int column = blockIdx.x * 16 + threadIdx.x, row = blockIdx.y * 16 + threadIdx.y;
    if (row >= M || column >= N) return;
    float sum = 0.0f;
    for (int k = 0; k < K; ++k) sum += A[row * K + k] * B[k * N + column];
    C[row * N + column] = sum;
}
"""


@pytest.mark.usefixtures("compiler", "cpp")
def test_a_source_without_a_header_is_shown_and_a_header_to_copy_lets_it_run():
    view = KernelLabView(KernelLab(OWN, small=(33, 20, 20)))
    assert view.editor.state == "ok"
    assert view.editor.sass
    assert "no header says how it is launched" in view.editor.status
    assert "<b>" in view.resources.value
    for name in ("occupancy", "times", "roofline", "ladder"):  # none fails for want of one
        view.tabs.value = name
    view.tabs.value = "schedules"
    header = unescape(re.search(r"<pre>(.*)</pre>", view.result.value, re.DOTALL)[1])
    view.editor.source = f"{header}\n\n{OWN}"
    assert "5 of 5 schedules passed" in view.result.value
    assert "budget 255" in view.resources.value


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


def test_the_weight_of_a_neighbour_of_the_same_shape_is_not_run():
    session = Session(load("tiny-llama"), layer="model.layers.0.self_attn.q_proj")
    w = session.error_map.w
    view = SpeedView((1, *w.shape), session)
    view.take(Answer(session.layer.name, session.method, session.method.compress(w)))
    assert view.weight.layer == "model.layers.0.self_attn.q_proj"
    session.layer = "model.layers.0.self_attn.o_proj"
    assert session.error_map.w.shape == w.shape
    view.look((1, *w.shape))
    assert view.weight is None
