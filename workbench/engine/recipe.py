"""Recipe: ordered steps, each a method and a selector of layers; in Python and as YAML.

    label: four bits, eight where it hurts
    steps:
      - {method: rtn, layers: "*", bits: 4, group_size: 64}
      - {method: rtn, layers: "role:down", bits: 8}

The label is what chips and tables call it and may be left out.
Where selectors overlap, a later step of the same kind wins; a quantizer and a pruner compose: the codes of the
one under the mask of the other, in the order given.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import Refused, near
from ..methods import METHODS, Method


@dataclass(frozen=True)
class Step:
    """A method and the layers it is for: globs and roles ("role:down"), separated by commas."""

    method: Method
    layers: str = "*"

    def __repr__(self) -> str:
        return repr(self.method) if self.layers == "*" else f"Step({self.method!r}, {self.layers!r})"


KEYS = ("label", "steps")  # of a recipe as YAML
SHOWN = 2  # selectors of a step, and steps of a recipe of many, that a label names


class Recipe:
    """Ordered steps. `Recipe([RTN(bits=4), Step(RTN(bits=8), "role:down")])`; equal where the steps are. `label`: a
    short name; without one the steps are named."""

    def __init__(self, steps: Iterable[Step | Method] | Step | Method = (), *, label: str = ""):
        if isinstance(steps, Step | Method):
            steps = [steps]
        self.steps = tuple(step if isinstance(step, Step) else Step(step) for step in steps)
        for step in self.steps:
            if not isinstance(step.method, Method):
                raise Refused(f"a step of a recipe is a method such as RTN(bits=4), not {step.method!r}")
        self._label = " ".join(label.split())

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.steps == other.steps

    def __hash__(self) -> int:
        return hash(repr(self.steps))  # the label is no part of what is equal

    def __repr__(self) -> str:
        named = f", label={self._label!r}" if self._label else ""
        return f"Recipe([{', '.join(map(repr, self.steps))}]{named})"

    def __add__(self, other: Recipe) -> Recipe:
        named = (
            " + ".join(each.label for each in (self, other) if each) if self._label or other._label else ""
        )
        return Recipe([*self.steps, *other.steps], label=named)

    @property
    def named(self) -> bool:
        """Whether the label was given, and not made of the steps."""
        return bool(self._label)

    @property
    def label(self) -> str:
        """What a chip shows."""
        if self._label:
            return self._label
        parts = [s.method.label + ("" if s.layers == "*" else f" on {_short(s.layers)}") for s in self.steps]
        if len(parts) > 2 * SHOWN:
            parts = [*parts[:SHOWN], f"{len(parts) - SHOWN} more steps"]
        return " + ".join(parts) or "base"

    def to_yaml(self) -> str:
        """The recipe as YAML; `from_yaml` gives an equal one back."""
        steps = [
            {"method": s.method.name, "layers": s.layers, **_plain(s.method.parameters())} for s in self.steps
        ]
        lines = [
            yaml.safe_dump(step, default_flow_style=True, sort_keys=False, width=10**6) for step in steps
        ]
        named = yaml.safe_dump({"label": self._label}, allow_unicode=True, width=10**6) if self._label else ""
        return named + (
            "steps:\n" + "".join(f"  - {line.strip()}\n" for line in lines) if steps else "steps: []\n"
        )

    @classmethod
    def from_yaml(cls, text: str, where: str = "recipe") -> Recipe:
        """Refused, naming the line of `where`, for what is no recipe."""
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f", line {mark.line + 1}" if mark else ""
            reason = getattr(error, "problem", None) or " ".join(str(error).split())
            raise Refused(f"{where}{line}: not YAML ({reason})") from None
        if not isinstance(root, yaml.MappingNode):
            raise Refused(f"{where}: a recipe is a mapping with the key 'steps', a list of methods")
        keys = {_word(key): (key, value) for key, value in root.value}
        unknown = [key for key in keys if key not in KEYS]
        if unknown or "steps" not in keys:
            word, line = (unknown[0], keys[unknown[0]][0].start_mark.line + 1) if unknown else ("steps", 1)
            what = f"unknown key {word!r}{near(word, KEYS)}" if unknown else "the key 'steps' is missing"
            raise Refused(f"{where}, line {line}: {what}")
        listed = keys["steps"][1]
        if not isinstance(listed, yaml.SequenceNode):
            raise Refused(f"{where}, line {listed.start_mark.line + 1}: 'steps' is a list")
        label = keys["label"][1] if "label" in keys else yaml.ScalarNode("", "")
        if label.tag == "tag:yaml.org,2002:null":
            label = yaml.ScalarNode("", "")
        if not isinstance(label, yaml.ScalarNode):
            raise Refused(f"{where}, line {label.start_mark.line + 1}: 'label' is a short text")
        return cls((_step(node, where) for node in listed.value), label=str(label.value))

    def save(self, path: str | os.PathLike) -> None:
        """Write as YAML, atomically."""
        target = Path(path)
        beside = target.with_name(target.name + ".part")
        beside.write_text(self.to_yaml(), "utf-8")
        os.replace(beside, target)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Recipe:
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise Refused(
                f"the recipe {os.fspath(path)} cannot be read: {reason}; give a YAML file with 'steps'"
            ) from None
        return cls.from_yaml(text, os.fspath(path))


def _short(layers: str) -> str:
    """A selector as it is shown: the first of a long list and how many more."""
    parts = [part.strip() for part in layers.split(",")]
    return layers if len(parts) <= SHOWN else f"{parts[0]} and {len(parts) - 1} more"


def _step(node: yaml.Node, where: str) -> Step:
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise Refused(f"{where}, line {line}: a step is a mapping such as {{method: rtn, bits: 4}}")
    loader = yaml.SafeLoader("")
    values: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key, value in node.value:
        lines[_word(key)] = key.start_mark.line + 1
        try:
            values[_word(key)] = loader.construct_object(value, deep=True)
        except (yaml.YAMLError, ValueError) as error:  # a tag that names an object, a date that is none
            reason = getattr(error, "problem", None) or error
            raise Refused(
                f"{where}, line {value.start_mark.line + 1}: not a plain value ({reason})"
            ) from None
    name, layers = values.pop("method", None), values.pop("layers", "*")
    if name is None:
        raise Refused(f"{where}, line {line}: the step names no method{near('', METHODS)}")
    if not isinstance(name, str) or name not in METHODS:
        raise Refused(
            f"{where}, line {lines['method']}: no method is called {name!r}{near(str(name), METHODS)}"
        )
    if isinstance(layers, list):
        layers = ", ".join(map(str, layers))
    if not isinstance(layers, str):
        raise Refused(
            f"{where}, line {lines['layers']}: layers is a glob or a role in quotes, not {layers!r}"
        )
    try:
        return Step(METHODS[name](**values), layers)
    except Refused as error:
        # The line of the field that the message names, else of the step.
        named = [lines[key] for key in values if f"'{key}'" in str(error) or f" {key} =" in str(error)]
        raise Refused(f"{where}, line {named[0] if named else line}: {error}") from None


def _word(key: yaml.Node) -> str:
    """A key as it is said in messages."""
    return str(key.value) if isinstance(key, yaml.ScalarNode) else "a list or mapping"


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in parameters.items()}
