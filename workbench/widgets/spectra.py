"""SpectraView: the spectra of all layers. One number by depth and role, the whole table, and the recipe that alpha
makes of the bench's method.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ipywidgets as ipw
import pandas as pd

from ..engine.allocation import EPS
from ..errors import Refused
from ..figures import note_figure
from ..inspect import Session, Spectra
from ..jobs import Job
from ..spectra.columns import EXTRA_WORDS
from .job_view import JobView
from .layer_table import LayerTable
from .numbers import number
from .parts import line, small_button
from .plot import Plot

UNMEASURED = "Press measure: the eigenvalues of every layer, before and after the variant on the bench"
HIDDEN = ("layer_id", "longname", "has_esd", "conv")  # columns that say nothing beside the others
SECONDS = "this takes a few times as long"


class SpectraView(ipw.VBox):
    """A view of a Session's spectra. `act(action, value)` hears "look" (at a layer's name), "apply" (a recipe) and
    "code" (which has changed)."""

    def __init__(self, session: Session, act: Callable[[str, Any], None]):
        self.session, self._act, self.theme = session, act, "light"
        self._build()
        tools = ipw.HBox([self.measure, *self.more.values(), self.heads, self.conv])
        tools.add_class("wb-tools")
        for name in ("wb-tools", "wb-choosing"):
            self.choosing.add_class(name)
        super().__init__([tools, self.job, self.choosing, self.said, self.plot, self.table])
        self.metric.observe(lambda _change: self.show(), "value")

    def _build(self) -> None:
        self.measure = small_button("measure", "the eigenvalues of every layer", self._measure)
        self.more = {
            name: _toggle(word, f"{about}; {SECONDS}") for name, (word, about) in EXTRA_WORDS.items()
        }
        self.heads = _toggle("heads", "each attention head of q, k, v and o by itself")
        self.conv = ipw.Dropdown(
            options=["slices", "im2col"],
            tooltip="how a convolution becomes matrices: one for each place of the kernel, as WeightWatcher does, or "
            "one of unfolded patches",
        )
        self.metric = ipw.Dropdown(options=["alpha"], tooltip="what is shown of each layer")
        self.by = ipw.Dropdown(
            options=["block", "layer"],
            tooltip="what gets a share of its own: blocks, as AlphaPruning does, or layers",
        )
        self.eps = ipw.BoundedFloatText(
            value=EPS, min=0.0, max=1.0, step=0.05, description="±", tooltip="how far a share may lie from the mean"
        )  # fmt: skip
        self.give = small_button(
            "apply by alpha",
            "the method on the bench: its sparsity or bits to each by alpha, as a new variant",
            self._give,
        )
        self.said = ipw.HTML()
        self.plot, self.job = Plot(height=320), JobView()
        self.plot.on_pick(lambda data: self._act("look", data[0]))
        self.table = LayerTable(lambda name: self._act("look", name), label="spectra of all layers")
        self.choosing = ipw.HBox([self.metric, self.by, self.eps, self.give])
        convolutions = any("convolution" in layer.note for layer in self.session.model.layers)
        self.conv.layout.display = None if convolutions else "none"

    def show(self) -> None:
        """Draw what has been measured."""
        found = self.session.spectra
        known = found is not None and bool(found.rows)
        for part in (self.choosing, self.table):
            part.layout.display = None if known else "none"
        if found is None or not known:
            self.plot.show(note_figure(UNMEASURED, theme=self.theme))
            return
        if found.pictured:
            self.plot.show(found.figure(self.theme, metric=str(self.metric.value)))
        else:
            self.plot.show(note_figure(str(found.rows[0].get("reason") or "no value"), theme=self.theme))
        self._fill(found)
        self._say(self._stale(found))

    def look(self) -> None:
        """Another layer is on the bench."""
        self.table.selected = self.session.layer.name

    def changed(self) -> None:
        """Another variant is on the bench."""
        if self.session.spectra is not None:
            self._say(self._stale(self.session.spectra))

    def _stale(self, found: Spectra) -> str:
        variant = self.session.history.variant
        if found.subject is (variant if variant.weights else self.session.model):
            return ""
        of = f"after {found.what}" if found.what else "of the unchanged model"
        return f"measured {of}, and the bench has another variant now: measure again"

    def _measure(self) -> None:
        job = self.session.measure_spectra(
            extra=tuple(name for name, button in self.more.items() if button.value),
            heads=bool(self.heads.value),
            conv=str(self.conv.value),
        )
        self.measure.disabled = True
        self._say("")
        self.job.watch(job, self._measured)

    def _measured(self, job: Job) -> None:
        self.measure.disabled = False
        found: Spectra | None = self.session.spectra
        if found is not None and found.rows:
            shown, options = str(self.metric.value), found.pictured
            if options:  # else every layer failed, and the table says why
                self.metric.options = options
                self.metric.value = shown if shown in options else options[0]
        self.show()
        self._act("code", None)
        if isinstance(job.error, Exception) and job.state == "failed":
            self._say(str(job.error), wrong=True)

    def _fill(self, found: Spectra) -> None:
        table = found.table
        columns = [
            "name",
            *(c for c in table if c not in HIDDEN and c != "name" and bool(table[c].notna().any())),
        ]
        told = table.attrs["columns"]
        rows = [[_cell(value) for value in row] for row in table[columns].itertuples(index=False)]
        with self.table.hold_sync():
            self.table.heads = [{"text": column, "title": told[column]} for column in columns]
            self.table.rows = rows
            self.table.selected = self.session.layer.name

    def _give(self) -> None:
        found = self.session.spectra
        assert found is not None
        metric = str(self.metric.value)
        try:
            recipe = found.allocate(
                self.session.method,
                metric=metric if metric.startswith("alpha") else "alpha",
                by=str(self.by.value),
                eps=float(self.eps.value),
            )
        except Refused as reason:
            self._say(str(reason), wrong=True)
            return
        alone = found.left_alone(self.session.method)
        self._say("; ".join(f"{name} is left alone: {why}" for name, why in alone.items()))
        self._act("apply", recipe)

    def _say(self, text: str, wrong: bool = False) -> None:
        self.said.value = line(text, wrong)


def _toggle(word: str, tooltip: str) -> ipw.ToggleButton:
    button = ipw.ToggleButton(description=word, tooltip=tooltip)
    button.add_class("wb-small")
    return button


def _cell(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(float(value), 4) if isinstance(value, float) else str(value)
