"""Results: the row under the bench. What has been tried; methods side by side; which layers suffer, and what a
budget of bits buys. It shows what it is given and calls `act` with what a person does.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import ipywidgets as ipw

from ..inspect import Comparison
from .compare import CompareView
from .job_view import JobView
from .plot import Plot

CAPTIONS = {
    "tried": "bits per weight against KL, one mark a variant; click to go there",
    "compare": "the selected layer under up to four methods, errors on one colour scale",
    "sensitivity": "KL of the model if one layer alone is compressed; click to look at the layer",
}


class Results(ipw.VBox):
    """`act(action, value)` hears "go" (a variant), "unpin" (no value), "measure", "look" (a layer), "assign" (bits)."""

    def __init__(self, act: Callable[[str, Any], None]):
        self._act = act
        self.tabs = ipw.ToggleButtons(options=list(CAPTIONS), value="tried")
        self.tabs.style.button_width = "auto"
        self.tabs.add_class("wb-curves")
        self.caption = ipw.HTML()
        self.caption.add_class("wb-tried-caption")
        self.pareto = Plot(height=180)
        self.pareto.on_pick(lambda data: act("go", data[0]))
        self.compare, self.empty = CompareView(), ipw.HTML()
        self.unpin = _button("clear", "take all methods out of the comparison", lambda: act("unpin", None))
        self.bars = Plot(height=320)
        self.bars.on_pick(lambda data: act("look", data[0]))
        self.measure = _button(
            "measure", "each layer alone under the method at 2, 3, 4 and 8 bits", lambda: act("measure", None)
        )
        self.budget = ipw.FloatSlider(
            value=4.0, min=2.0, max=8.0, step=0.05, description="budget", readout_format=".2f", continuous_update=False,
            tooltip="bits per weight that the layers may take together",
        )  # fmt: skip
        self.assign = _button(
            "assign bits",
            "the best widths within the budget, as a recipe for Apply",
            lambda: act("assign", self.budget.value),
        )
        self.job, self.said = JobView(), ipw.HTML()
        tools = ipw.HBox([self.measure, self.budget, self.assign, self.said])
        tools.add_class("wb-tools")
        self.sensitivity = ipw.VBox([tools, self.job, self.bars])
        self.head = ipw.HBox([self.tabs, self.caption, self.unpin])
        self.head.add_class("wb-results-head")
        super().__init__([self.head, self.pareto])
        self.add_class("wb-tried")
        self.tabs.observe(lambda _change: self.arrange(), "value")
        self.budget.observe(lambda _change: act("budget", self.budget.value), "value")
        self.arrange()

    @property
    def shown(self) -> str:
        return str(self.tabs.value)

    def arrange(self) -> None:
        """Put the chosen part under the tabs."""
        shown = self.shown
        self.caption.value = escape(CAPTIONS[shown])
        self.unpin.layout.display = None if shown == "compare" and self.compare.children else "none"
        parts = {
            "tried": [self.pareto],
            "compare": [self.compare] if self.compare.children else [self.empty],
            "sensitivity": [self.sensitivity],
        }
        self.children = [self.head, *parts[shown]]
        self._act("shown", shown)

    def show_comparison(self, comparison: Comparison | None, pinned: int) -> None:
        if comparison is None:
            self.compare.children = []
            self.empty.value = (
                f"{pinned} of at least 2 methods: choose another one and press Compare again"
                if pinned
                else "Press Compare beside Apply to put the method on the bench here; then choose another one"
            )
        else:
            self.compare.show(comparison)
        self.arrange()

    def say(self, text: str, wrong: bool = False) -> None:
        """One line beside the sensitivity's buttons."""
        kind = " class='wb-error' role='alert'" if wrong else ""
        self.said.value = f"<span{kind}>{escape(text)}</span>"


def _button(name: str, tooltip: str, call: Callable[[], None]) -> ipw.Button:
    button = ipw.Button(description=name, tooltip=tooltip)
    button.add_class("wb-small")
    button.on_click(lambda _button: call())
    return button
