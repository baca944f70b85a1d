"""AlignmentView: the network on the bench beside others trained apart. The line between two before and after matching,
what became of each layer, and the mean of several.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as ipw
import plotly.graph_objects as go

from ..errors import Refused
from ..figures import note_figure
from ..inspect import MergedNetworks, Session, TwoNetworks
from ..inspect.alignment import GAMMA, NETWORK_COLUMNS, memory
from ..inspect.merging import MERGE_COLUMNS
from ..inspect.networks import check_known, names_in, siblings
from ..jobs import Job, Latest
from .job_view import JobView
from .layer_table import LayerTable
from .numbers import number, percent, size
from .parts import line, small_button
from .plot import Plot

MOST_NEAR = 4  # suggestions that have a place on the line
GROUPS = (
    ("", 1),
    ("‖A − B‖", 3),
    ("R, all directions", 2),
    ("R, leading", 2),
)
HEADS = {
    "name": "layer",
    "distance_before": "before",
    "distance_after": "after",
    "reduction": "reduction",
    "r_before": "before",
    "r_after": "after",
    "leading_before": "before",
    "leading_after": "after",
}
LEGEND = (
    f"R is 1 where the singular directions of both networks coincide; leading: those with s ≥ {GAMMA} s₁. "
    "A row puts its layer on the bench."
)


class AlignmentView(ipw.VBox):
    """A view of a Session's networks. `act(action, value)` hears "look" (at a layer's name) and "code" (it changed)."""

    def __init__(self, session: Session, act: Callable[[str, Any], None]):
        self.session, self._act, self.theme = session, act, "light"
        self._asked = False  # what lies near
        self._wrong = ""  # why the network on the bench cannot be compared at all
        self._build()
        super().__init__()
        self.add_class("wb-beside")
        self._nearby = Latest(self._compute_near, self._show_near, self._failed, "near")
        self._layer = Latest(self._compute_layer, self._show_layer, self._failed, "layer pair")
        self._arrange()

    def _build(self) -> None:
        name = self.session.model.name
        self.others = ipw.Textarea(
            placeholder=f"another training of {name}: its name or folder", rows=1, continuous_update=False,
            tooltip="other networks of this architecture, separated by commas or lines: the line goes to the first, "
            "of several the mean is taken too",
        )  # fmt: skip
        self.others.add_class("wb-others")
        self.others.observe(lambda _change: self._one_line(), "value")
        self.near = ipw.HBox()
        self.near.add_class("wb-near")
        self.run = small_button(
            "align", "match the hidden units, then walk the line between the networks", self._run
        )
        self.said, self.about, self.words = ipw.HTML(), ipw.HTML(), ipw.HTML()
        self.about.add_class("wb-beside-about")
        self.words.add_class("wb-beside-said")
        self.job = JobView()
        self.tools = ipw.HBox([self.others, self.near, self.run, self.said])
        self.tools.add_class("wb-tools")
        self.line, self.difference, self.directions = Plot(height=320), Plot(height=380), Plot(height=360)
        self.table = LayerTable(
            lambda name: self._act("look", name),
            label="layers of both networks",
            groups=[{"text": text, "span": span} for text, span in GROUPS],
            heads=[{"text": text, "title": NETWORK_COLUMNS[key]} for key, text in HEADS.items()],
        )
        self.legend = ipw.HTML(f"<small>{LEGEND}</small>")
        self.mean, self.mean_table, self.mean_words = Plot(height=260), ipw.HTML(), ipw.HTML()
        self.mean_words.add_class("wb-beside-said")
        layers = ipw.VBox([self.table, self.legend])
        self.pair = ipw.Box([self.line, layers, self.difference, self.directions])
        self.pair.add_class("wb-pair")
        means = ipw.Box([self.mean, self.mean_table])
        means.add_class("wb-pair")
        self.several = ipw.VBox([self.mean_words, means])

    # What is on the page

    def show(self) -> None:
        """Draw what is known; the first time, look at what lies near."""
        if not self._asked:
            self._asked = True
            self._nearby.request(None)
        self._arrange()
        found = self.session.networks
        if found is None:
            return
        pair = found.pair
        self.words.value = in_words(pair)
        self.line.show(pair.figure(self.theme))
        self.table.rows = [_cells(row) for row in pair.table.to_dict("records")]
        if found.merged is not None and found.merged.computed:
            self.mean_words.value = mean_in_words(found.merged)
            self.mean.show(found.merged.figure(self.theme))
            self.mean_table.value = mean_table(found.merged)
        self.look()

    def look(self) -> None:
        """At the selected layer of the bench, in both networks."""
        self.table.selected = self.session.layer.name
        if self.session.networks is not None:
            self._layer.request(self.session.layer.name)

    def _arrange(self) -> None:
        found = self.session.networks
        if found is None:
            self.about.value = about(self.session, self._wrong)
            self.children = [self.tools, self.job, self.about]
            return
        several = [self.several] if found.merged is not None and found.merged.computed else []
        self.children = [self.tools, self.job, self.words, self.pair, *several]

    # What could be compared

    def _compute_near(self, _request: Any) -> tuple[str, list[str]]:
        try:
            check_known(self.session.model)
        except Refused as reason:
            return str(reason), []
        return "", siblings(self.session.model)

    def _show_near(self, found: tuple[str, list[str]]) -> None:
        self._wrong, names = found
        self.near.children = [
            small_button(
                f"+ {Path(name).name}", f"{name}: the same tensors; click to add it", self._adder(name)
            )
            for name in names[:MOST_NEAR]
        ]
        self._arrange()

    def _adder(self, name: str) -> Callable[[], None]:
        """What adds a name to the field; one that is there already stays."""

        def add() -> None:
            text = str(self.others.value)
            before = names_in(text) if text.strip(" ,\n") else ()
            self.others.value = ", ".join(dict.fromkeys([*before, name]))

        return add

    def _one_line(self) -> None:
        """Names that were pasted as lines, in the one line that the field has."""
        text = str(self.others.value)
        if "\n" in text.strip():
            self.others.value = ", ".join(names_in(text))

    # The work

    def _run(self) -> None:
        try:
            job = self.session.measure_networks(str(self.others.value))
        except Refused as reason:
            self._say(str(reason), wrong=True)
            return
        self._watch(job, self._measured)

    def _watch(self, job: Job, ended: Callable[[Job], None]) -> None:
        self.run.disabled = True
        self._say("")
        self.job.watch(job, ended)

    def _measured(self, job: Job) -> None:
        self.run.disabled = False
        self._tell(job)
        if job.state != "done":
            return
        self._act("code", None)
        self.show()
        found = self.session.networks
        if found is not None and found.merged is not None and not found.merged.computed:
            self._watch(self.session.merge_networks(), self._merged)

    def _merged(self, job: Job) -> None:
        self.run.disabled = False
        self._tell(job)
        self.show()

    def _tell(self, job: Job) -> None:
        if job.state == "cancelled":
            self._say("cancelled: align goes on where it stopped")
        elif job.state == "failed" and isinstance(job.error, Exception):
            self._failed(job.error)

    # One layer in both networks

    def _compute_layer(self, name: str) -> tuple[go.Figure, go.Figure]:
        found = self.session.networks
        assert found is not None
        try:
            directions = found.pair.directions(name).figure(self.theme)
        except Refused as reason:
            directions = note_figure(str(reason), theme=self.theme)
        return found.pair.layer(name).figure(self.theme), directions

    def _show_layer(self, figures: tuple[go.Figure, go.Figure]) -> None:
        self.difference.show(figures[0])
        self.directions.show(figures[1])

    def _failed(self, error: Exception) -> None:
        text = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        self._say(text, wrong=True)

    def _say(self, text: str, wrong: bool = False) -> None:
        self.said.value = line(text, wrong)


def about(session: Session, wrong: str = "") -> str:
    """What stands here before anything was compared: what it is, and what to type."""
    model = session.model
    what = (
        "Trainings of one network from other seeds end with their hidden units in other orders. So the mean of their "
        "weights is no network: on the straight line between them the loss rises to a barrier. Matching the units "
        "takes it away, or a part of it, and changes neither network's answers."
    )
    if wrong:
        return f"<p>{what}</p><p>{line(f'{model.name} cannot be compared: {wrong}', wrong=True)}</p>"
    how = (
        f"Type the name or the folder of another training of {escape(model.name)}, or choose one, and press align. "
        "With several, separated by commas or lines, the mean of all is taken too. "
        f"Nothing is loaded before; matching two takes about {size(memory(model))} of memory."
    )
    return f"<p>{what}</p><p>{how}</p>"


def in_words(pair: TwoNetworks) -> str:
    """The barrier before and after, and the middle of the line."""
    before, after = pair.barriers["naive"], pair.barriers["matched"]
    middle, ends = pair.middle_accuracy, pair.lines["naive"]["accuracy"].to_numpy()
    return (
        f"<div><b>barrier {number(before)} → {number(after)} nats</b> · half way {percent(middle['naive'])} → "
        f"{percent(middle['matched'])} right, {escape(pair.a.name)} {percent(ends[0])}, {escape(pair.b.name)} "
        f"{percent(ends[-1])} · on {escape(pair.data.what)}</div>"
    )


def mean_in_words(merged: MergedNetworks) -> str:
    """Plain mean and matched mean of several."""
    plain, matched = (merged.table.iloc[place] for place in (-2, -1))
    return (
        f"<div><b>mean of {len(merged.models)} networks: {percent(plain['accuracy'])} → "
        f"{percent(matched['accuracy'])} right</b>, loss {number(plain['loss'])} → {number(matched['loss'])} nats · "
        f"squared distances to the mean {number(merged.spread[0])} → {number(merged.spread[-1])}</div>"
    )


def mean_table(merged: MergedNetworks) -> str:
    """Loss and accuracy of each network and of both means."""
    right = " class='wb-right-aligned'"
    rows = "".join(
        f"<tr><td>{escape(row['network'])}</td><td{right}>{number(row['loss'], 4)}</td>"
        f"<td{right}>{percent(row['accuracy'])}</td></tr>"
        for row in merged.table.to_dict("records")
    )
    titles = {name: escape(MERGE_COLUMNS[name]) for name in MERGE_COLUMNS}
    return (
        f"<table class='wb-speed-table'><tr><th title='{titles['network']}'>network</th>"
        f"<th{right} title='{titles['loss']}'>cross-entropy, nats</th>"
        f"<th{right} title='{titles['accuracy']}'>right</th></tr>{rows}</table>"
    )


def _cells(row: dict[Any, Any]) -> list[str]:
    """One layer: distances in four digits that matter, shares in per cent, R to three places."""
    cells = [str(row["name"]), number(row["distance_before"], 4), number(row["distance_after"], 4)]
    cells.append(percent(row["reduction"]))
    return [*cells, *(_score(row[key]) for key in ("r_before", "r_after", "leading_before", "leading_after"))]


def _score(value: float) -> str:
    """R, with a minus sign that is as wide as a plus; a dash where there are no directions."""
    rounded = round(value, 3) + 0.0  # no -0.000
    return "–" if value != value else f"{rounded:.3f}".replace("-", "−")
