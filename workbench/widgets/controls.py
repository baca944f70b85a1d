"""The controls of a method, made from its fields: nothing is written by hand for any method."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ipywidgets as ipw

from ..errors import Refused
from ..methods import METHODS, Method, Parameter, parameters_of

_WIDE = {"width": "100%"}
ORDER = ("quantize", "prune", "transform", "activation", "correct")  # of the methods in the list


class MethodControls(ipw.VBox):
    """A choice of method and its parameters. `method` is the one that is set; `hear(method)` is called on changes,
    and a value that is not possible is said beside the controls instead."""

    def __init__(self, method: Method, hear: Callable[[Method], None]):
        self._hear, self._quiet = hear, False
        self.method = method
        self._remembered: dict[str, Method] = {method.name: method}
        self.choice = ipw.Dropdown(
            options=sorted(METHODS, key=lambda name: (ORDER.index(METHODS[name].kind), name)),
            value=method.name,
            description="method",
            layout=_WIDE,
            tooltip=method.summary,
        )
        self.choice.add_class("wb-method")
        self.more = ipw.ToggleButton(
            value=False, description="more", tooltip="parameters that are seldom changed"
        )
        self.more.add_class("wb-more")
        self.more.observe(lambda _change: self._arrange(), "value")
        self.error = ipw.HTML()
        self.error.add_class("wb-error")
        self.fields: dict[str, Any] = {}
        self._parameters: dict[str, Parameter] = {}
        self.choice.observe(self._switched, "value")
        super().__init__()
        self.add_class("wb-controls")
        self._build()

    def set(self, method: Method) -> None:
        """Show another method without telling anyone."""
        self._quiet = True
        self.method = self._remembered[method.name] = method
        self.choice.value = method.name
        self.choice.tooltip = method.summary
        self._build()
        self._quiet = False

    def refuse(self, text: str) -> None:
        """Say beside the controls what is not possible; empty takes it back."""
        self.error.value = f"<span role='alert'>{_escaped(text)}</span>" if text else ""

    def _build(self) -> None:
        self.fields, self._parameters = {}, {p.name: p for p in parameters_of(type(self.method))}
        for name, parameter in self._parameters.items():
            if len(parameter.choices) == 1:  # nothing to choose
                continue
            field = _control(parameter, getattr(self.method, name))
            field.add_class(f"wb-field-{name}")
            field.observe(self._changed, "value")
            self.fields[name] = field
        first = [field for name, field in self.fields.items() if not self._parameters[name].more]
        rest = [field for name, field in self.fields.items() if self._parameters[name].more]
        self._arrange()
        self.children = [self.choice, *first, *([self.more, *rest] if rest else []), self.error]

    def _arrange(self) -> None:
        """Hide the fields that do not matter under the values of others."""
        for name in self.fields:
            parameter = self._parameters[name]
            matters = all(getattr(self.method, other) in values for other, values in parameter.where.items())
            shown = matters and (self.more.value or not parameter.more)
            self.fields[name].layout.display = None if shown else "none"

    def _switched(self, change: dict) -> None:
        if self._quiet:
            return
        name = change["new"]
        self.method = self._remembered.get(name) or METHODS[name]()
        self.choice.tooltip = self.method.summary
        self._build()
        self.refuse("")
        self._hear(self.method)

    def _changed(self, _change: dict) -> None:
        if self._quiet:
            return
        try:
            self.method = self.method.with_(**{name: field.value for name, field in self.fields.items()})
        except Refused as reason:
            self.refuse(str(reason))
            return
        self._remembered[self.method.name] = self.method
        self.refuse("")
        self._arrange()
        self._hear(self.method)


def _control(parameter: Parameter, value: Any) -> Any:
    """The control of one parameter: a slider where it is bounded, stops where those are named, else a choice."""
    label = parameter.name.replace("_", " ")
    common = {"description": label, "tooltip": f"{parameter.name}: {parameter.help}", "layout": _WIDE}
    if parameter.type == "bool":
        return ipw.Checkbox(value=value, indent=False, **common)
    if parameter.stops:
        stops = (
            list(parameter.stops)
            if value in parameter.stops
            else sorted([*parameter.stops, value], key=lambda stop: stop if stop >= 0 else math.inf)
        )
        names = [("row" if stop == -1 else str(stop), stop) for stop in stops]
        return ipw.SelectionSlider(options=names, value=value, **common)
    if parameter.type == "choice":
        names = [(_choice_name(choice), choice) for choice in parameter.choices]
        if value not in parameter.choices:
            names.append((_choice_name(value), value))
        return ipw.Dropdown(options=names, value=value, **common)
    if parameter.type == "int":
        return ipw.IntSlider(
            value=value, min=int(parameter.low or 0), max=int(parameter.high or 100), **common
        )
    low, high = float(parameter.low or 0.0), float(1.0 if parameter.high is None else parameter.high)
    return ipw.FloatSlider(
        value=value, min=low, max=high, step=(high - low) / 100, readout_format=".2f", **common
    )


def _choice_name(value: Any) -> str:
    if value is None:
        return "no"
    return ":".join(map(str, value)) if isinstance(value, tuple) else str(value).replace("_", " ")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
