"""SpeedView: a layer of the bench on the kernels, its two errors kept apart; what is compiled, and the kernel lab."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as ipw

from ..errors import Refused
from ..inspect.kernel_lab import KernelLab
from ..jobs import Job, Latest
from ..speed import cuda, kernels, run_layer
from ..speed.apart import measure_apart
from ..speed.layer import kernel_for
from ..speed.table import Row, to_frame
from .job_view import JobView
from .parts import shortened
from .speed_table import ERRORS, layer_table

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from ..grid import CompressedWeight
    from ..inspect import Answer, Session
    from ..speed import Kernel

ROUNDS, BUDGET_S = 5, 6.0
MOST_BATCH = 4096
LABEL = 60  # characters of what was done to a weight
OF_LAYER = f"{ERRORS}, for inputs drawn from a normal distribution"


@dataclass(frozen=True)
class Weight:
    """A compressed weight [out, in] on the bench, what it was before, and what has made it. Two are the same where
    layer and method, or variant, are: the bench makes a weight anew at many occasions."""

    compressed: CompressedWeight = field(compare=False)
    original: Tensor = field(compare=False)
    label: str = field(compare=False)
    layer: str
    made_by: Any  # a method, or the number of a variant


class SpeedView(ipw.VBox):
    """Y[batch, out] = X[batch, in] W^T of the selected layer. Run layer takes the compressed weight of the bench,
    packed for each kernel that reads its grid; Every kernel takes random operands of that shape, in a process of its
    own. Without a GPU both are the CPU's kernels, and CUDA kernels compiles those for the weight and emulates them.

    `drawer` is where the kernel lab opens: put it where there is room for it."""

    def __init__(self, shape: tuple[int, int, int] = (16, 1024, 1024), session: Session | None = None):
        self.shape, self.session = shape, session
        self._of_method: Weight | None = None
        self._fit: tuple[Kernel, str] | None = None
        self._error = self._ended_so = ""  # of the last run
        self._shows_layer = False  # whether the table is of the weight, not of the shape alone
        self._build()
        self._fitter = Latest(self._find_fit, self._show_fit, self._fit_failed, "speed fit")
        super().__init__([self.bar, self.note, self.result])
        self.add_class("wb-speed")
        self.layout.observe(lambda _change: self._ask_fit(), "display")  # looked up where somebody looks
        self.look(shape)

    def _build(self) -> None:
        self.batch = ipw.BoundedIntText(value=self.shape[0], min=1, max=MOST_BATCH, description="batch")
        self.batch.tooltip = "rows of inputs: tokens at a time; 1 is one user's answer"
        self.batch.add_class("wb-speed-batch")
        self.choice = ipw.Dropdown(options=["method"], description="weight of")
        self.choice.tooltip = "the method on the bench, or the active variant"
        self.choice.add_class("wb-speed-choice")
        self.run = _button("Run layer", "pack this compressed weight, check it, time it", self._run_layer)
        self.every = _button("Every kernel", "random operands of this shape", self._run_every)
        self.compile = _button(
            "CUDA kernels", "for this weight: registers, shared memory, error; timed on a GPU", self._run_cuda
        )
        self.open_lab = _button("Kernel lab", "edit a kernel, see its machine code, run it", self._toggle)
        self.note, self.result = ipw.HTML(), ipw.HTML()
        self.note.add_class("wb-speed-note")
        self.job = JobView()
        self.drawer = ipw.VBox()
        self.drawer.layout.display = "none"
        self.buttons = (self.run, self.every, self.compile)
        self.bar = ipw.HBox([self.batch, self.choice, *self.buttons, self.open_lab])
        self.bar.add_class("wb-speed-bar")
        self.batch.observe(lambda change: self.look((change["new"], *self.shape[1:])), "value")
        self.choice.observe(lambda _change: self.look(self.shape), "value")

    # What is on the bench

    def look(self, shape: tuple[int, int, int]) -> None:
        """Another shape batch x out x in; what was measured of the last one is taken down."""
        if shape[1:] != self.shape[1:]:
            self._of_method = None
        self.shape, self.batch.value = shape, shape[0]
        self.result.value = self._error = self._ended_so = ""
        self.offer()

    def take(self, answer: Answer) -> None:
        """What the method on the bench has made of the selected layer."""
        if answer.compressed is None or self.session is None or answer.layer != self.session.layer.name:
            return
        before, original = self._of_method, self.session.error_map.w
        self._of_method = Weight(
            answer.compressed, original, answer.method.label, answer.layer, answer.method
        )
        if self._of_method != before and self.choice.value == "method":
            self._another()

    def offer(self) -> None:
        """Let the active variant's weight be chosen, where it has one for the selected layer."""
        options = ["method", *(["variant"] if self._has_variant() else [])]
        if list(self.choice.options) != options:
            self.choice.options = options
        self.choice.layout.display = None if len(options) > 1 else "none"
        self._another()

    def _has_variant(self) -> bool:
        """Without reading the weight, which for a large layer takes a while."""
        session = self.session
        return session is not None and session.layer.name in session.history.variant.weights

    def _variant(self) -> Weight | None:
        if self.session is None:
            return None
        history, layer = self.session.history, self.session.layer.name
        found = history.variant.weights.get(layer)
        if found is None:
            return None
        return Weight(found, self.session.error_map.w, history.variant.label, layer, history.active)

    @property
    def weight(self) -> Weight | None:
        """The compressed weight that is run; None before the bench has one."""
        if self.choice.value == "variant":
            return self._variant()
        made = self._of_method
        other = made is not None and self.session is not None and made.layer != self.session.layer.name
        return None if other else made  # a neighbour has the same shape, and is another weight

    def _another(self) -> None:
        """Another weight is on the bench."""
        for button in (self.run, self.compile):
            button.layout.display = None if self.session is not None else "none"
        self._fit = None
        if self._shows_layer:
            self.result.value = ""
        self._say()
        self._ask_fit()

    def _say(self) -> None:
        sizes = "{1} × {2}, batch {0}".format(*self.shape)
        weight = self.weight
        said = [f"<b>{escape(shortened(weight.label, LABEL))}</b> on {sizes}" if weight else sizes]
        if self._fit is not None:
            kernel, why = self._fit
            said.append(
                escape(why[:1].upper() + why[1:])
                if why
                else f"CUDA kernel for this grid: <b>{escape(kernel.name)}</b>, packing {escape(kernel.packing)}"
            )
        if self._ended_so:
            said.append(escape(self._ended_so))
        if self._error:
            said.append(f"<span class='wb-error' role='alert'>{escape(self._error)}</span>")
        self.note.value = "<br>".join(said)

    # Which kernel reads it

    def _ask_fit(self) -> None:
        weight = self.weight
        if weight is not None and self._fit is None and self.layout.display != "none":
            self._fitter.request((weight, self.shape[0]))

    def _find_fit(self, asked: tuple[Weight, int]) -> tuple[tuple[Weight, int], tuple[Kernel, str]]:
        weight, batch = asked
        return asked, kernel_for(weight.compressed, batch)

    def _show_fit(self, answer: tuple[tuple[Weight, int], tuple[Kernel, str]]) -> None:
        asked, found = answer
        if asked == (self.weight, self.shape[0]):
            self._fit = found
            self._say()

    def _fit_failed(self, error: Exception) -> None:
        self._error = str(error)
        self._say()
        if not isinstance(error, Refused):
            raise error

    # Measuring

    def _run_layer(self) -> None:
        self._start(lambda job, found: self._layer(job, found, None), OF_LAYER, of_layer=True)

    def _run_cuda(self) -> None:
        names = ",".join(kernels())
        self._start(lambda job, found: self._layer(job, found, names), OF_LAYER, of_layer=True)

    def _layer(self, job: Job, found: Callable[[pd.DataFrame], None], names: str | None) -> pd.DataFrame:
        weight, batch = self.weight, self.shape[0]
        if weight is None:
            raise Refused(
                "no compressed weight yet: choose a method that takes this layer, and wait for its error"
            )
        rows: dict[str, Row] = {}

        def add(more: list[Row]) -> None:
            rows.update({row["kernel"]: row for row in more})
            found(to_frame(list(rows.values())))

        return run_layer(
            weight.compressed,
            batch,
            names or _here(),
            ROUNDS,
            original=weight.original,
            emulate=names is not None,
            budget_s=BUDGET_S,
            progress=job.step,
            found=add,
        )

    def _run_every(self) -> None:
        shape = self.shape

        def measure(job: Job, found: Callable[[pd.DataFrame], None]) -> pd.DataFrame:
            return measure_apart(shape, _here(), ROUNDS, budget_s=BUDGET_S, progress=job.step, found=found)

        self._start(measure, f"random weights; {ERRORS}", of_layer=False)

    def _start(
        self,
        work: Callable[[Job, Callable[[pd.DataFrame], None]], pd.DataFrame],
        caption: str,
        *,
        of_layer: bool,
    ) -> None:
        """Run a measurement; its rows are shown as they become known, and stay where it is cancelled or fails."""
        if self.job.job is not None:
            return
        for button in self.buttons:
            button.disabled = True
        self._error = self._ended_so = self.result.value = ""
        self._shows_layer = of_layer
        self._say()
        self.children = [
            self.bar,
            self.note,
            self.job,
            self.result,
        ]  # a bench has another job; only what runs is seen
        asked, known = self._asked(of_layer), _Known()
        job = Job(lambda job: work(job, known.take), "measure")

        def show_news(_job: Job) -> None:
            frame = known.news()
            if frame is not None and asked == self._asked(of_layer):
                self._show(frame, caption)

        job.listen(show_news)
        self.job.watch(job.start(), lambda job: self._ended(job, asked == self._asked(of_layer), caption))

    def _asked(self, of_layer: bool) -> tuple[tuple[int, int, int], Weight | None]:
        """What a measurement is of; its answer is dropped where that is no more on the bench."""
        return self.shape, self.weight if of_layer else None

    def _ended(self, job: Job, wanted: bool, caption: str) -> None:
        for button in self.buttons:
            button.disabled = False
        self.children = [self.bar, self.note, self.result]
        if not wanted:
            return
        if job.state == "done":
            self._show(job.result, caption)
        elif job.state == "failed":
            self._error = str(job.error)
        else:
            self._ended_so = (
                "cancelled; what was known by then is below" if self.result.value else "cancelled"
            )
        self._say()

    def _show(self, frame: pd.DataFrame, caption: str = ERRORS) -> None:
        self.result.value = layer_table(frame, caption)

    # The kernel lab

    def _toggle(self) -> None:
        """Open the kernel lab on the kernel for this weight, at the layer's shape; or close it."""
        if self.drawer.children:
            for child in self.drawer.children:
                child.close()
            self.drawer.children, self.drawer.layout.display = [], "none"
            return
        from .kernel_lab import KernelLabView  # only who opens it waits for it

        weight = self.weight
        if self._fit is None and weight is not None:
            self._fit = kernel_for(weight.compressed, self.shape[0])
        opened = KernelLab(self._fit[0], shape=self.shape) if self._fit else KernelLab(shape=self.shape)
        self.drawer.children = [KernelLabView(opened)]
        self.drawer.layout.display = None


class _Known:
    """The newest table, from the thread of a job to the page."""

    def __init__(self) -> None:
        self._frame: pd.DataFrame | None = None

    def take(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def news(self) -> pd.DataFrame | None:
        """What has come since the last call."""
        frame, self._frame = self._frame, None
        return frame


def _here() -> str:
    """The kernels that this machine can time."""
    return "*" if cuda.find_device()[0] is not None else "cpu-*"


def _button(name: str, tooltip: str, call: Callable[[], None]) -> ipw.Button:
    button = ipw.Button(description=name, tooltip=tooltip)
    button.layout.width = "auto"
    button.on_click(lambda _button: call())
    return button
