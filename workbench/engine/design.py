"""Design: one point of the space of number formats, and the recipe that makes it.

Equalization and SmoothQuant, then the weights, then the layers' inputs, then bias correction: the order of brevitas'
PTQ example, whose defaults these are (inputs per tensor, static, symmetric, percentile 99.999; first and last layer
8 bits, E3M4 for floats). Aggarwal et al. 2023, "Shedding the Bits", points to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import Refused, near
from ..methods import METHODS, Method
from .recipe import Recipe, Step

INTS = tuple(f"int{bits}" for bits in range(3, 9))
FLOATS = tuple(f"e{e}m{bits - 1 - e}" for bits in range(3, 9) for e in range(1, bits))
FORMATS = (*INTS, *FLOATS)
TRANSFORMS, ROUNDINGS, CORRECTIONS = ("equalize", "smoothquant"), ("gptq", "adaround"), ("bias-correction",)
HELPERS = (*TRANSFORMS, *ROUNDINGS, *CORRECTIONS)


@dataclass(frozen=True)
class Design:
    """A format for the weights, one for the layers' inputs (None: float), and helpers by their methods' names."""

    weight: str
    activation: str | None
    helpers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in filter(None, (self.weight, self.activation)):
            if name not in FORMATS:
                raise Refused(f"{name!r} is no format of a design space{near(name, FORMATS)}")
        if unknown := [name for name in self.helpers if name not in HELPERS]:
            raise Refused(f"{unknown[0]!r} is no helper{near(unknown[0], HELPERS)}")
        if len(roundings := [name for name in self.helpers if name in ROUNDINGS]) > 1:
            raise Refused(f"{' and '.join(roundings)} both round the weights: take one of them")

    @property
    def kind(self) -> Literal["int", "float", "mixed"]:
        weight, activation = (is_int(name or self.weight) for name in (self.weight, self.activation))
        return "mixed" if weight != activation else "int" if weight else "float"

    @property
    def label(self) -> str:
        return " + ".join((f"{self.weight} / {self.activation or 'float'}", *self.helpers))

    def at_8_bits(self) -> Design:
        """The same with 8 bits: what the first and the last layer get."""
        weight, activation = (
            name and ("int8" if is_int(name) else "e3m4") for name in (self.weight, self.activation)
        )
        return Design(str(weight), activation, self.helpers)


def is_int(name: str) -> bool:
    return name.startswith("int")


@dataclass(frozen=True)
class Designer:
    """What all designs of a space share: who shares a weight's scale, the layers that are kept at 8 bits (none, or the
    first and the last), parameters of methods by name."""

    granularity: Literal["tensor", "channel"] = "tensor"
    ends: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def recipe(self, design: Design) -> Recipe:
        steps: list[Step] = []
        for name in (each for each in TRANSFORMS if each in design.helpers):
            steps += self._everywhere(self._method(name))
        steps += [Step(self._rounding(design)), *self._at_ends(self._rounding(design.at_8_bits()))]
        if design.activation is not None:
            steps += [Step(self._inputs(design)), *self._at_ends(self._inputs(design.at_8_bits()))]
        for name in (each for each in CORRECTIONS if each in design.helpers):
            steps += self._everywhere(self._method(name))
        return Recipe(steps)

    def _everywhere(self, method: Method) -> list[Step]:
        # "*" leaves a head alone, which is one of the ends.
        return [Step(method), *self._at_ends(method)]

    def _at_ends(self, method: Method) -> list[Step]:
        return [Step(method, ", ".join(self.ends))] if self.ends else []

    def _rounding(self, design: Design) -> Method:
        name = next((each for each in design.helpers if each in ROUNDINGS), "rtn")
        return self._method(name, granularity=self.granularity, **_format(design.weight))

    def _inputs(self, design: Design) -> Method:
        static = {"granularity": "tensor", "range": "percentile", "percentile": 99.999}
        return self._method("activations", **static, **_format(str(design.activation)))

    def _method(self, name: str, **fields: Any) -> Method:
        return METHODS[name](**{**fields, **self.options.get(name, {})})


def _format(name: str) -> dict[str, Any]:
    """The fields of a method for a format by its name here: int4 is format int with 4 bits."""
    return {"format": "int", "bits": int(name[3:]), "symmetric": True} if is_int(name) else {"format": name}
