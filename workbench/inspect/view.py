"""How an inspector shows itself: live where the widgets are installed, as a static figure where they are not.

The views register themselves by the inspector's class name, so that this room needs to know no widget.
"""

from __future__ import annotations

from typing import Any

from ..registry import Registry

VIEWS = Registry("view", "workbench.widgets")


class Viewable:
    """Gives `widget()` and a picture in a cell to a class that has `figure(theme=...)`."""

    def figure(self, theme: str = "light") -> Any:
        raise TypeError(f"{type(self).__name__} has no figure")

    def widget(self) -> Any:
        """The live view, to be displayed or put into a layout."""
        name = next(kind.__name__ for kind in type(self).__mro__ if kind.__name__ in VIEWS)
        return VIEWS[name](self)

    def _repr_mimebundle_(self, **keywords: Any) -> Any:
        try:
            view = self.widget()
        except ImportError:  # ipywidgets is not installed
            view = self.figure()
        return view._repr_mimebundle_(**keywords)
