"""The tables of methods in README.md, made from the registry: a new method needs no line of prose."""

from __future__ import annotations

from ..grid import Scheme
from .base import KINDS, METHODS, Method, Parameter, parameters_of

GRID = "those of the grid"


def method_table() -> str:
    """Markdown, one row a method: its class, what it does, its own parameters with defaults and bounds, its source;
    in the order in which kinds work on a layer."""
    head = ["| method | in Python | kind | what it does | parameters (default; bounds) | needs | source |"]
    return "\n".join([*head, "|---|---|---|---|---|---|---|", *map(_row, _sorted())])


def grid_table() -> str:
    """Markdown, one row a parameter of the grid, which all methods share that round."""
    head = ["| parameter of the grid | default | values | what it is |", "|---|---|---|---|"]
    rows = (f"| `{p.name}` | {_default(p)} | {p.bounds} | {p.help} |" for p in parameters_of(Scheme))
    return "\n".join([*head, *rows])


def _sorted() -> list[type[Method]]:
    return sorted((METHODS[name] for name in METHODS), key=lambda method: KINDS.index(method.kind))


def own_parameters(method: type[Method]) -> list[Parameter]:
    """Without those that are as in every grid."""
    shared = parameters_of(Scheme) if issubclass(method, Scheme) else []
    return [parameter for parameter in parameters_of(method) if parameter not in shared]


def _row(method: type[Method]) -> str:
    cells = [
        f"`{method.name}`",
        f"`wb.{method.__name__}`",
        method.kind,
        method.summary,
        "<br>".join(
            [*([GRID] if issubclass(method, Scheme) else []), *map(_parameter, own_parameters(method))]
        ),
        ", ".join(sorted(method().needed)) or "weights only",
        method.source,
    ]
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _parameter(parameter: Parameter) -> str:
    """`bits` (4; 2 to 8)"""
    return f"`{parameter.name}` ({_default(parameter)}; {parameter.bounds})"


def _default(parameter: Parameter) -> str:
    """As in a recipe."""
    return str(parameter.default).lower() if parameter.type == "bool" else str(parameter.default)
