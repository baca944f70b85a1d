"""Results: the row under the bench. What has been tried; methods side by side; which layers suffer, and what a
budget of bits buys; the spectra of all layers; the network beside others.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as ipw

from ..errors import Refused
from ..figures import note_figure, pareto_figure
from ..inspect import Comparison, Session
from ..jobs import Job, Latest
from .alignment import AlignmentView
from .compare import CompareView
from .job_view import JobView
from .numbers import model_numbers
from .parts import line, small_button
from .plot import Plot
from .spectra import SpectraView

CAPTIONS = {
    "tried": "bits per weight against KL, one mark a variant; click to go there",
    "compare": "the selected layer under up to four methods, errors on one colour scale",
    "sensitivity": "KL of the model if one layer alone is compressed; click to look at it, drag to select several",
    "spectra": "eigenvalues of all layers, by block and role; click to look at one",
    "two networks": "this network and others trained apart: the barrier between them, and their mean",
}
UNMEASURED = "Press measure: each layer alone under the method on the bench"
UNPINNED = "Press Compare beside Apply to put the method on the bench here; then choose another one"


class Results(ipw.VBox):
    """A view of a Session's variants, comparison and sensitivity.

    `act(action, value)` hears what concerns the rest of the bench: "go" (to a variant's index), "look" (at a layer's
    name), "apply" (a recipe), "code" (which has changed).
    """

    def __init__(self, session: Session, act: Callable[[str, Any], None]):
        self.session, self._act, self.theme = session, act, "light"
        self._choices: dict[str, str] = {}  # method by layer, as ringed
        self._layers: list[str] = []  # selected in the plot
        self._build()
        super().__init__([self.head, self.pareto])
        self.add_class("wb-tried")
        self._beside = Latest(self._compute_beside, self._show_comparison, self._failed, "compare")
        self.tabs.observe(lambda _change: self._turn(), "value")
        self.budget.observe(lambda _change: self._spend(), "value")
        self._arrange()

    def _build(self) -> None:
        self.tabs = ipw.ToggleButtons(options=list(CAPTIONS), value="tried")
        self.tabs.style.button_width = "auto"
        self.tabs.add_class("wb-curves")
        self.caption = ipw.HTML()
        self.caption.add_class("wb-tried-caption")
        self.unpin = small_button("clear", "take all methods out of the comparison", self._unpin)
        self.head = ipw.HBox([self.tabs, self.caption, self.unpin])
        self.head.add_class("wb-results-head")
        self.pareto = Plot(height=180)
        self.pareto.on_pick(lambda data: self._act("go", data[0]))
        self.compare, self.empty = CompareView(), ipw.HTML()
        self.bars = Plot(height=320)
        self.bars.on_pick(lambda data: self._act("look", data[0]))
        self.bars.on_select(self._selected)
        self.measure = small_button(
            "measure", "each layer alone under the method at 2, 3, 4 and 8 bits", self._measure
        )
        self.budget = ipw.FloatSlider(
            value=4.0, min=2.0, max=8.0, step=0.05, description="budget", readout_format=".2f", continuous_update=False,
            tooltip="bits per weight that the layers may take together",
        )  # fmt: skip
        self.width = ipw.Dropdown(tooltip="the method that the selected layers get")
        self.give = small_button(
            "give to selected", "the method, to the layers selected in the plot", self._give
        )
        self.apply = small_button("apply bits", "what is ringed, as a new variant", self._apply)
        self.job, self.said = JobView(), ipw.HTML()
        self.choosing = ipw.HBox([self.budget, self.width, self.give, self.apply])
        tools = ipw.HBox([self.measure, self.choosing, self.said])
        tools.add_class("wb-tools")
        self.choosing.add_class("wb-choosing")
        self.sensitivity = ipw.VBox([tools, self.job, self.bars])
        self.spectra = SpectraView(self.session, self._act)
        self.networks = AlignmentView(self.session, self._act)

    @property
    def shown(self) -> str:
        return str(self.tabs.value)

    def redraw(self, theme: str) -> None:
        """All pictures in another theme."""
        self.theme = theme
        self.show_tried()
        self._show_sensitivity()
        self.spectra.theme = theme
        self.spectra.show()
        self.networks.theme = theme
        if self.shown == "two networks":
            self.networks.show()

    def look(self) -> None:
        """Another layer is on the bench."""
        self.show_beside()
        self.spectra.look()
        if self.shown == "two networks":
            self.networks.look()

    def _arrange(self) -> None:
        """Put the chosen part under the tabs."""
        shown = self.shown
        self.caption.value = escape(CAPTIONS[shown])
        self.unpin.layout.display = None if shown == "compare" and self.compare.children else "none"
        parts = {
            "tried": self.pareto,
            "compare": self.compare if self.compare.children else self.empty,
            "sensitivity": self.sensitivity,
            "spectra": self.spectra,
            "two networks": self.networks,
        }
        self.children = [self.head, parts[shown]]

    def _turn(self) -> None:
        self._arrange()
        if self.shown == "sensitivity":
            self._show_sensitivity()
        elif self.shown == "spectra":
            self.spectra.show()
        elif self.shown == "two networks":
            self.networks.show()
        elif self.shown == "compare" and not self.compare.children:
            self.show_beside()

    # What has been tried

    def show_tried(self) -> None:
        """The Pareto plot of the session's variants."""
        history, points, active = self.session.history, [], None
        for index, variant in enumerate(history.variants):
            if "kl" not in variant.measures:
                continue
            if index == history.active:
                active = len(points)
            m = variant.measures
            hover = f"{escape(variant.label)}<br>{model_numbers(m)}"
            points.append(
                {"index": index, "short": "base" if index == 0 else f"v{index}", "hover": hover,
                 "bits_per_weight": m["bits_per_weight"], "kl": m["kl"]}
            )  # fmt: skip
        self.pareto.show(pareto_figure(points, active, theme=self.theme))
        self.spectra.changed()

    # Methods side by side

    def pin(self) -> None:
        """Put the method on the bench beside the others, and look at them."""
        self.session.pin()
        self.tabs.value = "compare"
        self.show_beside()

    def _unpin(self) -> None:
        self.session.pinned = []
        self._show_comparison(None)

    def show_beside(self) -> None:
        """Compare anew, where one looks at it."""
        if self.shown == "compare":
            self._beside.request(None)

    def _compute_beside(self, _request: Any) -> Comparison | None:
        return self.session.compare()

    def _show_comparison(self, comparison: Comparison | None) -> None:
        pinned = len(self.session.pinned)
        if comparison is not None:
            self.compare.show(comparison)
        else:
            self.compare.children = []
            more = f"{pinned} of at least 2 methods: choose another one and press Compare again"
            self.empty.value = more if pinned else UNPINNED
        self._arrange()

    def _failed(self, error: Exception) -> None:
        self.compare.children = []
        self.empty.value = line(str(error), wrong=True)
        self._arrange()

    # Which layers suffer

    def _measure(self) -> None:
        try:
            job = self.session.measure_sensitivity()
        except Refused as reason:
            self._say(str(reason), wrong=True)
            return
        self.measure.disabled = True
        self._say("")
        self.job.watch(job, self._measured)

    def _measured(self, job: Job) -> None:
        self.measure.disabled = False
        if isinstance(job.error, Exception) and job.state == "failed":
            self._say(str(job.error), wrong=True)
        found = self.session.sensitivity
        if found is not None:
            self._layers, self.width.options = [], list(found.table["method"].unique())
            self._spend()
        self._show_sensitivity()

    def _show_sensitivity(self) -> None:
        found = self.session.sensitivity
        self.choosing.layout.display = "none" if found is None else None
        if found is None:
            self.bars.show(note_figure(UNMEASURED, theme=self.theme))
        else:
            self.bars.show(found.figure(theme=self.theme, chosen=self._choices))

    def _spend(self) -> None:
        """The best choice of all layers within the budget of bits per weight."""
        found = self.session.sensitivity
        if found is None:
            return
        try:
            self._choose(found.assigned(float(self.budget.value)))
        except Refused as reason:
            self._say(str(reason), wrong=True)

    def _selected(self, points: list[list[Any]]) -> None:
        self._layers = list(dict.fromkeys(str(point[0]) for point in points))
        self._say(f"{len(self._layers)} layers selected: choose a method for them")

    def _give(self) -> None:
        if not self._layers:
            self._say("no layer is selected: drag over bars in the plot first", wrong=True)
        elif self.width.value is not None:
            self._choose(self._choices | dict.fromkeys(self._layers, str(self.width.value)))

    def _choose(self, choices: dict[str, str]) -> None:
        """Ring the choices, and say what they cost by the table."""
        found = self.session.sensitivity
        assert found is not None
        try:
            row = found.predicted(choices)
        except Refused as reason:  # a layer was not tried with this method
            self._say(str(reason), wrong=True)
            return
        self._choices = choices
        self._say(f"{row['bits_per_weight']:.2f} bits per weight, sum of KL {row['kl']:.3g} nats")
        self._show_sensitivity()

    def _apply(self) -> None:
        found = self.session.sensitivity
        if found is not None and self._choices:
            self._act("apply", found.recipe(self._choices))

    def _say(self, text: str, wrong: bool = False) -> None:
        """One line beside the sensitivity's buttons."""
        self.said.value = line(text, wrong)
