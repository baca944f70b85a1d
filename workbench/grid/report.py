"""Report: what a method has to say of its run beside the weight: curves, facts, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Report:
    """`curves`: a name and its values step by step ("loss": [...]), shown as lines. `facts`: single numbers or words
    worth a line (a condition number, a chosen exponent). `warnings`: sentences for the person at the bench."""

    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    facts: Mapping[str, float | str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.curves or self.facts or self.warnings)

    def __add__(self, other: Report) -> Report:
        return Report(
            {**self.curves, **other.curves}, {**self.facts, **other.facts}, self.warnings + other.warnings
        )

    def warn(self, sentence: str) -> Report:
        """The same with one more warning."""
        return replace(self, warnings=(*self.warnings, sentence))
