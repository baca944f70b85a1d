"""Grids by name: what a file or a message that describes a grid becomes again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .grids import Grid


def grid_from(kind: str, **fields: Any) -> Grid:
    """The grid of the class `kind` with these fields; ValueError where there is no such class."""
    for found in _kinds(Grid):
        if found.__name__ == kind:
            return found(**fields)
    raise ValueError(f"no grid is called {kind!r}")


def _kinds(of: type[Grid]) -> Iterator[type[Grid]]:
    for kind in of.__subclasses__():
        yield kind
        yield from _kinds(kind)
