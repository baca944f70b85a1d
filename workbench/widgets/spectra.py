"""SpectraView: one number of all layers by depth and role, and the recipe that alpha makes of the bench's method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as ipw

from ..errors import Refused
from ..figures import note_figure
from ..inspect import Session, Spectra
from ..inspect.spectra import PICTURED
from ..jobs import Job
from .job_view import JobView
from .parts import line, small_button
from .plot import Plot

UNMEASURED = "Press measure: the eigenvalues of every layer, before and after the variant on the bench"


class SpectraView(ipw.VBox):
    """A view of a Session's spectra. `act(action, value)` hears "look" (at a layer's name) and "apply" (a recipe)."""

    def __init__(self, session: Session, act: Callable[[str, Any], None]):
        self.session, self._act, self.theme = session, act, "light"
        self.measure = small_button("measure", "the eigenvalues of every layer", self._measure)
        self.metric = ipw.Dropdown(options=["alpha"], tooltip="what is shown of each layer")
        self.by = ipw.Dropdown(
            options=["block", "layer"],
            tooltip="what gets a share of its own: blocks, as AlphaPruning does, or layers",
        )
        self.give = small_button(
            "apply by alpha",
            "the method on the bench: its sparsity or bits to each by alpha, as a new variant",
            self._give,
        )
        self.said = ipw.HTML()
        self.plot, self.job = Plot(height=320), JobView()
        self.plot.on_pick(lambda data: self._act("look", data[0]))
        self.choosing = ipw.HBox([self.metric, self.by, self.give])
        tools = ipw.HBox([self.measure, self.choosing, self.said])
        tools.add_class("wb-tools")
        self.choosing.add_class("wb-choosing")
        super().__init__([tools, self.job, self.plot])
        self.metric.observe(lambda _change: self.show(), "value")

    def show(self) -> None:
        """Draw what has been measured."""
        found = self.session.spectra
        self.choosing.layout.display = "none" if found is None or not found.rows else None
        if found is None or not found.rows:
            self.plot.show(note_figure(UNMEASURED, theme=self.theme))
        else:
            self.plot.show(found.figure(self.theme, metric=str(self.metric.value)))

    def _measure(self) -> None:
        job = self.session.measure_spectra()
        self.measure.disabled = True
        self._say("")
        self.job.watch(job, self._measured)

    def _measured(self, job: Job) -> None:
        self.measure.disabled = False
        if isinstance(job.error, Exception) and job.state == "failed":
            self._say(str(job.error), wrong=True)
        found: Spectra | None = self.session.spectra
        if found is not None and found.rows:
            shown, table = str(self.metric.value), found.table
            options = [name for name in PICTURED if name in table]
            self.metric.options = options
            self.metric.value = shown if shown in options else options[0]
        self.show()

    def _give(self) -> None:
        found = self.session.spectra
        assert found is not None
        metric = str(self.metric.value)
        try:
            recipe = found.allocate(
                self.session.method,
                metric=metric if metric.startswith("alpha") else "alpha",
                by=str(self.by.value),
            )
        except Refused as reason:
            self._say(str(reason), wrong=True)
            return
        self._say("")
        self._act("apply", recipe)

    def _say(self, text: str, wrong: bool = False) -> None:
        self.said.value = line(text, wrong)
