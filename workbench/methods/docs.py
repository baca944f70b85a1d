"""The table of methods in README.md, made from the registry: a new method needs no line of prose."""

from __future__ import annotations

from .base import METHODS, Method, Parameter, parameters_of


def method_table() -> str:
    """Markdown, one row a method: its class, what it does, its parameters with defaults and bounds, its source."""
    head = ["| method | in Python | kind | what it does | parameters (default; bounds) | needs | source |"]
    return "\n".join([*head, "|---|---|---|---|---|---|---|", *(_row(METHODS[name]) for name in METHODS)])


def _row(method: type[Method]) -> str:
    cells = [
        f"`{method.name}`",
        f"`wb.{method.__name__}`",
        method.kind,
        method.summary,
        "<br>".join(_parameter(parameter) for parameter in parameters_of(method)),
        ", ".join(sorted(method.needs)) or "weights only",
        method.source,
    ]
    escaped = (cell.replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"


def _parameter(parameter: Parameter) -> str:
    """`bits` (4; 2 to 8)"""
    default = str(parameter.default)
    default = default.lower() if parameter.type == "bool" else default  # as in a recipe
    return f"`{parameter.name}` ({default}; {parameter.bounds})"
