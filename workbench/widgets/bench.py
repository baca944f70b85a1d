"""Bench: the instrument. A view of a `Session`; every control calls it, every picture comes from it.

Nothing is computed in a callback: the selected layer is worked on by `Latest` (a newer setting replaces an older
one), Apply by a `Job`. The frame is drawn at once and the rest as it becomes known.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import ipywidgets as ipw
from torch import nn

from ..engine import Recipe
from ..errors import Refused
from ..figures import note_figure
from ..figures.convergence import curves_figure
from ..inspect import CURVES, MAP_MEASURES, Answer, ErrorMap, Session, Tile
from ..jobs import Cancelled, Job, Latest
from ..measure import Evaluation
from ..methods import Method
from ..model import Model
from .controls import MethodControls
from .error_map import ErrorMapView
from .header import Header
from .job_view import JobView
from .model_map import ModelMap
from .numbers import layer_numbers, model_numbers
from .parts import column, shortened
from .plot import Plot
from .results import Results
from .speed import SpeedView

SPECTRAL = ("spectrum", "density", "error spectrum")
LIVE_SPECTRUM = 2048  # smaller dimension up to which the spectrum follows the sliders
MAP_NAMES = {
    "method": "error of the method",
    "variant": "error of the variant",
    "bits": "bits of the variant",
    "rms": "size of the weights",
    "parameters": "number of weights",
}


class Bench(ipw.VBox):
    """The bench for a model: `Bench("tiny-llama")`, or anything that `workbench.load` takes, or a Session.

    `session` is the headless object behind it, which scripts may drive and read; `data` is what quality is
    measured on.
    """

    def __init__(
        self,
        model: Model | Session | str | os.PathLike | nn.Module,
        data: Evaluation | None = None,
        layer: str | None = None,
        method: Method | None = None,
    ):
        from ..files.load import load

        self.session = model if isinstance(model, Session) else Session(load(model), data, layer, method)
        self.theme = "light"
        self._numbers: dict[str, float | None] = {}
        self._followed: Method | None = None  # the method that map and plan are of
        self._build()
        self._connect()
        super().__init__([self.header, self.frame, self.speed.drawer, self.results])
        self.add_class("wb-bench")
        self._show_history()
        self._select()
        self._set_method(self.session.method)
        self._background.request("base")

    def _repr_mimebundle_(self, **keywords: Any) -> dict[str, str]:
        """The live view, and beside it a static picture with its numbers for pages without a kernel."""
        bundle = super()._repr_mimebundle_(**keywords) or {}
        session = self.session
        bundle["text/plain"] = f"Bench of {session.model!r}, {session.layer.name} under {session.method!r}"
        if self.map_view.error_map is not None:
            picture = self.map_view.error_map.picture()
            bundle["text/html"] = (
                f"<div><b>{escape(session.model.name)}</b> · {escape(self.header.detail)}<br>"
                f"{escape(self.header.numbers)}<br>{escape(session.layer.name)} under {escape(repr(session.method))}: "
                f"|w' − w|<br><img width='480' alt='error map' src='{picture}'>{self.numbers.value}</div>"
            )
        return bundle

    # The frame

    def _build(self) -> None:
        session = self.session
        self.header = Header(self._act)
        self.map_choice = ipw.Dropdown(
            options=[(name, key) for key, name in MAP_NAMES.items()], value="method"
        )
        self.map_choice.tooltip = "what the map's colours mean"
        self.map = ModelMap(session.model, session.layer.name)
        self.layer_info = ipw.HTML()
        self.map_view = ErrorMapView(height=220)
        self.curve_choice = ipw.ToggleButtons(options=[*CURVES, "inputs", "speed"], value="spectrum")
        self.curve_choice.style.button_width = "auto"
        self.plot = Plot(height=176)
        self.speed = SpeedView(session=session)
        self.controls = MethodControls(session.method, self._set_method)
        self.numbers = ipw.HTML()
        self.selector = ipw.Combobox(
            options=self._selectors(), value="*", description="apply to", ensure_option=False,
            continuous_update=False,
        )  # fmt: skip
        self.plan = ipw.HTML()
        self.apply = ipw.Button(
            description="Apply", button_style="primary", tooltip="to the model, as a new variant"
        )
        self.pin = ipw.Button(description="Compare", tooltip="put this method beside others, under the bench")
        self.job = JobView()
        left = column("wb-left", self.map_choice, self.map, self.layer_info)
        middle = column("wb-middle", self.map_view, self.curve_choice, self.plot, self.speed)
        right = column(
            "wb-right", self.controls, self.numbers, self.selector, ipw.HBox([self.apply, self.pin]), self.job,
            self.plan,
        )  # fmt: skip
        self.frame = ipw.Box([left, middle, right])
        self.frame.add_class("wb-frame")
        self.results = Results(session, self._act)
        for widget, name in (
            (self.curve_choice, "wb-curves"),
            (self.numbers, "wb-numbers"),
            (self.layer_info, "wb-layer-info"),
            (self.map_choice, "wb-map-choice"),
            (self.selector, "wb-selector"),
            (self.plan, "wb-plan"),
            (self.apply, "wb-apply"),
            (self.pin, "wb-pin"),
        ):
            widget.add_class(name)

    def _connect(self) -> None:
        self._live = Latest(self._compute, self._show_live, self._failed, "live")
        self._curve = Latest(self._compute_curve, self.plot.show, self._failed, "curve")
        self._colours = Latest(self._compute_map, self._show_map, self._failed, "map")
        self._planner = Latest(self._compute_plan, self._show_plan, self._plan_failed, "plan")
        self._background = Latest(self._compute_base, self._show_base, self._failed, "base")
        self.map.observe(self._picked, "selected")
        self.map_choice.observe(lambda _change: self._colour(), "value")
        self.curve_choice.observe(lambda _change: self._draw_curve(), "value")
        self.selector.observe(self._selector_changed, "value")
        self.apply.on_click(lambda _button: self._apply())
        self.header.observe(self._themed, "dark")
        self.pin.on_click(lambda _button: self.results.pin())

    def _selectors(self) -> list[str]:
        roles = dict.fromkeys(layer.role for layer in self.session.model.layers)
        return [
            "*",
            *(f"role:{role}" for role in roles),
            *(layer.name for layer in self.session.model.layers),
        ]

    # The selected layer: live

    def _picked(self, change: dict) -> None:
        if change["new"] != self.session.layer.name:
            self.session.layer = change["new"]
            self._select()

    def _select(self) -> None:
        layer = self.session.layer
        self.map.selected = layer.name
        dtype = str(layer.dtype).removeprefix("torch.")
        note = f"<div>{escape(layer.note)}</div>" if layer.note else ""
        facts = f"{layer.shape[0]} × {layer.shape[1]} · {dtype} · role {layer.role}"
        self.layer_info.value = f"<b>{escape(layer.name)}</b><div>{facts}</div>{note}"
        self.speed.look((self.speed.shape[0], *layer.shape))
        self._update()
        self.results.look()

    def _set_method(self, method: Method) -> None:
        self.session.method = method
        self._update()

    def _follow(self) -> None:
        """The map and the plan under a changed method: after the pixels, for two cores are soon busy."""
        if self._followed is not self.session.method:
            self._followed = self.session.method
            if self.map_choice.value == "method":
                self._colour()
            self._planner.request(None)

    def _update(self) -> None:
        self._show_code()
        self.numbers.add_class("wb-stale")
        self._live.request(None)

    def _compute(self, _request: Any) -> Iterator[ErrorMap | Tile | Answer]:
        shown = self.session.error_map
        method = self.session.method
        if self.map_view.error_map is not shown:
            yield shown
        elif not method.needed and not method.judge(shown.shape).skip:
            yield from shown.previewed(method, None, *self.map_view.asked)
        self._curves: dict[str, list[float]] = {}
        for index, answer in enumerate(self.session.live(self._beat)):
            if index == 0:  # the pixels first: they are what the eye follows
                yield self.map_view.tile_now(shown)
            yield answer

    def _beat(self, done: int, total: int, values: Mapping[str, float]) -> None:
        """A step of a long optimisation: stop where nobody waits for it any more, else keep its curve."""
        if self._live.outdated:
            raise Cancelled("live")
        for name, value in values.items():
            self._curves.setdefault(name, []).append(value)
        if self.curve_choice.value == "convergence" and done % max(1, total // 20) == 0:
            self._curve.request("convergence")

    def _show_live(self, part: ErrorMap | Tile | Answer) -> None:
        if isinstance(part, Tile):
            self.map_view.send_tile(part)
        elif isinstance(part, ErrorMap):
            self.map_view.show(part)
        else:
            if "output_relative_error" not in part.numbers:  # the first answer: the weight has just changed
                self._draw_curve()
                self._follow()
            self.controls.refuse("")
            self.speed.take(part)
            # What is still being measured keeps its last value, in grey.
            self._numbers = {**self._numbers, **part.numbers}
            self.numbers.value = layer_numbers(self._numbers, self.session.why_not if self._knows_why else "")
            if "kl" in part.numbers or not self._runs_live:
                self.numbers.remove_class("wb-stale")

    @property
    def _knows_why(self) -> bool:
        # Asking would tokenize the evaluation text in a callback: only say what is known.
        return "why_not" in self.session.__dict__

    @property
    def _runs_live(self) -> bool:
        return not self._knows_why or self.session.runs_live

    def _failed(self, error: Exception) -> None:
        if isinstance(error, Cancelled):
            return
        text = str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}"
        self.controls.refuse(text)
        self._follow()

    # The lower view

    def _draw_curve(self) -> None:
        speed = self.curve_choice.value == "speed"
        curve = CURVES.get(str(self.curve_choice.value))
        if curve is not self.session.curve:
            self.session.curve = curve
            self._show_code()
        self.plot.layout.display = "none" if speed else None
        self.speed.layout.display = None if speed else "none"
        if not speed:
            self._curve.request(self.curve_choice.value)

    def _compute_curve(self, kind: str) -> Any:
        shown = self.session.error_map
        if kind in SPECTRAL and min(shown.shape) > LIVE_SPECTRUM:
            size = "{} × {}".format(*shown.shape)
            name = CURVES[kind].__name__
            return note_figure(
                f"{size}: too large to follow a slider; wb.{name}(w, compressed) takes a minute"
            )
        if kind == "inputs":
            return self._channels()
        if kind == "convergence" and self._curves and not shown.compressed.report:
            return curves_figure(self._curves, shown.name, theme=self.theme)
        return CURVES[kind](shown.w, shown.compressed, shown.name).figure(theme=self.theme)

    def _channels(self) -> Any:
        try:
            return self.session.channels().figure(theme=self.theme)
        except Refused as reason:
            return note_figure(str(reason), theme=self.theme)

    # The map of the model

    def _colour(self) -> None:
        self.map.caption = MAP_MEASURES[str(self.map_choice.value)]
        self._colours.request(str(self.map_choice.value))

    def _compute_map(self, measure: str) -> Iterator[dict[str, float | None]]:
        values: dict[str, float | None] = {}
        every = max(1, len(self.session.model.layers) // 12)
        for values in self.session.map_values(measure):
            if len(values) % every == 0 and self._colours.outdated:
                return
        yield dict(values)

    def _show_map(self, values: dict[str, float | None]) -> None:
        self.map.values = values

    # The model: plan, apply, history

    def _selector_changed(self, change: dict) -> None:
        self.session.selector = change["new"] or "*"
        self._planner.request(None)

    def _compute_plan(self, _request: Any) -> list[str]:
        return self.session.plan().describe()

    def _show_plan(self, lines: list[str]) -> None:
        self.apply.disabled = self.job.job is not None  # one at a time
        rest = (
            f"<details><summary>why</summary>{'<br>'.join(map(escape, lines[1:]))}</details>"
            if lines[1:]
            else ""
        )
        self.plan.value = f"{escape(lines[0])}{rest}"

    def _plan_failed(self, error: Exception) -> None:
        self.apply.disabled = True
        self.plan.value = f"<span class='wb-error' role='alert'>{escape(str(error))}</span>"

    def _apply(self, recipe: Recipe | None = None) -> None:
        try:
            job = self.session.apply(recipe)
        except Refused as reason:
            self._plan_failed(reason)
            return
        self.apply.disabled = True
        self.job.watch(job, self._applied)

    def _applied(self, job: Job) -> None:
        self.apply.disabled = False
        self._show_history()
        if isinstance(job.error, Exception) and job.state == "failed":
            self._failed(job.error)  # not in the plan's line, which is written anew

    def _act(self, action: str, value: Any = None) -> None:
        history = self.session.history
        if action == "look":
            self.map.selected = str(value)
            return
        if action == "apply":
            self._apply(value)
            return
        if action == "code":
            self._show_code()
            return
        if action == "go":
            history.go(int(value))
        elif action == "undo":
            history.undo()
        elif action == "redo":
            history.redo()
        else:
            return
        last = history.variant.recipe.steps[-1:]
        if last:
            self.controls.set(last[0].method)
            self.selector.value = last[0].layers
            self._set_method(last[0].method)
        self._show_history()

    def _show_history(self) -> None:
        history, model = self.session.history, self.session.model
        chips = []
        for index, variant in enumerate(history.variants):
            name = "base" if index == 0 else f"v{index} {variant.label}"
            chips.append({"label": shortened(name), "title": f"{name}\n{model_numbers(variant.measures)}"})
        code = self.session.code()
        with self.header.hold_sync():  # one message: a click must not copy the code of the variant before
            self.header.code = code
            self.header.title = model.name
            self.header.detail = f"{len(model.layers)} layers · {model.parameters / 1e6:.2f} M weights"
            self.header.chips, self.header.active = chips, history.active
            self.header.numbers = model_numbers(history.variant.measures)
            self.header.can_undo, self.header.can_redo = history.can_undo, history.can_redo
        self.results.show_tried()
        self.speed.offer()
        if self.map_choice.value in ("variant", "bits"):
            self._colour()
        self._planner.request(None)

    def _show_code(self) -> None:
        self.header.code = self.session.code()

    def _compute_base(self, _request: Any) -> str:
        if self.session.runs_live:
            self.session.measure_base()
        return self.session.why_not

    def _show_base(self, why_not: str) -> None:
        self._show_history()
        if why_not:
            self._update()

    def _themed(self, change: dict) -> None:
        self.theme = "dark" if change["new"] else "light"
        self._draw_curve()
        self.results.redraw(self.theme)
