"""Small parts that several views are made of."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

import ipywidgets as ipw


def line(text: str, wrong: bool = False) -> str:
    """One line of text; what is wrong in red, and read out at once."""
    kind = " class='wb-error' role='alert'" if wrong else ""
    return f"<span{kind}>{escape(text)}</span>"


def small_button(name: str, tooltip: str, call: Callable[[], None]) -> ipw.Button:
    """A button of a line of tools."""
    button = ipw.Button(description=name, tooltip=tooltip)
    button.add_class("wb-small")
    button.on_click(lambda _button: call())
    return button


def column(name: str, *children: ipw.Widget) -> ipw.VBox:
    """Widgets one below the other, with a class of the style sheet."""
    box = ipw.VBox(list(children))
    box.add_class(name)
    return box


def shortened(text: str, most: int = 34) -> str:
    """At most so many characters; what is cut is said by an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "…"
