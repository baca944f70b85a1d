"""KernelLabView: edit a CUDA kernel, see its machine code, resources and occupancy, run it, time it.

A view of a `KernelLab`. Compiling and emulating follow the typing (`Latest`); timing and the hunt for missing
synchronisations are jobs with a Cancel. All of it happens in other processes than the notebook's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import ipywidgets as ipw
import pandas as pd

from ..errors import Refused
from ..figures import note_figure
from ..inspect.kernel_lab import KernelLab
from ..inspect.view import VIEWS
from ..jobs import Job, Latest
from ..speed.build import Build
from ..speed.fuzz import CHECKS
from ..speed.ladder import ladders
from ..speed.table import parse_shape
from .job_view import JobView
from .kernel_editor import KernelEditor
from .kernel_tables import mutant_table, resource_bars, schedule_table, timing_table
from .plot import Plot

TABS = {
    "instructions": "what each line became, by kind; click a bar to go to its line",
    "occupancy": "how many warps a multiprocessor holds: arithmetic from published limits, not a measurement",
    "schedules": "the source on the CPU, in five orders of threads that a GPU may choose, too; and whether two threads "
    "touch the same shared memory with no barrier between",
    "times": "checked against float64, then timed in turns with the baseline",
    "roofline": "what was timed, under what the machine can do",
    "ladder": "each rung in percent of the baseline; what its idea was predicted to win, and won",
}
MEASURES = {"this kernel": "kernel", "its ladder": "ladder", "the CPU's kernels": "cpu-*"}


class KernelLabView(ipw.VBox):
    """`lab` is the headless object; the view sets its source, architecture and shape, and asks."""

    def __init__(self, lab: KernelLab | None = None):
        self.lab = lab or KernelLab()
        self.schedules: pd.DataFrame | None = None
        self._taking = False
        self._of: str | None = None  # the source that the schedules are of
        self._broken = ""  # why the source has no schedules to run
        self._build_frame()
        self._compiler = Latest(self._compile, self._compiled, self._failed, "compile")
        self._fuzzer = Latest(self._fuzz, self._fuzzed, self._fuzz_failed, "fuzz")
        self._drawer = Latest(self._draw, self._drawn, self._draw_failed, "kernel figure")
        self._connect()
        super().__init__(
            [self.bar, self.editor, self.resources, self.tabs, self.caption, self.body, self.job]
        )
        self.add_class("wb-kernel-lab")
        self._take()

    # The frame

    def _build_frame(self) -> None:
        lab = self.lab
        self.kernel = ipw.Dropdown(
            options=_names(lab), value=lab.name, description="kernel", layout={"width": "330px"}
        )
        self.arch = ipw.Dropdown(description="for", layout={"width": "130px"})
        self.shape = ipw.Text(description="shape M×N×K", continuous_update=False, layout={"width": "250px"})
        self.said = ipw.HTML()
        self.bar = ipw.HBox([self.kernel, self.arch, self.shape, self.said])
        self.bar.add_class("wb-lab-bar")
        self.editor = KernelEditor(self._reset)
        self.resources = ipw.HTML()
        self.tabs = ipw.ToggleButtons(options=list(TABS), value="instructions")
        self.tabs.style.button_width = "auto"
        self.tabs.add_class("wb-lab-tabs")
        self.caption = ipw.HTML()
        self.plot = Plot(height=300)
        self.machine = ipw.Dropdown(
            options=[(name, key) for key, name in lab.machines().items()],
            description="machine",
            layout={"width": "380px"},
        )
        self.ladder = ipw.Dropdown(description="ladder", layout={"width": "200px"})
        self.result = ipw.HTML()
        self.again = _button(
            "Run again", "all five schedules and the look for races, with another seed", self._run_again
        )
        self.hunt = _button("Leave out each synchronisation", "is every one of them needed?", self._hunt)
        self.what = ipw.Dropdown(options=MEASURES, description="measure", layout={"width": "230px"})
        self.run = _button("Measure", "in a process of its own", self._measure)
        self.found = ipw.HTML()
        self.body = ipw.VBox()
        self.body.add_class("wb-lab-body")
        self.job = JobView()
        self._seed = 0

    def _connect(self) -> None:
        self.kernel.observe(lambda change: self._choose(change["new"]), "value")
        self.arch.observe(lambda change: self._set("arch", change["new"]), "value")
        self.shape.observe(lambda change: self._set("shape", change["new"]), "value")
        self.editor.observe(lambda change: self._set("source", change["new"]), "source")
        self.editor.observe(lambda _change: self._show_tab(), "dark")
        self.tabs.observe(lambda _change: self._show_tab(), "value")
        self.machine.observe(lambda _change: self._redraw(), "value")
        self.ladder.observe(lambda _change: self._redraw(), "value")
        self.plot.on_pick(lambda data: self.editor.look(int(data[0])))

    @property
    def theme(self) -> str:
        return "dark" if self.editor.dark else "light"

    # What is on the table

    def _take(self) -> None:
        """Show the lab as it is: after a choice, a reset, or from outside."""
        lab, shipped = self.lab, self.lab.shipped[self.lab.name]
        self._taking = True
        try:
            self.arch.options, self.arch.value = lab.architectures, lab.arch
            self.shape.value = "x".join(map(str, lab.shape))
            known = dict(MEASURES)
            if "P(X" in shipped.op:  # no product: the CPU has no kernels for it
                known.popitem()
            self.what.options = known
            known_ladders = list(ladders())
            self.ladder.options = known_ladders
            self.ladder.value = lab.ladder if lab.ladder in known_ladders else known_ladders[0]
            with self.editor.hold_sync():
                self.editor.name, self.editor.idea = lab.name, shipped.idea
                self.editor.source = lab.source
        finally:
            self._taking = False
        self._changed()

    def _choose(self, name: str) -> None:
        self.lab.choose(name)
        self.found.value = self.result.value = ""
        self._take()

    def _reset(self) -> None:
        self.lab.reset()
        self._take()

    def _set(self, name: str, value: Any) -> None:
        """A control was moved: the lab's attribute of that name, if the value is one."""
        if self._taking or value is None:
            return
        try:
            setattr(self.lab, name, parse_shape(value) if name == "shape" else value)
        except Refused as reason:
            self._say(str(reason))
            return
        self._say("")
        self._changed()

    def _changed(self) -> None:
        self.editor.edited, self.editor.code = self.lab.edited, self.lab.code()
        self.editor.work()
        self._compiler.request(None)

    def _say(self, text: str) -> None:
        self.said.value = f"<span class='wb-error' role='alert'>{escape(text)}</span>" if text else ""

    # Compiling

    def _compile(self, _request: Any) -> tuple[Build, str]:
        built = self.lab.build()
        return built, resource_bars(built, *(self.lab.steps() if built.occupancy else ([], [])))

    def _compiled(self, answer: tuple[Build, str]) -> None:
        built, bars = answer
        self.editor.show(built)
        self._broken = built.error
        self.resources.value = bars
        self._show_tab()

    def _failed(self, error: Exception) -> None:
        self.editor.state, self.editor.status = "error", _words(error)
        if not isinstance(error, Refused):
            raise error

    # The tabs

    def _show_tab(self) -> None:
        shown = str(self.tabs.value)
        self.caption.value = escape(TABS[shown])
        if shown == "schedules":
            self.body.children = [_row(self.again, self.hunt), self.result, self.found]
            self._run_schedules()
        elif shown == "times":
            self.body.children = [_row(self.what, self.run), self.result]
            self._show_times()
        elif shown == "roofline":
            self.body.children = [_row(self.machine), self.plot]
            self._redraw()
        elif shown == "ladder":
            self.body.children = [_row(self.ladder), self.plot]
            self._redraw()
        else:
            self.body.children = [self.plot]
            self._redraw()

    def _redraw(self) -> None:
        if not self._taking:
            values = self.tabs.value, self.machine.value, self.ladder.value, self.theme
            self._drawer.request(tuple(map(str, values)))

    def _draw(self, asked: tuple[str, str, str, str]) -> Any:
        shown, machine, ladder, theme = asked
        if shown == "roofline" and machine == "here" and self.lab.measured is None:
            return note_figure(
                "Nothing was timed here yet: press Measure under times, or choose another machine",
                theme=theme,
            )
        kind = "mix" if shown == "instructions" else shown
        return self.lab.figure(theme, kind=kind, machine=machine, ladder=ladder)

    def _drawn(self, figure: Any) -> None:
        self.plot.show(figure)

    def _draw_failed(self, error: Exception) -> None:
        self.plot.show(note_figure(_words(error).partition("\n")[0][:160], theme=self.theme))
        if not isinstance(error, Refused):
            raise error

    # Schedules

    def _run_again(self) -> None:
        self._seed += 1
        self._of = None
        self._run_schedules()

    def _run_schedules(self) -> None:
        if self._of == self.lab.source and self.schedules is not None:
            self._fuzzed(self.schedules)
            return
        self.schedules, self._of = None, self.lab.source
        self.found.value = ""
        if self._broken:
            self.result.value = "<p>the source does not compile: nothing to run</p>"
            return
        self.result.value = "<p>building for the CPU and running ...</p>"
        self._fuzzer.request(self._seed)

    def _fuzz(self, seed: int) -> Iterator[pd.DataFrame]:
        yield from self.lab.fuzzing(seed)

    def _fuzzed(self, frame: pd.DataFrame) -> None:
        self.schedules = frame if len(frame) == len(CHECKS) else None
        if self.tabs.value == "schedules":
            self.result.value = schedule_table(frame, self.lab.small, self._seed)

    def _fuzz_failed(self, error: Exception) -> None:
        self._of = None
        self.result.value = _alert(error)
        if not isinstance(error, Refused):
            raise error

    def _hunt(self) -> None:
        self._start(Job(self.lab.mutants, "mutants"), self._hunted)

    def _hunted(self, frame: pd.DataFrame) -> None:
        self.found.value = mutant_table(frame)

    # Times

    def _show_times(self) -> None:
        frame, where = self.lab.measured, "measured here"
        if frame is None:
            frame, where = self.lab.timings()
        self.result.value = timing_table(frame, where)

    def _measure(self) -> None:
        what: Any = self.what.value
        self._start(
            Job(lambda job: self.lab.measure(what, job, budget_s=6.0), "measure"),
            lambda _frame: self._show_tab(),
        )

    def _start(self, job: Job, show: Callable[[Any], None]) -> None:
        """Run a job under the tabs, one at a time."""
        if self.job.job is not None:
            return

        def ended(job: Job) -> None:
            for button in (self.run, self.hunt):
                button.disabled = False
            if job.state == "done":
                show(job.result)
            elif isinstance(job.error, Exception) and job.state == "failed":
                known = self.lab.measured if self.tabs.value == "times" else None
                below = "" if known is None else timing_table(known, "measured here")
                self.result.value = _alert(job.error) + below

        for button in (self.run, self.hunt):
            button.disabled = True
        self.job.watch(job.start(), ended)


def _names(lab: KernelLab) -> list[tuple[str, str]]:
    """(what stands in the list, name), ladder by ladder."""
    rungs = sorted(lab.shipped.values(), key=lambda kernel: (kernel.ladder, kernel.rung, kernel.name))
    return [
        (f"{f'{kernel.ladder} {kernel.rung}' if kernel.ladder else 'no header'}: {kernel.name}", kernel.name)
        for kernel in rungs
    ]


def _row(*children: ipw.Widget) -> ipw.HBox:
    row = ipw.HBox(list(children))
    row.add_class("wb-lab-bar")
    return row


def _button(name: str, tooltip: str, call: Callable[[], None]) -> ipw.Button:
    button = ipw.Button(description=name, tooltip=tooltip)
    button.add_class("wb-small")
    button.on_click(lambda _button: call())
    return button


def _alert(error: Exception) -> str:
    """What went wrong, as HTML; a header to copy keeps its lines."""
    said, _, lines = _words(error).partition("\n")
    code = f"<pre>{escape(lines)}</pre>" if lines else ""
    return f"<div class='wb-error' role='alert'>{escape(said)}{code}</div>"


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"


VIEWS.add("KernelLab", KernelLabView)
